"""The paper's own studies: what they hold, what they cost, and that they run, with tiny widths in place of its own."""

import json
import re
import tomllib
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from inline_engine import InlineEngine
from PIL import Image

from dit_eval.cli import main
from dit_eval.flops.count import count_model
from dit_eval.images.npz import write_batch
from dit_eval.models import vae_files
from dit_eval.models.names import DIT_NAMES, PATCH_SIZES, SIZES
from dit_eval.paper import load_table
from dit_eval.results.lines import read_results
from dit_eval.study.folder import Study
from dit_eval.study.pace import work_gflops
from dit_eval.study.plan_file import embedded_plans, load_plan, parse_plan
from dit_eval.study.run import run_study
from dit_eval.study.sources import check_study, find_sources
from dit_eval.study.tasks import work

SMALL_VAE = vae_files.SD_CONFIG | {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": 64}
PLANS = ("paper-256", "paper-512")
SIDE = 64  # pixels in place of the paper's: latents of 8 x 8, which all patch sizes divide


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(plan):
    return {
        (c.model, c.config.block, c.training_steps, c.num_sampling_steps, c.sampling.cfg_scale, c.vae, c.num_samples)
        for c in plan.cells
    }


def test_the_256_px_plan_is_the_papers_grid():
    plan = load_plan("paper-256")
    found = settings(plan)
    assert {run.model for run in plan.trainings} == set(DIT_NAMES)
    # Table 4: every model, design and training length at 256 px, by the scaling protocol.
    table4 = load_table(4)
    for row in table4[table4["image_size"] == 256].itertuples():
        wanted = (row.model, row.block, int(row.training_steps_k * 1000), "250", 1.0, "mse", 50_000)
        assert wanted in found, wanted
    # Figure 10, Tables 2 and 5.
    for name in DIT_NAMES:
        for steps in ("16", "32", "64", "128", "256", "1000"):
            assert (name, "adaln-zero", 400_000, steps, 1.0, "mse", 10_000) in found
    for scale in (1.0, 1.25, 1.5):
        assert ("DiT-XL/2", "adaln-zero", 7_000_000, "250", scale, "ema", 50_000) in found
    for decoder in ("original", "mse", "ema"):
        assert ("DiT-XL/2", "adaln-zero", 7_000_000, "250", 1.5, decoder, 50_000) in found
    assert len(found) == len(plan.cells)
    for run in plan.trainings:
        recipe = run.recipe
        assert (recipe.learning_rate, recipe.weight_decay, recipe.warm_up) == (1e-4, 0.0, 0)
        assert (recipe.batch_size, recipe.ema_decay, recipe.flip, recipe.decay_steps) == (256, 0.9999, 0.5, None)
        assert run.config.label_dropout == 0.1


def test_the_512_px_plan_is_the_papers_grid():
    plan = load_plan("paper-512")
    table4 = load_table(4)
    for row in table4[table4["image_size"] == 512].itertuples():
        wanted = (row.model, row.block, int(row.training_steps_k * 1000), "250", 1.0, "mse", 50_000)
        assert wanted in settings(plan), wanted
    for scale in (1.0, 1.25, 1.5):
        assert ("DiT-XL/2", "adaln-zero", 3_000_000, "250", scale, "ema", 50_000) in settings(plan)


def test_predicted_cost_is_that_of_the_paper(capsys):
    # The training compute of Figure 9: Gflops x batch x steps x 3, and sampling of N images, guidance counted twice.
    plan = load_plan("paper-256")
    gflops = count_model("DiT-XL/2", image_size=256).total("paper") / 1e9
    run = next(run for run in plan.trainings if run.model == "DiT-XL/2" and run.config.block == "adaln-zero")
    assert work_gflops(run) == pytest.approx(3 * gflops * 256 * 7e6, rel=1e-12)
    guided = next(c for c in plan.cells if c.sampling.cfg_scale == 1.25)
    assert work_gflops(guided) == pytest.approx(2 * gflops * 250 * 50_000, rel=1e-12)
    with pytest.raises(SystemExit) as exit_:
        main(["study", "run", "paper-256", "--dry-run"])
    told = capsys.readouterr().out
    assert not exit_.value.code
    assert f"{sum(map(work_gflops, plan.cells)):,.0f} Gflops" in told
    hours = 2 * sum(map(work_gflops, plan.tasks)) * 1e9 / (62.4e12 * 3600)
    assert f"about {hours:,.2f} device-hours: an A100" in told
    assert "assumption" in told


def tiny(name):
    """A paper's plan with its structure as it is, and tiny widths, images, lengths and counts."""
    text = embedded_plans()[name].read_text(encoding="utf-8")
    groups = len(tomllib.loads(text)["cells"])
    lengths = {"50_000": 1, "400_000": 2, "2_352_000": 3, "7_000_000": 4, "1_301_000": 1, "3_000_000": 2}

    def shorter(match):
        named = re.findall(r"[\d_]+", match[1])
        return f"training_steps = {[lengths[step] for step in named if step in lengths]}"

    text = re.sub(r"training_steps = (.*)", shorter, text)
    text = re.sub(r"sampling_steps = \[16.*\]", "sampling_steps = [2, 3]", text)
    for old, new in (
        ("sampling_steps = 250", "sampling_steps = 2"),
        ("50_000", "5"),
        ("10_000", "4"),
        ('precision = "tf32"', ""),
        ("save_every = 100_000", "batch_size = 8"),
        (f"image_size = {name[-3:]}", f"image_size = {SIDE}"),
        ("num_classes = 1000", 'num_classes = 2\nextractor = "digits"'),
        ("processes = 8", "processes = 1"),
        ("nodes = 4", "nodes = 1"),
        ("DiT-", "tiny-"),
    ):
        assert old in text or old == "nodes = 4", old
        text = text.replace(old, new)
    models = [
        f'"tiny-{size}/{patch}" = {{ depth = {depth}, hidden_size = {width}, num_heads = 2, patch_size = {patch} }}'
        for (size, width), depth in zip({"S": 8, "B": 12, "L": 16, "XL": 20}.items(), (1, 1, 2, 2), strict=True)
        for patch in PATCH_SIZES
    ]
    assert [*SIZES] == ["S", "B", "L", "XL"]
    text += "\n[models]\n" + "\n".join(models) + "\n"
    assert len(tomllib.loads(text)["cells"]) == groups
    return text


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Latents that `dit-eval encode` makes of a folder of images by a small autoencoder, and a reference batch."""
    folder = tmp_path_factory.mktemp("material")
    torch.manual_seed(0)
    AutoencoderKL.from_config(SMALL_VAE).save_pretrained(folder / "vae")
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        path = folder / "images" / ("ant", "cat")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    with pytest.raises(SystemExit) as exit_:
        main(
            f"encode {folder / 'images'} --out {folder / 'latents'} --image-size {SIDE} --vae {folder / 'vae'}".split()
        )
    assert not exit_.value.code
    write_batch(folder / "ref.npz", images=[images], shape=images.shape)
    return folder


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.slow
def test_the_plan_runs_with_tiny_widths(name, material, tmp_path, monkeypatch):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny(name), encoding="utf-8")
    plan = load_plan(path)
    # The public decoders cannot be had here; one small autoencoder stands for all three, under their names.
    monkeypatch.setattr("dit_eval.models.choose.DECODERS", {})
    monkeypatch.chdir(tmp_path)
    for decoder in ("ema", "mse", "original"):
        (tmp_path / decoder).symlink_to(material / "vae")
    sources = find_sources(plan, train=str(material / "latents"), ref=str(material / "ref.npz"), device="cpu")
    check_study(plan, sources)
    study = Study(plan, tmp_path / "study")
    count = run_study(study, InlineEngine(partial(work, study)), sources)

    results = read_results(study.results)
    assert count == len(results) == len(plan.cells)
    runs = [result.gen.run for result in results]
    for cell, run, result in zip(plan.cells, runs, results, strict=True):
        assert (run.model, run.network["block"], run.training_steps) == (
            cell.model, cell.config.block, cell.training_steps,
        )  # fmt: skip
        assert (run.num_sampling_steps, run.cfg_scale, run.vae) == (
            cell.num_sampling_steps,
            cell.sampling.cfg_scale,
            cell.vae,
        )
        assert (run.num_images, run.image_size, result.num_samples) == (cell.num_samples, SIDE, cell.num_samples)
        assert result.fid is not None
    assert {run.vae for run in runs} == {"ema", "mse", "original"}
    assert {run.cfg_scale for run in runs} == {1.0, 1.25, 1.5}
    assert not list((tmp_path / "study" / "samples").glob("*.npz")), "keep_samples = false"
    done = study.folder / "done"
    assert len(list(done.glob("*.json"))) == len(plan.tasks)
    assert sum(json.loads(path.read_text())["gflops"] for path in done.iterdir()) == pytest.approx(
        sum(map(work_gflops, plan.tasks))
    )
    assert parse_plan((tmp_path / "study" / "plan.toml").read_text(), path).cells == plan.cells
