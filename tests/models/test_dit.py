"""The DiT family: sizes, names, block designs, guidance, and equality with the released code."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dit_goldens import CASES, inputs, seeded_state

from dit_eval.models.config import BLOCK_DESIGNS, DiTConfig, named_config, paper_name
from dit_eval.models.dit import DiT, position_table
from dit_eval.models.names import DIT_NAMES

GOLDENS = Path(__file__).parents[1] / "goldens"

# Trainable parameters; the paper prints them in millions (Table 4).
TRAINABLE = {
    "DiT-S/8": 33_142_016, "DiT-S/4": 32_920_448, "DiT-S/2": 32_865_056,
    "DiT-B/8": 130_869_248, "DiT-B/4": 130_426_496, "DiT-B/2": 130_315_808,
    "DiT-L/8": 458_578_432, "DiT-L/4": 457_988_224, "DiT-L/2": 457_840_672,
    "DiT-XL/8": 675_664_640, "DiT-XL/4": 675_000_704, "DiT-XL/2": 674_834_720,
}  # fmt: skip
OTHER_DESIGNS = {"in-context": 449_162_528, "cross-attention": 597_927_200, "adaln": 600_452_384}


def on_meta(config):
    with torch.device("meta"):
        return DiT(config)


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", TRAINABLE)
def test_trainable_parameters_of_the_twelve_models(name):
    assert trainable(on_meta(named_config(name))) == TRAINABLE[name]


def test_resolution_changes_the_position_table_only():
    small, large = on_meta(named_config("DiT-XL/2")), on_meta(named_config("DiT-XL/2", image_size=512))
    assert trainable(large) == TRAINABLE["DiT-XL/2"]
    assert (small.pos_embed.shape, large.pos_embed.shape) == ((1, 256, 1152), (1, 1024, 1152))
    assert sum(p.numel() for p in large.parameters()) == 676_014_368


@pytest.mark.parametrize("block", OTHER_DESIGNS)
def test_trainable_parameters_of_the_other_block_designs(block):
    assert trainable(on_meta(named_config("DiT-XL/2", block=block))) == OTHER_DESIGNS[block]


def test_state_dict_has_the_released_keys():
    state = on_meta(named_config("DiT-XL/2")).state_dict()
    assert len(state) == 292
    shapes = {
        "pos_embed": (1, 256, 1152),
        "x_embedder.proj.weight": (1152, 4, 2, 2),
        "t_embedder.mlp.0.weight": (1152, 256),
        "t_embedder.mlp.2.bias": (1152,),
        "y_embedder.embedding_table.weight": (1001, 1152),
        "blocks.27.attn.qkv.weight": (3456, 1152),
        "blocks.27.attn.proj.bias": (1152,),
        "blocks.0.mlp.fc1.weight": (4608, 1152),
        "blocks.0.mlp.fc2.weight": (1152, 4608),
        "blocks.0.adaLN_modulation.1.weight": (6912, 1152),
        "final_layer.linear.weight": (32, 1152),
        "final_layer.adaLN_modulation.1.bias": (2304,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("case", CASES)
def test_output_equals_the_released_modules(case):
    # Goldens are outputs of facebookresearch/DiT's own module with the same weights; see goldens/README.md.
    config, cfg_scale = CASES[case]
    model = DiT(DiTConfig(**config)).eval()
    model.load_state_dict(seeded_state(model.state_dict()))
    x, t, y = inputs(config)
    with torch.inference_mode():
        found = model(x, t, y) if cfg_scale is None else model.forward_with_cfg(x, t, y, cfg_scale)
    with np.load(GOLDENS / "dit.npz") as goldens:
        expected = goldens[case]
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_goldens_say_how_they_were_made():
    made = json.loads((GOLDENS / "dit.json").read_text())
    assert made["commit"].startswith("ed81ce2")
    assert set(made["cases"]) == set(CASES)


@pytest.mark.parametrize("block", BLOCK_DESIGNS)
def test_untrained_output_is_exactly_zero(block):
    config = DiTConfig(depth=2, hidden_size=48, num_heads=4, patch_size=2, input_size=8, block=block)
    model = DiT(config).eval()
    out = model(torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999]), torch.tensor([1, 2, 1000]))
    assert out.shape == (3, 8, 8, 8)
    assert (out == 0).all()


def small_model(**changes):
    config = {"depth": 2, "hidden_size": 48, "num_heads": 4, "patch_size": 2, "input_size": 8, "num_classes": 10}
    model = DiT(DiTConfig(**config | changes)).eval()
    model.load_state_dict(seeded_state(model.state_dict()))
    return model


@pytest.mark.parametrize("block", BLOCK_DESIGNS)
def test_every_design_reads_image_time_and_label(block):
    model = small_model(block=block)
    x, t, y = torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.tensor([3])
    out = model(x, t, y)
    for changed in (model(x + 0.1, t, y), model(x, t + 500, y), model(x, t, y + 1)):
        assert (changed - out).abs().max() > 1e-4 * out.abs().max()


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    model = DiT(DiTConfig(depth=1, hidden_size=384, num_heads=6, patch_size=2, block="in-context"))
    fan = {"x_embedder.proj": (16, 384), "blocks.0.attn.qkv": (384, 1152), "blocks.0.mlp.fc1": (384, 1536)}
    for name, (fan_in, fan_out) in fan.items():  # uniform within sqrt(6 / (in + out)); a patch counts as flattened
        layer = model.get_submodule(name)
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
        assert (layer.bias == 0).all()
    embeddings = (
        model.t_embedder.mlp[0].weight,
        model.t_embedder.mlp[2].weight,
        model.y_embedder.embedding_table.weight,
    )
    for weight in embeddings:
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_untrained_adaln_zero_blocks_are_the_identity():
    block = DiT(DiTConfig(depth=1, hidden_size=48, num_heads=4, patch_size=2, input_size=8)).blocks[0]
    x = torch.randn(2, 16, 48)
    assert torch.equal(block(x, torch.randn(2, 48)), x)


@pytest.mark.parametrize("channels", [3, 4])
def test_guidance_touches_its_channels_and_leaves_the_rest_conditional(channels):
    model, scale = small_model(), 1.5
    x, t, null = torch.randn(2, 4, 8, 8), torch.tensor([40, 700]), torch.tensor([10, 10])
    y = torch.tensor([1, 7])
    with torch.inference_mode():
        conditional, unconditional = model(x, t, y), model(x, t, null)
        garbage = torch.full_like(x, float("nan"))  # the second half of the input must not be read
        out = model.forward_with_cfg(torch.cat([x, garbage]), t.repeat(2), torch.cat([y, null]), scale, channels)
    mixed = unconditional + scale * (conditional - unconditional)
    for half, own in ((out[:2], conditional), (out[2:], unconditional)):
        torch.testing.assert_close(half[:, :channels], mixed[:, :channels], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(half[:, channels:], own[:, channels:], rtol=1e-4, atol=1e-5)


def test_labels_are_dropped_while_training_only():
    model = small_model(label_dropout=0.25)
    torch.manual_seed(0)
    y = torch.full((20_000,), 3)
    table = model.y_embedder.embedding_table.weight
    assert torch.equal(model.y_embedder(y[:5]), table[3].expand(5, -1))
    model.train()
    dropped = (model.y_embedder(y) == table[10]).all(dim=1).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 20_000) ** 0.5)
    assert len(small_model(label_dropout=0.0).y_embedder.embedding_table.weight) == 10


def test_pixel_space_models_of_any_size():
    model = small_model(in_channels=1, input_size=16, patch_size=4, learn_sigma=False)
    assert model(torch.randn(2, 1, 16, 16), torch.tensor([0, 1]), torch.tensor([0, 1])).shape == (2, 1, 16, 16)


def test_position_table_encodes_columns_first():
    table = position_table(1152, 16)
    assert table[1, [0, 288, 576, 864]].tolist() == pytest.approx([np.sin(1), np.cos(1), 0, 1], abs=1e-6)
    assert table[16, [576, 864]].tolist() == pytest.approx([np.sin(1), np.cos(1)], abs=1e-6)
    assert table.double().sum().item() == pytest.approx(134598.9478, abs=0.01)
    assert table.double().abs().sum().item() == pytest.approx(165457.3215, abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: named_config("DiT-XL2"), r"Unknown model 'DiT-XL2'; known: DiT-S/2.*Did you mean 'DiT-XL/2'"),
        (lambda: named_config("DiT-S/2", image_size=250), r"needed a multiple of 8"),
        (lambda: named_config("DiT-S/2", block="adaln-one"), r"Unknown block design 'adaln-one'; known: adaln-zero"),
        (lambda: named_config("DiT-S/8", image_size=72), r"9 pixels does not divide into patches of 8"),
        (lambda: small_model(num_heads=5), r"Hidden size 48: needed a multiple of 4 .* and of 5 heads"),
        (lambda: small_model().forward_with_cfg(torch.zeros(3, 4, 8, 8), None, None, 1.5), r"two halves; found .* 3"),
        (lambda: small_model().forward_with_cfg(torch.zeros(2, 4, 8, 8), None, None, 1.5, 5), r"needed 1 to 4"),
    ],
)
def test_what_cannot_be_built_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_configuration_knows_its_name():
    for name in DIT_NAMES:
        assert paper_name(replace(named_config(name, image_size=512, block="adaln"), num_classes=7)) == name
    config = named_config("DiT-B/4")
    for other in (replace(config, depth=11), replace(config, patch_size=1), replace(config, space="pixel")):
        assert paper_name(other) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_size", True), ("depth", 1.0), ("hidden_size", "64"), ("label_dropout", False), ("learn_sigma", "no"),
     ("learn_sigma", 1), ("label_dropout", float("nan"))],
)  # fmt: skip
def test_a_configuration_of_another_kind_is_no_network(name, value):
    given = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 1, "input_size": 8, "in_channels": 1}
    assert DiTConfig(**given).depth == 1
    with pytest.raises(ValueError, match=f"Found {name} {value}; needed"):
        DiTConfig(**given | {name: value})
