"""LDM's autoencoder (Rombach et al. 2022) by names and shapes, as in the files of FLUX and VA-VAE, for diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

_MOST_LEVELS = 16
_BLOCK = {"nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MIDDLE = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
_SIDES = {"downsample": "downsamplers.0", "upsample": "upsamplers.0"}
_GROUPS = 32  # of its norms, in no file; LDM's code has no other


def is_ldm(names: Mapping[str, object]) -> bool:
    """Whether names are LDM's."""
    return "encoder.down.0.block.0.conv1.weight" in names and "decoder.up.0.block.0.conv1.weight" in names


def ldm_config(shapes: Shapes) -> dict[str, Any]:
    """diffusers' description of an autoencoder of LDM.

    Raises
    ------
    ValueError
        If a name is missing that tells it, or is of another shape.
    """
    levels = [level for level in range(_MOST_LEVELS) if f"encoder.down.{level}.block.0.conv1.weight" in shapes]
    if levels != list(range(len(levels))):
        raise ValueError(f"Found the levels {levels} of an encoder; expected them without gaps.")
    layers = sum(f"encoder.down.0.block.{layer}.conv1.weight" in shapes for layer in range(_MOST_LEVELS))
    down = [f"encoder.down.{level}.attn.0.q.weight" in shapes for level in levels]
    up = [f"decoder.up.{level}.attn.0.q.weight" in shapes for level in reversed(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [_sides(shapes, f"encoder.down.{level}.block.0.conv1.weight")[0] for level in levels],
        "down_block_types": [f"{'Attn' * attends}DownEncoderBlock2D" for attends in down],
        "up_block_types": [f"{'Attn' * attends}UpDecoderBlock2D" for attends in up],
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": _sides(shapes, "decoder.conv_in.weight")[1],
        "layers_per_block": layers,
        "mid_block_add_attention": "decoder.mid.attn_1.q.weight" in shapes,
        "norm_num_groups": _GROUPS,
        "sample_size": 256,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "use_quant_conv": "quant_conv.weight" in shapes,
    }


def _sides(shapes: Shapes, name: str) -> tuple[int, ...]:
    """The shape of a convolution's weights."""
    shape = shapes.get(name, ())
    if len(shape) != 4:
        raise ValueError(f"{name}: found {shape or 'nothing'}; expected the weights of a convolution.")
    return shape


def in_diffusers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an autoencoder of LDM as diffusers calls them; its maps of attention are convolutions of 1 x 1."""
    levels = sum(f"decoder.up.{level}.block.0.conv1.weight" in tensors for level in range(_MOST_LEVELS))
    renamed = {_diffusers_name(name, levels): value for name, value in tensors.items()}
    return {
        name: value.flatten(1) if ".attentions." in name and value.ndim == 4 else value
        for name, value in renamed.items()
    }


def _diffusers_name(name: str, levels: int) -> str:
    """A name of LDM in diffusers'; one that is not of the kind stays as it is."""
    outer = re.fullmatch(r"(encoder|decoder)\.(down|up)\.(\d+)\.(block|attn)\.(\d+)\.([a-z_0-9]+)\.(\w+)", name)
    if outer:
        side, way, level, what, layer, part, kind = outer.groups()
        place = int(level) if way == "down" else levels - 1 - int(level)
        parts = {"block": _BLOCK, "attn": _ATTENTION}[what]
        inner = {"block": "resnets", "attn": "attentions"}[what]
        return f"{side}.{way}_blocks.{place}.{inner}.{layer}.{parts.get(part, part)}.{kind}"
    change = re.fullmatch(r"(encoder|decoder)\.(down|up)\.(\d+)\.(downsample|upsample)\.conv\.(\w+)", name)
    if change:
        side, way, level, what, kind = change.groups()
        place = int(level) if way == "down" else levels - 1 - int(level)
        return f"{side}.{way}_blocks.{place}.{_SIDES[what]}.conv.{kind}"
    middle = re.fullmatch(r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)\.([a-z_0-9]+)\.(\w+)", name)
    if middle:
        side, what, part, kind = middle.groups()
        parts = _ATTENTION if what == "attn_1" else _BLOCK
        return f"{side}.mid_block.{_MIDDLE[what]}.{parts.get(part, part)}.{kind}"
    return re.sub(r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out.", name)
