"""LightningDiT, and DiTs with some of its parts: equality with the modules of SiT, REPA, fast-DiT and LightningDiT."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from later_goldens import CASES, later_inputs, weights

from dit_eval.models import find_model
from dit_eval.models.config import DiTConfig
from dit_eval.models.lightning import LightningConfig, LightningDiT, named_config, network, network_config

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


def test_the_parts_are_fields_of_a_configuration_and_plain_ones_stay_as_they_are():
    plain, later = find_model("SiT-XL/2").config(), named_config("LightningDiT-XL/1")
    assert network_config(asdict(plain)) == plain == find_model("DiT-XL/2").config()
    assert type(network_config(asdict(plain))) is DiTConfig
    assert network_config(asdict(later)) == later
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
        (lambda: LightningConfig(**SMALL, latent_factor=0), "Found latent_factor 0; needed an integer from 1 to 64"),
        (lambda: network_config(SMALL | {"rope": True, "depth": 0}), "Found depth 0"),
    ],
)
def test_what_cannot_be_built_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()
