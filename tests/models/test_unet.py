"""The U-Nets of Table 6: outputs of the original modules, names, shapes and parameters of the released ones."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from unet_goldens import CASES, inputs, layout, seeded_state

from dit_eval.models.names import UNET_NAMES, UNET_SIZES
from dit_eval.models.unet import UNETS, UNet, UNetConfig, named_config

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_outputs_are_the_original_modules(name):
    model = UNet(UNetConfig(**CASES[name])).eval()
    model.load_state_dict(seeded_state(model.state_dict()))
    found = model(**inputs(CASES[name])).numpy()
    with np.load(GOLDENS / "unet.npz") as goldens:
        expected = goldens[name]
    assert found.shape == expected.shape
    # float32 through some thirty layers, with fused attention here and two products there
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", UNET_NAMES)
def test_names_shapes_and_parameters_are_the_released_ones(name):
    with torch.device("meta"):
        model = UNet(named_config(name))
    golden = json.loads((GOLDENS / "unet.json").read_text())["full size"][name]
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    assert hashlib.sha256(layout(model.state_dict()).encode()).hexdigest() == golden["layout_sha256"]


def test_parameter_counts_in_millions():
    millions = [295.90, 421.53, 553.84, 559.00, 311.80, 308.84, 400.92, 394.98]
    golden = json.loads((GOLDENS / "unet.json").read_text())["full size"]
    assert [round(golden[name]["params"] / 1e6, 2) for name in UNET_NAMES] == millions


def test_an_untrained_block_is_the_identity_and_the_output_zero():
    model = UNet(UNetConfig(**CASES["adm"])).eval()
    assert not model(**inputs(CASES["adm"])).any()


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("adm", {"y": None}, "needs `y`"),
        ("adm", {"context": torch.zeros(2, 1, 24)}, "takes no `context`"),
        ("latent, heads", {"context": None}, "needs `context`"),
        ("upsampler", {"low_res": None}, "needs `low_res`"),
    ],
)
def test_a_missing_condition_is_named(case, change, message):
    model = UNet(UNetConfig(**CASES[case]))
    with pytest.raises(ValueError, match=message):
        model(**inputs(CASES[case]) | change)


def test_the_nearest_name_is_suggested():
    with pytest.raises(ValueError, match="Did you mean 'ADM-256'"):
        named_config("ADM256")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_heads": 4, "head_channels": 8}, "one of the two"), ({"input_size": 18}, "multiple of 4")],
)
def test_a_configuration_that_cannot_be_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**CASES["adm"] | change)


def test_every_published_configuration_has_a_name_of_its_own():
    assert len(set(UNETS.values())) == len(UNETS) == 8
    assert tuple(UNETS) == UNET_NAMES
    assert {name: config.image_size for name, config in UNETS.items()} == UNET_SIZES
