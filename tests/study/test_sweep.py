"""Sweeps: coarse to fine, confirmed on fresh noise; whatever is killed, the same results."""

import dataclasses
import json

import pytest
from report_runs import mini_run, result

from dit_eval.cli import main
from dit_eval.features.load import load_network
from dit_eval.report.figures.front import sweep_figure
from dit_eval.results.eval_result import EvalResult, Selection
from dit_eval.results.lines import read_results
from dit_eval.results.settings import SamplingSettings
from dit_eval.study import sweep as module
from dit_eval.study.search import Axes, search
from dit_eval.study.sweep import Plan, run_sweep
from dit_eval.system.assets import asset
from dit_eval.system.where import Where

BASE = SamplingSettings(num_images=60, labels="balanced", cfg_scale=2.0, cfg_channels=1)


def axes(**changes):
    usual = {"ckpts": ("dit-digits",), "weights": ("ema",), "steps": ("4",), "intervals": (None,)}
    return Axes(**usual | {"cfg_scales": (1.0, 2.0, 3.0, 4.0)} | changes)


def plan(**changes):
    usual = {"axes": axes(), "base": BASE, "model": None, "metric": "fid", "search_images": 60, "rounds": 1}
    return Plan(**usual | {"ref": str(asset("digits", "reference").path)} | changes)


# The search


def test_every_combination_is_tried_once():
    """Without guidance there is no interval of it."""
    found = axes(steps=("4", "8"), intervals=(None, (0.5, 2.0)), cfg_scales=(3.0, 1.0)).combinations(BASE)
    assert [(c.sampling.num_sampling_steps, c.scale, c.sampling.guidance_interval) for c in found] == [
        ("4", 1.0, None), ("4", 3.0, None), ("4", 3.0, (0.5, 2.0)),
        ("8", 1.0, None), ("8", 3.0, None), ("8", 3.0, (0.5, 2.0)),
    ]  # fmt: skip
    assert found[0].sampling.cfg_channels is None
    assert found[2].name == "dit-digits, 4 steps, cfg 3, in 0.5 to 2"


@pytest.mark.parametrize(("optimum", "tried"), [(2.2, {2.5, 1.5, 1.75, 2.25}), (1.1, {1.5, 1.25}), (9.0, {3.5, 3.75})])
def test_a_search_closes_in_on_the_best_scale(optimum, tried):
    """By halving the gaps beside the best; a quadratic has its optimum there, or the search says that it is beyond."""
    asked = []

    def worth(candidate):
        asked.append(candidate)
        return (candidate.scale - optimum) ** 2

    found = search(axes().combinations(BASE), worth, rounds=2)
    assert len(asked) == len(set(asked)), "none is tried twice"
    assert {c.scale for c in asked} == {1.0, 2.0, 3.0, 4.0} | tried
    assert abs(found.best.scale - min(optimum, 4.0)) <= 0.125
    assert found.at_the_end == (optimum == 9.0), "below 1 there is nothing"


def test_only_the_best_combination_is_refined():
    combinations = axes(steps=("4", "8"), intervals=(None, (0.5, 2.0))).combinations(BASE)

    def worth(candidate):
        bonus = candidate.sampling.num_sampling_steps == "8" and candidate.sampling.guidance_interval is not None
        return abs(candidate.scale - 1.6) - bonus

    found = search(combinations, worth, rounds=2)
    finer = [c for c in found.worth if c not in combinations]
    assert {c.sampling.num_sampling_steps for c in finer} == {"8"}
    assert {c.sampling.guidance_interval for c in finer} == {(0.5, 2.0)}
    assert found.best.scale in (1.5, 1.75)


def test_a_sweep_of_steps_alone_has_nothing_finer():
    found = search(axes(steps=("4", "8"), cfg_scales=(1.0,)).combinations(BASE), lambda c: len(c.name), rounds=3)
    assert len(found.worth) == 2
    assert not found.at_the_end


# A sweep of the embedded DiT


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "features"))
    return load_network("digits", device="cpu")


def told(path):
    """Lines without what every run has of its own."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "time", "peak_memory_bytes")} for line in lines]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_the_same(network, tmp_path, monkeypatch):
    notes = []
    where = Where(device="cpu", on_note=notes.append)
    whole = run_sweep(plan(), tmp_path / "whole", network=network, where=where, quiet=True)
    assert len(notes) == len(whole.found.worth) == len(read_results(whole.results)) - 1

    left = [2]

    def dying(*arguments, **more):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return evaluate(*arguments, **more)

    evaluate = module.evaluate
    monkeypatch.setattr(module, "evaluate", dying)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan(), tmp_path / "killed", network=network, where=where, quiet=True)
    assert len(list((tmp_path / "killed" / "done").iterdir())) == 2
    done = sorted((tmp_path / "killed" / "done").iterdir())[0]
    done.write_text(done.read_text().replace('"fid": ', '"fid": 1', 1))  # damaged: it is made again
    left[0] = 100
    again = run_sweep(plan(), tmp_path / "killed", network=network, where=where, quiet=True)
    assert left[0] == 100 - len(read_results(whole.results)) + 1, "one was there, all else is done once"
    assert told(again.results) == told(whole.results)

    # What is selected says so, and is confirmed on other noise.
    results = read_results(whole.results)
    marked = [each for each in results if each.selected_by is not None]
    assert [each.selected_by.fresh_noise for each in marked] == [False, True]
    assert marked[1] is results[-1]
    assert marked[0].fid == min(each.fid for each in results[:-1])
    assert [each.gen.run.global_seed for each in marked] == [0, 1]
    assert marked[0].gen.run.cfg_scale == marked[1].gen.run.cfg_scale == whole.found.best.scale
    chosen = marked[1].selected_by
    assert (chosen.metric, chosen.num_samples, chosen.candidates) == ("fid", 60, len(results) - 1)
    assert len(list((tmp_path / "whole" / "samples").glob("*.npz"))) == 1, "of the confirmation alone"

    left[0] = 0  # nothing is left to do
    assert told(run_sweep(plan(), tmp_path / "whole", network=network, where=where, quiet=True).results) == told(
        again.results
    )
    picture = sweep_figure(whole.results)
    assert len(picture.figure.axes) == 6
    assert "fresh noise" in picture.caption


def test_a_selected_result_says_so_in_json_and_others_are_as_ever():
    plain = result(mini_run("mini-S/4"), 3.0, num_samples=500, protocol="digits")
    assert "selected_by" not in plain.to_dict()
    by = Selection(metric="fid", num_samples=10_000, candidates=12, seed=0, fresh_noise=True)
    line = dataclasses.replace(plain, selected_by=by).to_json()
    assert json.loads(line)["selected_by"] == {
        "metric": "fid", "num_samples": 10_000, "candidates": 12, "seed": 0, "fresh_noise": True,
    }  # fmt: skip
    assert EvalResult.from_json(line).selected_by == by
    with pytest.raises(ValueError, match="Not an evaluation result"):
        EvalResult.from_json(line.replace('"candidates": 12', '"candidates": "many"'))


# Misuse

OPTIONS = ["--ckpt", "dit-digits", "--ref", "digits", "--extractor", "digits", "--device", "cpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cfg-scales", "1.5"], "1 candidate: nothing to choose from"),
        (["--cfg-scales", "0.5", "2"], "Guidance scale 0.5: needed 1.0 or more"),
        (["--by", "fdi"], "--by fdi: expected one of fid, "),
        (["--by", "kid", "--search-images", "60000"], "--search-images 60,000: expected at most --num-images, 50,000"),
        (
            ["--guidance-intervals", "0.5-0.1"],
            "--guidance-intervals 0.5-0.1: expected LOW:HIGH, such as 0.1:0.5, or all",
        ),
        (["--guidance-intervals", "0.5:0.1"], " 0.5 to 0.1: expected two numbers, 0 <= LOW < HIGH"),
        (["--num-sampling-steps", "4", "many"], "many"),
        (["--ref", "nowhere.npz"], "nowhere.npz"),
        (["--ref", "."], "--ref .: a folder; expected an npz"),
        (["--batch-size", "0"], "--batch-size 0: needed at least 1"),
        (["--by", "cmmd"], "cmmd"),
        (["--num-sampling-steps", *map(str, range(1, 1001))], "4,000 candidates; expected at most 1,000"),
    ],
)
def test_mistakes_are_told_before_anything_is_drawn(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", *OPTIONS, "--out", "here", *words])
    assert exit_.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert not list(tmp_path.glob("here/samples/*"))
