"""Sampling against model compute: pairs of models, the front, the compute for a target."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from report_runs import result, sample_run

from dit_eval.flops.kept import Count
from dit_eval.report.points import measured_points
from dit_eval.report.sampling import compare_pairs, compute_for_target, pareto_front
from dit_eval.report.setting import settings


def sweep(**models):
    """Points of models, each with its Gflops and {sampling steps: FID}."""
    results = []
    for model, (gflops, fids) in models.items():
        for steps, fid in fids.items():
            run = dataclasses.replace(
                sample_run(num_sampling_steps=str(steps)), model=model, network={"gflops": gflops}
            )
            results.append(("line", result(run, fid, num_samples=10_000)))
    return measured_points(results, count=lambda network: Count(gflops=network["gflops"], params_m=1.0))


def test_a_smaller_model_that_never_reaches_the_larger():
    points = sweep(small=(10.0, {100: 40.0, 400: 30.0}), large=(100.0, {10: 50.0, 20: 25.0}))
    (verdict,) = compare_pairs(points)
    assert (verdict.small, verdict.large) == ("small", "large")
    assert not verdict.reaches
    assert verdict.ahead_until == 1.0, "at 1 Tflops 40 against 50; from 2 on the larger has 25"
    assert verdict.overtaken_at == 2.0
    assert verdict.saving == pytest.approx(2.0), "4 Tflops for 30, 2 Tflops for better"
    assert "No number of steps evaluated brings small" in verdict.sentence()
    assert "2.0 times less" in verdict.sentence()


def test_a_smaller_model_that_does():
    points = sweep(small=(10.0, {100: 20.0}), large=(100.0, {10: 30.0, 1000: 20.0}))
    (verdict,) = compare_pairs(points)
    assert verdict.reaches
    assert verdict.ahead_until == 100.0
    assert verdict.overtaken_at is None
    assert "small reaches the best FID of large" in verdict.sentence()


def test_the_papers_pair(papers):
    (verdict,) = compare_pairs(papers.sweep)
    assert (verdict.small, verdict.large, verdict.source) == ("DiT-L/2", "DiT-XL/2", "paper")
    assert not verdict.reaches
    assert verdict.ahead_until is None
    assert verdict.saving == pytest.approx(80.71 / 15.186, abs=1e-3)


def test_the_front_and_the_compute_for_a_target():
    points = sweep(a=(1.0, {100: 50.0, 200: 40.0, 400: 41.0}), b=(10.0, {30: 39.0, 100: 30.0}))
    assert pareto_front(points)["fid"].tolist() == [50.0, 40.0, 39.0, 30.0]
    table = compute_for_target(points, 40.0).set_index("model")
    assert table["tflops"].to_dict() == {"a": pytest.approx(0.2), "b": pytest.approx(0.3)}
    missed = compute_for_target(points, 35.0).set_index("model")
    assert np.isnan(missed.loc["a", "tflops"])
    assert missed.loc["b", "sampling_steps"] == 100


def test_published_and_measured_points_are_analysed_apart(together):
    verdicts = compare_pairs(settings(together)[0].sweep)
    assert Counter(v.source for v in verdicts) == {"paper": 1, "measured": 6}
    (paper,) = [v for v in verdicts if v.source == "paper"]
    assert (paper.small_best, paper.large_best) == (25.9, 23.7)
