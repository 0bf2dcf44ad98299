"""Flows: conversions, samplers against SiT's and REPA's loops and closed forms; guidance in an interval."""

import dataclasses
import json
import math
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from dit_goldens import seeded_state
from flow_goldens import CASES, LABELS, MODEL, REPA, STEPS, flow_noise
from sample_runs import make_flow_run, random_dit

from dit_eval.diffusion import each_image
from dit_eval.diffusion.flow import PATHS, Flow
from dit_eval.diffusion.guidance import scales
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.diffusion.spacing import noise_levels
from dit_eval.diffusion.steps import steps_of
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT

GOLDENS = Path(__file__).parents[1] / "goldens"
CALLS = json.loads((GOLDENS / "flow.json").read_text())["calls"]
ADAPTIVE = [name for name in CASES if "dopri5" in name]
FIXED = [name for name in CASES if "dopri5" not in name]
needs_torchdiffeq = pytest.mark.skipif(find_spec("torchdiffeq") is None, reason="needs torchdiffeq")


# ---- the released loops


@pytest.fixture(scope="module")
def models():
    made = {}
    for learn_sigma in (True, False):
        made[learn_sigma] = DiT(DiTConfig(**MODEL, learn_sigma=learn_sigma)).eval()
        made[learn_sigma].load_state_dict(seeded_state(made[learn_sigma].state_dict()))
    return made


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS / "flow.npz") as file:
        return dict(file)


def drawn(models, name, monkeypatch):
    """The last state of two images, and what the network was asked, (x of image 0, images) each time."""
    model, asked, last, draws = models[name not in REPA], [], [], iter(flow_noise())
    run = make_flow_run(model.config, num_sampling_steps=str(STEPS), **CASES[name])
    plain, fill = ImageSampler._guided, torch.zeros(6, 4, 4, 4)

    def seen(self, x, *arguments):
        asked.append(x[0].numpy().copy())
        return plain(self, x, *arguments)

    monkeypatch.setattr(ImageSampler, "_guided", seen)
    monkeypatch.setattr(ImageSampler, "noise", lambda *_: lambda _: torch.cat([next(draws), fill]))
    sampler = ImageSampler(
        model, dataclasses.replace(run, vae="none"), decode=lambda x: last.append(x.numpy()) or x[:, :3].clamp(-1, 1)
    )
    sampler.draw(np.arange(2), LABELS.numpy())
    return last[0], asked


@pytest.mark.parametrize("name", FIXED)
def test_every_step_equals_the_released_loop(models, goldens, name, monkeypatch):
    last, asked = drawn(models, name, monkeypatch)
    expected = goldens[f"{name}/asked"]
    assert (
        len(asked)
        == len(expected)
        == len(scales(make_flow_run(models[True].config, num_sampling_steps=str(STEPS), **CASES[name])))
    )
    for ours, theirs in zip([*asked, last], [*expected, goldens[f"{name}/last"]], strict=True):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@needs_torchdiffeq
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_adaptive_solver_is_the_released_one_of_one_image(models, goldens, name, monkeypatch):
    rows, plain = [], each_image._answer
    monkeypatch.setattr(each_image, "_answer", lambda these, _: rows.extend(q.row for q in these) or plain(these, _))
    last, _ = drawn(models, name, monkeypatch)
    theirs, calls = goldens[f"{name}/last"], [rows.count(0), rows.count(1)]
    error = np.abs(last - theirs).max() / np.abs(theirs).max()
    if "cfg" in name:
        # Under guidance SiT's solver has a second copy of the image, whose unguided channels go their own way.
        assert error < 1e-3, "the tolerance"
    else:
        assert calls == CALLS[name]
        assert error < 1e-4


# ---- closed forms: data of one Gaussian, whose flow is known

MEAN, SPREAD = 1.5, 0.5


def exact(flow):
    """A network that knows Gaussian data, in the words of a flow's run: its prediction, from what it is told."""
    run, sign = flow.run, -1 if flow.run.time == "repa" else 1

    def network(x, time, *, scale, rows=None):
        if rows is not None:  # each image at a time of its own
            pairs = zip(x.split(1), time.split(1), strict=True)
            return torch.cat([network(each, told, scale=scale) for each, told in pairs])
        told = time[0].item()
        path_time = 1 - told if run.time == "repa" else told
        level = noise_level(told) if run.time == "ddpm" else PATHS[run.path](path_time)
        alpha, sigma = level.alpha, level.sigma
        off = (x.double() - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        data, noise = MEAN + alpha * SPREAD**2 * off, sigma * off  # what they are on average, given x
        velocity = sign * (level.d_alpha * data + level.d_sigma * noise)
        return {"noise": noise, "score": -off, "velocity": velocity}[run.prediction]

    return network


def noise_level(timestep):
    """alpha and sigma of DDPM, between its timesteps by the logarithm of their ratio."""
    abar = noise_levels()
    ratio = math.exp(np.interp(timestep, np.arange(1000), 0.5 * np.log((1 - abar) / abar)))
    alpha = 1 / math.sqrt(1 + ratio**2)
    return dataclasses.replace(PATHS["linear"](0.5), alpha=alpha, sigma=alpha * ratio)


def flow_of(**settings):
    return Flow.of(make_flow_run(random_dit().config, **settings))


def solved(flow, start, noise=None):
    steps = steps_of(flow.run)
    draws = np.random.default_rng(0)
    x = start
    for index in reversed(range(len(steps))):
        x = steps.step(exact(flow), x, index, lambda _: torch.from_numpy(draws.standard_normal(start.shape)).float())
    return x


def solution(flow, start):
    """Where the flow carries a start: the same quantile of the Gaussian at its last time."""
    begin, end = flow.level(flow.times[0]), flow.level(flow.times[-1])
    mean, spread = (
        [level.alpha * MEAN for level in (begin, end)],
        [math.hypot(each.alpha * SPREAD, each.sigma) for each in (begin, end)],
    )
    return mean[1] + (start.double() - mean[0]) / spread[0] * spread[1]


START = torch.linspace(-2, 2, 9).view(9, 1, 1, 1)
KINDS = [
    ("linear", "velocity", "repa"), ("gvp", "velocity", "repa"), ("linear", "velocity", "sit"),
    ("vp", "velocity", "sit"), ("gvp", "noise", "sit"), ("vp", "score", "sit"), ("vp", "noise", "ddpm"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "prediction", "time"), KINDS)
def test_the_flow_of_gaussian_data_is_the_exact_one(path, prediction, time):
    error = {}
    for sampler in ("ode-euler", "ode-heun"):
        flow = flow_of(sampler=sampler, path=path, prediction=prediction, time=time, num_sampling_steps="401")
        error[sampler] = (solved(flow, START) - solution(flow, START)).abs().max().item()
    assert error["ode-euler"] < 0.05
    assert error["ode-heun"] < 1e-3


@needs_torchdiffeq
@pytest.mark.parametrize(("path", "prediction", "time"), KINDS)
def test_the_adaptive_solver_keeps_its_tolerance(path, prediction, time):
    flow = flow_of(sampler="ode-dopri5", path=path, prediction=prediction, time=time, rtol=1e-4)
    assert (solved(flow, START) - solution(flow, START)).abs().max().item() < 1e-3


@pytest.mark.parametrize(("sampler", "order"), [("ode-euler", 1), ("ode-heun", 2)])
@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_observed_order_of_convergence(sampler, order, path):
    errors = []
    for steps in (16, 32, 64, 128):
        # REPA's flow is in float64, where the error of a step shows below that of rounding.
        flow = flow_of(sampler=sampler, path=path, time="repa", num_sampling_steps=str(steps))
        errors.append((solved(flow, START) - solution(flow, START)).abs().max().item())
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order] * 3, abs=0.25), errors


SDES = [
    {}, {"diffusion_form": "linear"}, {"time": "repa"},
    {"diffusion_form": "constant", "diffusion_norm": 0.5, "last_step_size": 0.01},
    {"diffusion_form": "decreasing"}, {"diffusion_form": "increasing-decreasing", "last_step": "euler"},
    {"path": "vp", "prediction": "score", "diffusion_form": "sbdm", "last_step": "tweedie"},
    {"path": "gvp", "sampler": "sde-heun"}, {"path": "vp", "prediction": "noise", "time": "ddpm", "last_step": "none"},
]  # fmt: skip


@pytest.mark.parametrize("settings", SDES, ids=str)
def test_an_sde_ends_in_the_gaussian_of_the_data(settings):
    # Whatever the diffusion is: it and the score keep the densities of the flow.
    flow = flow_of(**{"sampler": "sde-euler", "num_sampling_steps": "150", **settings})
    start = torch.from_numpy(np.random.default_rng(1).standard_normal((10_000, 1, 1, 1))).float()
    end = solved(flow, start)
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    # The noise of a last step is left out.
    assert end.std().item() == pytest.approx(SPREAD, abs=0.03)
