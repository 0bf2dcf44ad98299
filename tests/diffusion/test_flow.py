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
from sample_runs import make_flow_run, make_run, random_dit

from dit_eval.diffusion import each_image
from dit_eval.diffusion.each_image import solve_each
from dit_eval.diffusion.flow import PATHS, Flow, convert, diffusion, time_of_ratio
from dit_eval.diffusion.guidance import evaluations, scales, sigmas
from dit_eval.diffusion.process import Diffusion
from dit_eval.diffusion.sampler import ImageSampler, check_run
from dit_eval.diffusion.spacing import noise_levels
from dit_eval.diffusion.steps import steps_of
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.sampling import sample_npz

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


def settings_of(name):
    return SamplingSettings(**{"num_sampling_steps": STEPS, "cfg_scale": 1.0, **CASES[name]})


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
    assert len(asked) == len(expected) == len(scales(settings_of(name)))
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
    run, sign = flow.settings, -1 if flow.settings.time == "repa" else 1

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
    return Flow.of(SamplingSettings(**{"num_sampling_steps": "8", "cfg_scale": 1.0, **settings}))


def solved(flow, start, noise=None):
    steps = steps_of(flow.settings)
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
    ("linear", "velocity", "repa"), ("linear", "noise", "repa"), ("gvp", "velocity", "repa"),
    ("linear", "velocity", "sit"), ("vp", "velocity", "sit"), ("gvp", "noise", "sit"), ("vp", "score", "sit"),
    ("vp", "noise", "ddpm"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "prediction", "time"), KINDS)
def test_the_flow_of_gaussian_data_is_the_exact_one(path, prediction, time):
    error = {}
    for sampler in ("ode-euler", "ode-heun"):
        flow = flow_of(sampler=sampler, path=path, prediction=prediction, time=time, num_sampling_steps="201")
        error[sampler] = (solved(flow, START) - solution(flow, START)).abs().max().item()
    assert error["ode-euler"] < 0.05
    assert error["ode-heun"] < 1e-3


@needs_torchdiffeq
@pytest.mark.parametrize(("path", "prediction", "time"), KINDS)
def test_the_adaptive_solver_keeps_its_tolerance(path, prediction, time):
    flow = flow_of(sampler="ode-dopri5", path=path, prediction=prediction, time=time, rtol=1e-6, atol=1e-8)
    assert (solved(flow, START) - solution(flow, START)).abs().max().item() < 1e-4


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


# ---- predictions


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.02, 0.4, 0.97])
def test_predictions_convert_into_each_other(path, t):
    level, x0, noise = PATHS[path](t), torch.randn(2, 3).double(), torch.randn(2, 3).double()
    x = level.alpha * x0 + level.sigma * noise
    known = {
        "noise": noise,
        "score": -noise / level.sigma,
        "velocity": level.d_alpha * x0 + level.d_sigma * noise,
    }
    for given, wanted in [(a, b) for a in known for b in known]:
        found = convert(known[given], x, level, given=given, wanted=wanted)
        torch.testing.assert_close(found, known[wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_of_paths_are_those_of_differences(path):
    for t in (0.05, 0.5, 0.9):
        below, at, above = (PATHS[path](t + step) for step in (-1e-6, 0, 1e-6))
        assert (above.alpha - below.alpha) / 2e-6 == pytest.approx(at.d_alpha, rel=1e-6)
        assert (above.sigma - below.sigma) / 2e-6 == pytest.approx(at.d_sigma, rel=1e-6)
        assert at.drift == pytest.approx(at.d_alpha / at.alpha, rel=1e-9)
        assert diffusion("sbdm", t, at) == pytest.approx(at.sigma**2 * at.drift - at.sigma * at.d_sigma, rel=1e-9)
    for path in ("gvp", "vp"):
        assert math.hypot(PATHS[path](0.3).alpha, PATHS[path](0.3).sigma) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_time_of_a_ratio_of_noise_to_data(path):
    for t in (0.001, 0.2, 0.5, 0.93, 1 - 1e-5):
        level = PATHS[path](t)
        assert time_of_ratio(path, level.sigma / level.alpha) == pytest.approx(t, abs=1e-12)
    assert 0 <= time_of_ratio(path, 1e9) < 1e-6, "the noise that a path begins with, at most"


def test_a_network_of_ddpm_is_told_the_timestep_of_the_same_noise():
    flow = flow_of(sampler="ode-heun", time="ddpm")
    for t in (0.999, 0.7, 0.3, 0.01):
        level = flow.level(t)
        expected = noise_level(flow.told(t))
        assert expected.sigma / expected.alpha == pytest.approx(level.sigma / level.alpha, rel=0.02)
    assert flow.told(0.0) == pytest.approx(999, abs=5), "the noise that it begins with"
    assert flow.told(1 - 1e-5) == 0, "less noise than it knows"


# ---- guidance


def watched(model, run, count=5, **options):
    """The images of a run, and how many images each forward pass of the model had, guidance counted."""
    rows, plain = [], model.denoise
    model.denoise = lambda x, *rest: rows.append(len(x)) or plain(x, *rest)
    try:
        return ImageSampler(model, run, **options).draw(np.arange(count), np.arange(count)), rows
    finally:
        del model.denoise


@pytest.mark.parametrize("sampler", ["ode-euler", "ode-heun", "sde-euler", "sde-heun"])
@pytest.mark.parametrize("time", ["sit", "repa"])
def test_outside_its_interval_guidance_costs_nothing(sampler, time):
    model = random_dit()
    settings = {"sampler": sampler, "time": time, "num_sampling_steps": "11", "cfg_scale": 3.0}
    run = make_flow_run(model.config, **settings, guidance_interval=(0.25, 0.75))
    drawn, rows = watched(model, run)
    asked = scales(run.settings)
    assert set(asked) == {1.0, 3.0}
    assert sum(rows) == 8 * evaluations(run.settings).passes == 8 * sum(1 if scale == 1.0 else 2 for scale in asked)
    whole, rows = watched(model, make_flow_run(model.config, **settings))
    assert sum(rows) == 16 * len(asked)
    assert (drawn != whole).any()
    everywhere, _ = watched(model, make_flow_run(model.config, **settings, guidance_interval=(0.0, 1.0)))
    np.testing.assert_array_equal(everywhere, whole)


@needs_torchdiffeq
def test_the_adaptive_solver_is_guided_in_an_interval():
    model = random_dit()
    settings = {"sampler": "ode-dopri5", "cfg_scale": 3.0}
    whole, _ = watched(model, make_flow_run(model.config, **settings))
    everywhere, _ = watched(model, make_flow_run(model.config, **settings, guidance_interval=(0.0, 1.0)))
    assert np.abs(everywhere.astype(int) - whole).max() <= 1, "the solver looks beyond the end"
    inside, _ = watched(model, make_flow_run(model.config, **settings, guidance_interval=(0.2, 0.6)))
    assert (inside != whole).any()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_interval_of_ddpm_is_in_sigma(sampler):
    model, (low, high) = random_dit(), (0.34, 1.02)
    run = make_run(model.config, sampler=sampler, cfg_scale=2.5, cfg_channels=3, num_sampling_steps="20")
    drawn, rows = watched(model, dataclasses.replace(run, guidance_interval=(low, high)))
    process = Diffusion("20")
    abar = process.alphas_cumprod
    inside = {t: low < math.sqrt((1 - a) / a) <= high for t, a in zip(process.timesteps, abar, strict=True)}
    assert (
        sum(rows)
        == 8 * sum(1 + each for each in inside.values())
        == 8 * evaluations(run_settings(run, (low, high))).passes
    )
    assert 0 < sum(inside.values()) < 20
    y = torch.arange(5)
    both, none = torch.cat([y, torch.full_like(y, 10)]), ImageSampler(model, run)
    noise = none.noise(np.arange(5))

    def denoise(x, t):
        if inside[int(t[0])]:
            return model.forward_with_cfg(torch.cat([x, x]), torch.cat([t, t]), both, 2.5, 3)[:5]
        return model(x, t, y)

    with torch.inference_mode():
        expected = none.pixels(process.sample(denoise, noise(20), noise, sampler=sampler), np.arange(5))
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    wide, _ = watched(model, dataclasses.replace(run, guidance_interval=(0.0, 1e6)))
    np.testing.assert_array_equal(wide, watched(model, run)[0])
    assert sigmas("20") == pytest.approx([math.sqrt((1 - a) / a) for a in abar], rel=1e-9)


def run_settings(run, interval):
    return dataclasses.replace(run, guidance_interval=interval).settings


@pytest.mark.parametrize("settings", [{"sampler": "ddim"}, {"sampler": "ode-euler"}], ids=str)
def test_a_second_model_guides_in_place_of_no_label(settings):
    model, guide = random_dit(), random_dit(depth=1, hidden_size=16)
    run = make_flow_run(model.config, **settings, cfg_scale=2.0, cfg_channels=2, guide_ckpt="weak")
    drawn, rows = watched(model, run, guide=guide)
    assert sum(rows) == 8 * len(scales(run.settings)), "the model itself is asked once"
    y, indices = torch.arange(5), np.arange(5)
    plain = ImageSampler(model, dataclasses.replace(run, guide_ckpt=None, cfg_scale=1.0, cfg_channels=None))
    noise = plain.noise(indices)

    def network(x, time, *, scale, rows=None):
        strong, weak = model(x, time, y), guide(x, time, y)
        strong[:, :2] = weak[:, :2] + 2.0 * (strong[:, :2] - weak[:, :2])
        return strong

    with torch.inference_mode():
        x = noise(0)
        for index in reversed(range(len(plain.steps))):
            x = plain.steps.step(network, x, index, noise)
        expected = plain.pixels(x, indices)
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    with pytest.raises(ValueError, match="needed the network as well"):
        ImageSampler(model, run)


@needs_torchdiffeq
@pytest.mark.parametrize("interval", [None, (0.3, 0.7)])
def test_evaluations_of_a_solver_that_chooses_its_steps_are_counted_image_by_image(interval, monkeypatch):
    model, asked, plain = random_dit(depth=1, hidden_size=16), [], each_image._answer
    run = make_flow_run(model.config, sampler="ode-dopri5", rtol=0.1, cfg_scale=2.0, guidance_interval=interval)
    monkeypatch.setattr(each_image, "_answer", lambda these, _: asked.extend(these) or plain(these, _))
    found = ImageSampler(model, run).counted(np.arange(3))
    own = [question for question in asked if question.row < 3]  # the others fill the batch up
    assert found.number == len(own) / 3
    assert found.guided == sum(question.scale != 1.0 for question in own) / 3
    assert (found.fraction == 1) == (interval is None)
    assert found.passes == found.number * (1 + found.fraction)
    fixed = make_flow_run(model.config, sampler="ode-heun", num_sampling_steps="5", cfg_scale=2.0)
    assert ImageSampler(model, fixed).counted(np.arange(3)) == evaluations(fixed.settings), "known without counting"


# ---- images and their batches


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"sampler": "ode-dopri5", "rtol": 0.1}, marks=[needs_torchdiffeq, pytest.mark.slow]),
        {"sampler": "sde-heun", "time": "repa", "guidance_interval": (0.2, 0.7)},
        pytest.param({"sampler": "ode-heun", "time": "ddpm"}, marks=pytest.mark.slow),
        {"sampler": "ddpm", "guidance_interval": (0.3, 2.0)},
    ],
    ids=str,
)
def test_an_image_is_the_same_in_any_batch_and_after_an_interruption(settings, tmp_path):
    model = random_dit(depth=1, hidden_size=16)
    run = make_flow_run(model.config, **settings, cfg_scale=2.0, num_sampling_steps="4", num_images=33)
    labels, written = np.arange(33) % 10, set()
    for size in (1, 7, 32):
        out = tmp_path / f"{size}.npz"
        sampler = ImageSampler(model, run)
        plain, left = sampler.draw, [2]

        def draw(*arguments, plain=plain, left=left, **keywords):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return plain(*arguments, **keywords)

        if size == 7:
            sampler.draw = draw
            with pytest.raises(KeyboardInterrupt):
                sample_npz(out, sampler=sampler, labels=labels, batch_size=size)
            assert len(list(out.with_name(out.name + ".parts").glob("*.u8"))) == 2
            sampler = ImageSampler(model, run)
        sample_npz(out, sampler=sampler, labels=labels, batch_size=size)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_a_record_says_what_was_drawn_and_old_ones_say_nothing_new():
    config = random_dit().config
    run = make_flow_run(config, sampler="sde-euler", time="repa", cfg_scale=1.8, guidance_interval=(0.0, 0.7))
    found = SampleRun.from_json(run.to_json())
    assert found == run
    assert (found.path, found.prediction, found.diffusion_form) == ("linear", "velocity", "linear")
    assert (found.last_step, found.last_step_size, found.atol) == ("mean", 0.04, None)
    assert found.summary() == "test, 8 sde-euler steps, cfg 1.80 in 0 to 0.7, seed 0"
    assert steps_of(found.settings).passes(0) == 2
    adaptive = make_flow_run(config, sampler="ode-dopri5", rtol=1e-4)
    assert adaptive.summary() == "test, ode-dopri5 to 0.0001, no guidance, seed 0", "it chooses its number of steps"
    old = make_run(config)
    assert "path" not in json.loads(old.to_json())
    assert old.identity == {k: v for k, v in old.identity.items() if k not in ("path", "guidance_interval", "time")}
    assert run.differences(dataclasses.replace(run, guidance_interval=None)) == ["guidance_interval: (0.0, 0.7), None"]


def test_an_error_of_the_network_reaches_the_caller_and_lets_all_images_go():
    asked = []

    def network(x, time, *, scale, rows):
        asked.append(list(rows))
        if len(asked) == 3:
            raise ValueError("no more")
        return x

    def solve(network, x):
        for _ in range(5):
            x = network(x, torch.zeros(1), scale=1.0)
        return x

    with pytest.raises(ValueError, match="no more"):
        solve_each(solve, network, torch.zeros(4, 1))
    assert asked == [[0, 1, 2, 3]] * 3


# ---- mistakes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "gvp"}, "`path` gvp: the sampler ddpm does not use it; it is for flows"),
        ({"sampler": "ode-euler", "diffusion_form": "sigma"}, "`diffusion_form` sigma: the sampler ode-euler"),
        ({"sampler": "ode-heun", "rtol": 1e-3}, "it is for ode-dopri5"),
        ({"sampler": "sde-euler", "time": "repa", "path": "vp"}, "REPA has no such path"),
        ({"sampler": "ode-heun", "time": "ddpm", "path": "linear"}, "knows DDPM's path alone, vp"),
        ({"sampler": "sde-heun", "last_step": "none", "last_step_size": 0.1}, "there is no last step"),
        ({"sampler": "ode-heun", "guidance_interval": (0.5, 1.5)}, "the time of a flow ends at 1"),
        ({"guidance_interval": (0.7, 0.2)}, "expected two numbers, 0 <= LOW < HIGH"),
        ({"guidance_interval": (0.7,)}, "expected two numbers, LOW and HIGH; got 0.7"),
        ({"guidance_interval": (0.1, math.nan)}, "expected two numbers, 0 <= LOW < HIGH"),
        ({"cfg_scale": 1.0, "guidance_interval": (0.1, 0.9)}, "there is no guidance at `cfg_scale` 1.0"),
        ({"cfg_scale": 1.0, "guide_ckpt": "a.pt"}, "there is no guidance at `cfg_scale` 1.0"),
        ({"sampler": "heun"}, "Unknown sampler 'heun'; known: ddpm, ddim, ode-euler"),
        ({"sampler": "sde-euler", "timestep_shift": 0.3}, "it is for ODEs of known steps (ode-euler, ode-heun)"),
        ({"sampler": "ode-dopri5", "timestep_shift": 0.3}, "ode-dopri5 chooses its own, and REPA's sampler has none"),
        ({"sampler": "ode-euler", "time": "repa", "timestep_shift": 0.3}, "in SiT's time"),
        ({"sampler": "sde-euler", "last_step_size": 1.5}, "last_step_size: expected more than 0 and less than 1"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_loaded(settings, said):
    with pytest.raises(ValueError) as error:
        SamplingSettings(**settings).completed()
    assert said in str(error.value)


@pytest.mark.parametrize("steps", ["ddim50", "10,20", "1", "0", "1000000"])
def test_steps_of_a_flow_are_a_whole_number(steps):
    run = make_flow_run(random_dit().config, sampler="ode-euler", num_sampling_steps=steps)
    with pytest.raises(ValueError, match="takes a whole number from 2 to 100,000"):
        check_run(run, random_dit().config)


def test_a_run_without_its_flow_is_refused():
    config = random_dit().config
    with pytest.raises(ValueError, match="does not say which flow it follows"):
        check_run(dataclasses.replace(make_run(config), sampler="ode-euler"), config)


def test_a_network_without_variance_follows_flows_alone():
    model = random_dit(learn_sigma=False)
    images = ImageSampler(model, make_flow_run(model.config, sampler="ode-euler")).draw(np.arange(2), np.arange(2))
    assert images.std() > 0
    with pytest.raises(ValueError, match="predicts its variance"):
        ImageSampler(model, make_run(model.config))
