"""The scaling law counted by hand, exceptions included."""

import dataclasses

import numpy as np
import pandas
import pytest
from report_runs import MINI_STEPS, MINI_SWEEP, mini_gflops, mini_results, mini_run, result

from dit_eval.flops.kept import Count
from dit_eval.report.law import correlations, patch_order, scaling_law, size_order, training_order
from dit_eval.report.points import measured_points, published_points
from dit_eval.report.setting import select, settings
from dit_eval.report.tables import analysis as tables


def points_of(*cells, **changes):
    """Points of (model, training steps, FID), with changes of the run; all Gflops as of the network."""
    runs = [(mini_run(model, training_steps=steps, **changes), fid) for model, steps, fid in cells]
    return measured([result(run, fid, num_samples=500, protocol="digits") for run, fid in runs])


def measured(results):
    lines = [(f"results.jsonl, line {n}", r) for n, r in enumerate(results, start=1)]
    return measured_points(lines, count=lambda network: Count(gflops=mini_gflops(network), params_m=0.1))


def setting_of(points):
    (own,) = [s for s in settings(pandas.concat([published_points(), points])) if not s.is_papers]
    return own


def test_correlation_at_each_training_length():
    points = points_of(
        ("mini-S/4", 200, 90.0), ("mini-B/4", 200, 70.0),
        ("mini-S/4", 800, 60.0), ("mini-B/4", 800, 41.0), ("mini-L/4", 800, 44.0), ("mini-XL/4", 800, 30.0),
    )  # fmt: skip
    short, long = correlations(points)
    assert (short.training_steps, short.models, short.r) == (200, 2, None)
    own = select(points, training_steps=800.0)
    assert (long.training_steps, long.models) == (800, 4)
    assert long.r == pytest.approx(np.corrcoef(np.log(own["gflops"]), own["fid"])[0, 1], abs=1e-12)
    level = points_of(*((f"mini-{size}/4", 800, 50.0) for size in "SBL"))
    assert correlations(level)[0].r is None, "FID that does not vary correlates with nothing"


def test_sizes_are_compared_where_all_else_is_equal():
    points = points_of(
        ("mini-S/4", 800, 60.0), ("mini-B/4", 800, 29.8), ("mini-L/4", 800, 31.2), ("mini-XL/4", 800, 25.0),
        ("mini-S/2", 800, 50.0), ("mini-L/2", 800, 20.0),  # not adjacent
        ("mini-S/1", 400, 50.0), ("mini-B/1", 800, 20.0),  # not trained equally long
    )  # fmt: skip
    order = size_order(points)
    assert (order.held, order.total) == (2, 3)
    (exception,) = order.exceptions
    assert exception.text() == "mini-L/4 (31.2) above mini-B/4 (29.8) at 800 steps, 64 sampling steps"
    assert {step: (part.held, part.total) for step, part in order.by_step().items()} == {
        "S to B": (1, 1), "B to L": (0, 1), "L to XL": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"num_sampling_steps": "32"},
        {"cfg_scale": 1.5, "cfg_channels": 1},
        {"global_seed": 1},
        {"sampler": "ddim"},
        {"block": "adaln"},
        {"training_batch_size": 32},
    ],
)
def test_points_that_differ_otherwise_are_no_pair(change):
    small, large = points_of(("mini-S/4", 800, 60.0)), points_of(("mini-B/4", 800, 70.0), **change)
    assert size_order(pandas.concat([small, large])).total == 0
    assert size_order(pandas.concat([small, points_of(("mini-B/4", 800, 70.0))])).total == 1
    later = points_of(("mini-S/4", 900, 50.0), **change)
    assert training_order(pandas.concat([small, later])).total == 0


def test_families_protocols_and_counts_of_samples_are_not_compared():
    cells = [("mini-S/4", {}), ("tiny-B/4", {}), ("mini-B/4", {"num_samples": 1000}), ("mini-B/4", {"protocol": "x"})]
    results = [
        result(
            dataclasses.replace(mini_run("mini-S/4"), model=model),
            9.0,
            **{"num_samples": 500, "protocol": "digits"} | change,
        )
        for model, change in cells
    ]
    points = measured(results)
    assert points["family"].tolist() == ["mini", "tiny", "mini", "mini"]
    assert size_order(points).total == 0


def test_patches_and_training_are_compared_too():
    points = points_of(
        ("mini-B/4", 100, 80.0), ("mini-B/4", 400, 60.0), ("mini-B/4", 800, 60.0),
        ("mini-B/2", 400, 61.0), ("mini-B/2", 800, 40.0), ("mini-B/1", 800, 30.0), ("mini-S/1", 800, 20.0),
    )  # fmt: skip
    patches = patch_order(points)
    assert (patches.held, patches.total) == (2, 3)
    assert [pair.text() for pair in patches.exceptions] == [
        "mini-B/2 (61.0) above mini-B/4 (60.0) at 400 steps, 64 sampling steps"
    ]
    assert list(patches.by_step()) == ["4 to 2", "2 to 1"]
    training = training_order(points)
    assert (training.held, training.total) == (2, 3)
    assert [pair.text() for pair in training.exceptions] == [
        "mini-B/4 at 800 steps (60.0) level with 400 steps (60.0), 64 sampling steps"
    ]
    assert [pair.step for pair in training.pairs] == ["100 to 400", "400 to 800", "400 to 800"]


def test_a_close_exception_shows_digits_that_differ_and_what_it_is_of():
    one = points_of(("mini-S/4", 800, 30.0), ("mini-B/4", 800, 30.004), cfg_scale=1.5, cfg_channels=1)
    two = points_of(("mini-S/4", 800, 30.0), ("mini-B/4", 800, 29.0), global_seed=3)
    (exception,) = size_order(pandas.concat([one, two])).exceptions
    assert exception.text() == (
        "mini-B/4 (30.004) above mini-S/4 (30.000) at 800 steps, 64 sampling steps, guidance 1.5, seed 0"
    )


def test_of_a_point_measured_twice_the_later_counts():
    points = points_of(("mini-S/4", 800, 30.0), ("mini-B/4", 800, 40.0), ("mini-B/4", 800, 20.0))
    order = size_order(points)
    assert (order.held, order.total) == (1, 1)


def test_what_is_not_known_to_be_equal_is_not_compared():
    points = points_of(("mini-S/4", 800, 30.0), ("mini-B/4", 800, 40.0))
    assert size_order(points).total == 1
    assert size_order(points.assign(training_steps=np.nan)).total == 0
    assert size_order(points.assign(fid=np.nan)).total == 0


def test_the_papers_own_points():
    law = scaling_law(settings(published_points())[0], "paper")
    assert (law.models, law.common.models, law.common.training_steps) == (12, 12, 400_000)
    assert law.common.r == pytest.approx(-0.929850, abs=5e-7)
    counts = [(order.held, order.total) for order in (law.sizes, law.patches, law.training)]
    assert counts == [(9, 9), (8, 8), (2, 2)]
    assert law.sentences() == [
        "FID-50K and the logarithm of Gflops correlate with r = -0.930 over 12 models at 400K training steps. "
        "(paper points)",
        "The larger of two adjacent sizes, all else equal, has the lower FID in 9 of 9 pairs. (paper points)",
        "The smaller of two adjacent patch sizes, all else equal, has the lower FID in 8 of 8 pairs. (paper points)",
        "The longer trained of two consecutive checkpoints, all else equal, has the lower FID in 2 of 2 pairs. "
        "(paper points)",
    ]
    assert scaling_law(settings(published_points())[0], "measured") is None


def test_a_whole_study():
    points = measured(mini_results())
    law = scaling_law(setting_of(points), "measured")
    assert [c.training_steps for c in law.correlations] == list(MINI_STEPS)
    assert {c.models for c in law.correlations} == {12}
    assert law.common is law.correlations[-1]
    shown = select(points, block="adaln-zero", sampling_steps=64, cfg_scale=1.0, training_steps=800)
    assert len(shown) == 12
    assert law.common.r == pytest.approx(np.corrcoef(np.log(shown["gflops"]), shown["fid"])[0, 1], abs=1e-12)
    cells = len(MINI_STEPS) + len(MINI_SWEEP) - 1 + 2  # training lengths, sampling steps, guidance
    assert law.sizes.total == 3 * 3 * cells
    assert law.patches.total == 4 * 2 * cells
    assert law.training.total == (12 + 3) * (len(MINI_STEPS) - 1)
    # The same by a loop over pairs of rows, with no grouping.
    rows = points.to_dict("records")
    keys = ("patch", "block", "training_steps", "sampling_steps", "cfg_scale")
    pairs = [
        (a, b)
        for a in rows
        for b in rows
        if (a["size"], b["size"]) in (("S", "B"), ("B", "L"), ("L", "XL")) and all(a[k] == b[k] for k in keys)
    ]
    held = sum(b["fid"] < a["fid"] for a, b in pairs)
    assert (law.sizes.held, law.sizes.total) == (held, len(pairs))
    assert 0 < held < len(pairs)
    text = law.sentences()[1]
    assert text.count(" above ") == len(pairs) - held
    assert law.sentences(most=2)[1].count(" above ") == 2
    assert f"; and {len(pairs) - held - 2} more." in law.sentences(most=2)[1]


def test_the_tables_count_and_list_every_exception():
    law = scaling_law(setting_of(measured(mini_results())), "measured")
    counts, exceptions = tables.law_tables([law])
    by_question = {}
    for row in counts.rows:
        by_question.setdefault(row.cells["question"], []).append(row.cells)
    assert [row["result"] for row in by_question["r of ln Gflops and FID"]] == [f"{c.r:.3f}" for c in law.correlations]
    sizes = by_question["Larger size, lower FID"]
    assert sum(int(row["result"]) for row in sizes) == law.sizes.held
    assert [row["where"] for row in sizes] == ["S to B", "B to L", "L to XL"]
    every = [*law.sizes.exceptions, *law.patches.exceptions, *law.training.exceptions]
    assert [(row.cells["better"], row.cells["better_fid"]) for row in exceptions.rows] == [
        (f"{pair.second}, {pair.second_steps:.0f} training steps", f"{pair.second_fid:.2f}") for pair in every
    ]
    paper = scaling_law(settings(published_points())[0], "paper")
    assert len(tables.law_tables([paper])) == 1, "nothing to list"


def test_two_models_are_too_few():
    points = points_of(("mini-S/4", 800, 30.0), ("mini-B/4", 800, 20.0))
    assert scaling_law(setting_of(points), "measured") is None
