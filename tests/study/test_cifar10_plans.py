"""The studies on CIFAR-10: sizes in the paper's proportions, costs that fit their hours, and a run on stand-ins."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from inline_engine import InlineEngine

from dit_eval.images.npz import open_batch
from dit_eval.models.names import PATCH_SIZES, SIZES
from dit_eval.results.lines import read_results
from dit_eval.study.folder import Study
from dit_eval.study.pace import predicted_hours
from dit_eval.study.plan_file import embedded_plans, load_plan
from dit_eval.study.run import run_study
from dit_eval.study.sources import check_study, find_sources
from dit_eval.study.tasks import work

PLANS = ("cifar10", "cifar10-small")


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_of_cifar10_and_names_no_file(name):
    plan = load_plan(name)
    assert (plan.data.space, plan.data.image_size, plan.data.num_classes, plan.data.channels) == ("pixel", 32, 10, 3)
    assert (plan.data.train, plan.data.ref, plan.data.extractor, plan.data.intervals) == (None, None, "inception", True)
    for run in plan.trainings:
        assert (run.recipe.flip, run.recipe.ema_warm_up, run.config.label_dropout) == (0.5, True, 0.1)
        numbers = 3 * run.config.patch_size**2
        # At 1 the model drew noise: what a patch holds has to pass through the width. The paper's least is 1.5.
        assert run.config.hidden_size >= 1.5 * numbers, run.model
    swept = [cell for cell in plan.cells if cell.training_steps == plan.trainings[0].steps[-1]]
    steps = [{cell.num_sampling_steps for cell in swept if cell.model == run.model} for run in plan.trainings]
    assert sum(len(each) >= 4 for each in steps) >= 3, "sampling against model compute, for three models or more"


def test_sizes_are_the_papers_made_smaller():
    plan = load_plan("cifar10")
    assert [run.model for run in plan.trainings] == [
        f"mini-{size}/{patch}" for size in ("S", "B", "L") for patch in sorted(PATCH_SIZES, reverse=True)
    ]
    for run in plan.trainings:
        config, size = run.config, re.search("[A-Z]+(?=/)", run.model)[0]
        assert (4 * config.depth, 4 * config.hidden_size / 3, config.num_heads) == SIZES[size], run.model
        # As many patches as the paper's latents of 256 px have: 32 a side.
        assert (config.input_size // config.patch_size) ** 2 in (16, 64, 256)


def test_the_plans_fit_into_their_hours():
    plan = load_plan("cifar10")
    assert {cell.num_samples for cell in plan.cells} == {10_000}
    assert predicted_hours(plan) < 1.6, "of two; metrics and intervals are not counted"
    small = load_plan("cifar10-small")
    features = (10_000 + 2 * 1_000) / small.speed.scored_per_second / 3600  # the reference; what it keeps, by each core
    assert (predicted_hours(small) + features) / 2 < 0.9, "of an hour, on two cores"
    gflops = [run.gflops for run in small.trainings]
    assert 6 <= len(gflops) <= 9
    assert np.log10(max(gflops) / min(gflops)) > 1.5


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_small_plan_runs_on_stand_ins(tmp_path, inception_files, torch_inception, one_thread):
    text = embedded_plans()["cifar10-small"].read_text(encoding="utf-8")
    for old, new in (
        ('models = "all"', 'models = "tiny-S/2"'),
        ('["tiny-S/2", "tiny-B/2", "tiny-L/2"]', '"tiny-S/2"'),
        ("training_steps = 2500", "training_steps = 2"),
        ("[8, 16, 64]", "3"),  # the same cell again
        ("sampling_steps = 32", "sampling_steps = 3"),
        ("num_samples = 1000", "num_samples = 4"),
        ('["fid", "sfid", "kid", "precision", "recall"]', '["fid", "precision"]'),
    ):
        assert old in text, old
        text = text.replace(old, new)
    (tmp_path / "plan.toml").write_text(text, encoding="utf-8")
    images = np.random.RandomState(0).randint(0, 256, (8, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "cifar10.npz", arr_0=images, arr_1=np.arange(2, 10))

    plan = load_plan(tmp_path / "plan.toml")
    data = str(tmp_path / "cifar10.npz")
    sources = find_sources(plan, train=data, ref=data, weights=str(inception_files.pth), device="cpu")
    check_study(plan, sources)
    study = Study(plan, tmp_path / "study")
    assert run_study(study, InlineEngine(partial(work, study)), sources) == 1

    (cell,), (result,) = plan.cells, read_results(study.results)
    samples = open_batch(study.samples(cell), role="gen")
    drawn = np.array(samples.array())
    assert (drawn.shape, samples.labels.tolist()) == ((4, 32, 32, 3), [0, 1, 2, 3])
    assert result.extractor.weights_sha256 == torch_inception.weights_sha256
    assert (result.num_samples, result.num_reference) == (4, 8)
    features = [torch_inception(each).pool.astype(np.float64) for each in (drawn, images)]
    assert result.fid == pytest.approx(frechet(*features), rel=1e-6)
    assert "4,098" in result.uncertainty.missing["fid"]


def frechet(one, other):
    """The distance by singular values of the centred features alone: tr (S1 S2)^1/2 is the nuclear norm of A B^T."""
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (one, other))
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return ((one.mean(0) - other.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * shared
