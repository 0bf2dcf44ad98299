"""The diffusion process: respacing, tables, loops against the released code, losses."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dit_goldens import LOOP_LABELS, LOOP_MODEL, LOOPS, loop_noise, seeded_state, training_batch

from dit_eval.diffusion.process import Diffusion
from dit_eval.diffusion.spacing import linear_betas, respaced_timesteps
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT

GOLDENS = Path(__file__).parents[1] / "goldens"

# First 16 digits of the SHA-256 of the comma-joined timesteps, from the released `space_timesteps`.
SUBSETS = {
    "16": "c6123978023f5006", "32": "5b61a39ec8eff903", "64": "f84e81b1949095b8", "128": "1dafca1396222a38",
    "250": "d7b0f48aae57b0da", "256": "3d712fd43978f249", "1000": "a1002f575c7074b1", "100": "6b8907e3dc37962c",
    "50": "74cbaac3aa26dbda", "ddim250": "ba06b0ce8470714b", "ddim50": "68c44a8db3e7d80e",
}  # fmt: skip


@pytest.mark.parametrize("spacing", SUBSETS)
def test_visited_timesteps_are_the_released_ones(spacing):
    steps = respaced_timesteps(spacing)
    assert hashlib.sha256(",".join(map(str, steps)).encode()).hexdigest()[:16] == SUBSETS[spacing]


def test_sections_are_spaced_one_by_one():
    expected = json.loads((GOLDENS / "dit.json").read_text())["sections 10,15,20 of 300"]
    assert respaced_timesteps("10,15,20", 300) == expected
    assert respaced_timesteps("1") == [0]


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ("ddim256", r"no integer stride that visits exactly 256; the nearest are ddim200 and ddim250"),
        ("1001", r"a section of 1000 steps cannot give 1001"),
        ("0", r"at least 1"),
        ("many", r"needed a number"),
        ("ddim10,20", r"no integer stride"),
    ],
)
def test_steps_that_cannot_be_respaced_say_why(spacing, message):
    with pytest.raises(ValueError, match=message):
        respaced_timesteps(spacing)


def test_noise_levels_of_the_linear_schedule():
    full = Diffusion()
    levels = {0: 0.9999, 99: 0.897018146, 499: 0.0785872429, 998: 4.118193638e-5, 999: 4.035829765e-5}
    for step, level in levels.items():
        assert full.alphas_cumprod[step] == pytest.approx(level, rel=1e-8)
    np.testing.assert_allclose(full.betas, linear_betas(), rtol=1e-10)


@pytest.mark.parametrize("spacing", ["16", "250", "ddim50"])
def test_respacing_keeps_the_noise_levels(spacing):
    few, full = Diffusion(spacing), Diffusion()
    np.testing.assert_allclose(few.alphas_cumprod, full.alphas_cumprod[few.timesteps], rtol=1e-12)
    if spacing == "250":
        np.testing.assert_allclose(few.betas[[0, 1, 2, -1]], [1e-4, 5.9906556e-4, 9.1760299e-4, 0.07751934], rtol=1e-6)
        np.testing.assert_allclose(few._posterior_log_variance[:2], -9.36462816, rtol=1e-8)


def test_a_model_that_knows_the_noise_leads_back_to_the_image():
    # With the true noise as prediction, DDIM recovers x0 exactly, from any number of steps.
    x0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for spacing in ("5", "ddim50"):
        process = Diffusion(spacing)
        start = process.add_noise(x0, torch.full((2,), len(process) - 1), noise)
        output = torch.cat([noise, torch.zeros_like(noise)], dim=1)
        found = process.sample(lambda x, t, out=output: out, start, lambda index: noise, sampler="ddim")
        torch.testing.assert_close(found, x0, rtol=1e-3, atol=1e-3)


def test_the_variance_lies_between_its_bounds():
    process, x = Diffusion("250"), torch.zeros(1, 1, 2, 2)
    step = torch.tensor([100])
    for value, expected in ((1.0, process._log_betas[100]), (-1.0, process._posterior_log_variance[100])):
        output = torch.cat([torch.zeros_like(x), torch.full_like(x, value)], dim=1)
        assert process.predict(output, x, step).log_variance.mean().item() == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def model():
    model = DiT(DiTConfig(**LOOP_MODEL)).eval()
    model.load_state_dict(seeded_state(model.state_dict()))
    return model


@pytest.mark.parametrize("name", LOOPS)
@torch.inference_mode()
def test_every_step_equals_the_released_loop(model, name):
    spacing, sampler, cfg_scale = LOOPS[name]
    with np.load(GOLDENS / "dit.npz") as goldens:
        expected = goldens[name]
    process = Diffusion(spacing)
    noise = loop_noise(len(process) + 1)
    labels = torch.cat([LOOP_LABELS, torch.full_like(LOOP_LABELS, model.config.num_classes)])

    def guided(x, t):
        return model.forward_with_cfg(torch.cat([x, x]), torch.cat([t, t]), labels, cfg_scale)[: len(x)]

    found = []
    process.sample(
        guided,
        noise[0],
        lambda index: noise[len(process) - index],
        sampler=sampler,
        on_step=lambda index, x: found.append(x.numpy()),
    )
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@torch.inference_mode()
def test_training_losses_equal_the_released_ones(model):
    x0, steps, labels, noise = training_batch()
    expected = json.loads((GOLDENS / "dit.json").read_text())["training_losses"]
    found = Diffusion().training_losses(lambda x, t: model(x, t, labels), x0, steps, noise)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values), rtol=1e-4, atol=1e-6)


def test_the_bound_trains_the_variance_only(model):
    x0, steps, _, noise = training_batch()
    output = torch.randn(6, 8, 4, 4, requires_grad=True)
    Diffusion().training_losses(lambda x, t: output, x0, steps, noise)["vb"].sum().backward()
    assert (output.grad[:, :4] == 0).all()
    assert (output.grad[:, 4:] != 0).any()


def test_an_output_without_variance_is_refused():
    with pytest.raises(ValueError, match=r"needed twice the channels"):
        Diffusion("10").predict(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.tensor([0]))


@pytest.mark.parametrize("index", [0, 3, 9])
def test_one_step_index_for_all_images_gives_the_same_numbers(index):
    torch.manual_seed(index)
    output, x, process = torch.randn(3, 8, 4, 4), torch.randn(3, 4, 4, 4), Diffusion("10")
    one, each = process.predict(output, x, index), process.predict(output, x, torch.full((3,), index))
    for name in ("mean", "log_variance", "x0"):
        assert torch.equal(getattr(one, name), getattr(each, name))
    x = torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="Unknown sampler 'euler'; known: ddpm, ddim"):
        Diffusion("10").step(lambda x, t: torch.cat([x, x], dim=1), x, 3, x, sampler="euler")
