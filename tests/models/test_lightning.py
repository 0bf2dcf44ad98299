"""LightningDiT, and DiTs with some of its parts: equality with the modules of SiT, REPA, fast-DiT and LightningDiT."""

import dataclasses
import hashlib
import json
from pathlib import Path

import later_goldens
import numpy as np
import pytest
import sample_runs
import torch
from later_goldens import CASES, later_inputs, weights

from dit_eval.diffusion.guidance import scales
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.flops.count import count_model
from dit_eval.flops.kept import count_network
from dit_eval.flops.printed import counted_row
from dit_eval.models import find_model
from dit_eval.models.checkpoints import save_dit, stored_config
from dit_eval.models.config import DiTConfig
from dit_eval.models.lightning import LightningConfig, LightningDiT, named_config, network, network_config
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.sampling import sample

GOLDENS = Path(__file__).parents[1] / "goldens"
LARGE = json.loads((GOLDENS / "later.json").read_text())["large"]


def seeded(config):
    model = network(network_config(config)).eval()
    model.load_state_dict(weights(model.state_dict()))
    return model


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if "wide" in case else case for case in CASES]
)
def test_output_equals_the_released_modules(case):
    model = seeded(CASES[case][1])
    with torch.inference_mode():
        found = model(*later_inputs(CASES[case][1])).numpy()
    with np.load(GOLDENS / "later.npz") as goldens:
        expected = goldens[case]
    # SiT's and LightningDiT's code drop the second half of the output here, our samplers in their steps.
    found = found[:, : expected.shape[1]]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def on_meta(config):
    with torch.device("meta"):
        return network(config)


def digest(shapes):
    lines = sorted(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", [name for name in LARGE if not name.startswith("REPA")])
def test_names_and_shapes_of_the_published_models(name):
    model = on_meta(find_model(name).config())
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    expected = LARGE[name]
    assert (len(shapes), sum(p.numel() for p in model.parameters() if p.requires_grad)) == (
        expected["tensors"], expected["params"],
    )  # fmt: skip
    assert digest(shapes) == expected["sha256"]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_repas_are_a_sit_without_variance_and_projectors(qk_norm):
    config = dataclasses.asdict(find_model("SiT-XL/2").config()) | {"learn_sigma": False, "qk_norm": qk_norm}
    shapes = {key: value.shape for key, value in on_meta(network_config(config)).state_dict().items()}
    for layer, (rows, columns) in {0: (2048, 1152), 2: (2048, 2048), 4: (768, 2048)}.items():
        shapes |= {f"projectors.0.{layer}.weight": (rows, columns), f"projectors.0.{layer}.bias": (rows,)}
    assert digest(shapes) == LARGE["REPA SiT-XL/2" + (", qk-norm" if qk_norm else "")]["sha256"]


def test_a_file_of_ours_says_its_parts_and_is_drawn_from(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    small = {"input_size": 8, "patch_size": 2, "in_channels": 3, "space": "pixel", "depth": 1}
    model = seeded(CASES["LightningDiT"][1] | small)
    save_dit(tmp_path / "own.safetensors", model)
    assert stored_config(tmp_path / "own.safetensors") == model.config
    settings = SamplingSettings(num_images=3, num_sampling_steps=4, sampler="ode-heun", timestep_shift=0.3)
    for size in (1, 3):
        sample(ckpt=tmp_path / "own.safetensors", out=tmp_path / f"{size}.npz", settings=settings, batch_size=size)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "3.npz").read_bytes()
    with np.load(tmp_path / "3.npz") as file:
        run = SampleRun.from_json(str(file["sample_run"]))
        assert file["arr_0"].std() > 0
    assert network_config(run.network) == model.config


def test_the_parts_are_fields_of_a_configuration_and_plain_ones_stay_as_they_are():
    plain, later = find_model("SiT-XL/2").config(), named_config("LightningDiT-XL/1")
    assert network_config(dataclasses.asdict(plain)) == plain == find_model("DiT-XL/2").config()
    assert type(network_config(dataclasses.asdict(plain))) is DiTConfig
    assert network_config(dataclasses.asdict(later)) == later
    assert (later.image_size, later.input_size, later.in_channels) == (256, 16, 32)
    assert named_config("LightningDiT-1p0B/2", image_size=512).input_size == 32


def test_a_part_that_is_off_is_dits():
    config = CASES["SiT"][1]
    plain, later = seeded(config), LightningDiT(LightningConfig(**config)).eval()
    later.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(later(*later_inputs(config)), plain(*later_inputs(config)), rtol=1e-5, atol=1e-6)


def test_untrained_output_is_exactly_zero():
    model = network(network_config(CASES["LightningDiT"][1])).eval()
    assert (model(*later_inputs(CASES["LightningDiT"][1])) == 0).all()


SMALL = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 1, "input_size": 8, "in_channels": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: named_config("LightningDiT-XL/4"),
            "Unknown model 'LightningDiT-XL/4'.*Did you mean 'LightningDiT-XL/",
        ),
        (lambda: named_config("LightningDiT-B/1", image_size=250), "needed a multiple of 16, the factor of VA-VAE"),
        (lambda: named_config("LightningDiT-B/1", block="adaln"), "Found block adaln; a network with LightningDiT's"),
        (lambda: LightningConfig(**SMALL, rope=1), "Found rope 1; needed true or false"),
        (lambda: LightningConfig(**SMALL | {"hidden_size": 12}, rope=True), "Heads of 6 channels"),
        (lambda: LightningConfig(**SMALL, latent_factor=0), "Found latent_factor 0; needed an integer from 1 to 1,024"),
        (lambda: network_config(SMALL | {"rope": True, "depth": 0}), "Found depth 0"),
    ],
)
def test_what_cannot_be_built_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- LightningDiT's sampler


def test_every_step_of_lightningdit_equals_the_released_loop(monkeypatch):
    config = network_config(later_goldens.CASES[later_goldens.SAMPLED_CASE][1])
    model, asked, last = network(config).eval(), [], []
    model.load_state_dict(later_goldens.weights(model.state_dict()))
    plain, noise = ImageSampler._guided, torch.cat([later_goldens.start(), torch.zeros(6, 32, 4, 4)])

    def seen(self, x, *arguments):
        asked.append(x[0].numpy().copy())
        return plain(self, x, *arguments)

    monkeypatch.setattr(ImageSampler, "_guided", seen)
    monkeypatch.setattr(ImageSampler, "noise", lambda *_: lambda _: noise)
    run = dataclasses.replace(sample_runs.make_flow_run(config, **later_goldens.SAMPLED), vae="none")
    assert (run.cfg_channels, run.timestep_shift) == (3, 0.3)
    sampler = ImageSampler(model, run, decode=lambda x: last.append(x.numpy()) or x[:, :3].clamp(-1, 1))
    sampler.draw(np.arange(2), later_goldens.SAMPLED_LABELS.numpy())
    with np.load(GOLDENS / "later.npz") as goldens:
        theirs = [*goldens["sampled/asked"], goldens["sampled/last"]]
    assert {scale for scale in scales(run.settings)} == {1.0, 6.7}
    for ours, expected in zip([*asked, last[0]], theirs, strict=True):
        assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()
    assert SampleRun.from_json(run.to_json()) == run


# ---- multiply-adds


# Whose paper prints what (SiT's README, and images/results.png of LightningDiT): Gflops, millions of parameters.
PRINTED = {"SiT-XL/2": (119.0, 675), "LightningDiT-XL/1": (None, 675)}


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ("SiT-XL/2", "LightningDiT-XL/1")), "LightningDiT-B/1"],
)
def test_multiply_adds_are_those_of_the_released_module(name):
    count = count_model(name)
    assert count.macs == LARGE[name]["macs"]
    assert count.params == LARGE[name]["params"]
    row = counted_row(name, count, image_size=None, block=None)
    assert (row.published, row.published_params_m) == PRINTED.get(name, (None, None))
    assert row.agrees() in (True, None)
    assert row.remarks() == []


def test_a_network_of_a_record_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    config = dataclasses.asdict(network_config(CASES["LightningDiT"][1]))
    assert count_network(config).params_m == pytest.approx(
        sum(p.numel() for p in network(network_config(config)).parameters() if p.requires_grad) / 1e6
    )
    assert count_network(config | {"rope": "yes"}) is None
