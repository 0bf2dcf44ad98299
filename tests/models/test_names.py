"""One grammar of model names, and the list of the paper's models."""

import subprocess
import sys

import pytest
import torch

from dit_eval.models import MODELS, find_model
from dit_eval.models.config import DiTConfig
from dit_eval.models.names import DIT_NAMES, LIGHTNING_NAMES, SIT_NAMES, UNET_NAMES, parse_name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("DiT-XL/2", ("DiT", "XL", 2)),
        ("mini-S/4", ("mini", "S", 4)),
        ("my own-family-B/16", ("my own-family", "B", 16)),
        ("DiT-XL", None),
        ("DiT-M/2", None),
        ("-S/2", None),
        ("a/b-S/2", None),
        ("mini-S/0", None),
        ("mini-S/02", None),
        ("mini-S/" + "9" * 5000, None),
    ],
)
def test_a_name_in_its_parts(text, parts):
    name = parse_name(text)
    assert (name and (name.family, name.size, name.patch)) == parts


def test_names_of_the_paper_and_of_files():
    assert all(parse_name(name).is_papers for name in DIT_NAMES)
    assert parse_name("DiT-mine-S/2").is_papers
    assert not parse_name("mini-S/2").is_papers
    assert parse_name("mini_2-S/2").is_plain
    assert not any(parse_name(name).is_plain for name in ("my own-S/2", "né-S/2", "-x-S/2"))


def test_the_models_of_the_paper_in_its_order():
    assert tuple(model.name for model in MODELS) == DIT_NAMES + UNET_NAMES + SIT_NAMES + LIGHTNING_NAMES
    assert {model.family for model in MODELS} == {"DiT", "ADM", "LDM", "SiT", "LightningDiT"}
    with pytest.raises(ValueError, match="Did you mean 'ADM-256'"):
        find_model("ADM256")


@pytest.mark.parametrize("name", ["DiT-S/8", "ADM-64", "ADM-U-256-upsampler", "LDM-8", "SiT-S/8", "LightningDiT-B/2"])
def test_a_model_takes_its_example_inputs(name):
    model = find_model(name)
    config = model.config()
    with torch.device("meta"):
        arguments, keywords = model.example_inputs(config)
        out = model.build(config)(*arguments, **keywords)
    assert out.shape == (1, config.out_channels, config.input_size, config.input_size)


def test_a_configuration_of_another_size_or_design():
    config = find_model("DiT-B/4").config(image_size=512, block="adaln")
    assert isinstance(config, DiTConfig)
    assert (config.image_size, config.block, config.patch_size) == (512, "adaln", 4)
    with pytest.raises(ValueError, match="makes images of 256 pixels and has no block designs"):
        find_model("ADM-256").config(block="adaln")


def test_the_list_needs_no_torch():
    code = "import sys, dit_eval.models, dit_eval.models.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
