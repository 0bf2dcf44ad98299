"""What a path of an autoencoder means: which network it is, and which latents it makes.

Known layouts: a folder or file of diffusers with its `config.json`; one file in LDM's names, as of FLUX and VA-VAE,
which are enough to know the network; and Stable Diffusion's in either, alone. How latents are scaled is in no file of
weights. It stands in the `config.json`, or in LightningDiT's `latents_stats.pt` beside it. What is published and pinned
is known; all else is asked for, never guessed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dit_eval.models.checkpoints import read_state
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.vae_names import is_ldm, ldm_config
from dit_eval.models.wrappers import Unwrapped, unwrap
from dit_eval.system.assets import Asset, assets
from dit_eval.system.reading import is_count, is_number, read_json
from dit_eval.system.text import did_you_mean, reason, shown

# Names of the command line and the assets that they are.
DECODERS = {"ema": "sd-vae-ft-ema", "mse": "sd-vae-ft-mse", "original": "sd-vae-original", "flux": "flux-ae"}
STATISTICS = "latents_stats.pt"  # of LightningDiT: mean and std of each channel

# The f8 autoencoder of Stable Diffusion, as diffusers describes it; one weights file is then enough.
SD_CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LatentSpace.channels,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": LatentSpace.scale,
}
# FLUX.1's scale_factor and shift_factor in `flux/util.py` of black-forest-labs/flux.
_FLUX = LatentSpace(channels=16, scale=0.3611, shift=0.1159)
_PUBLIC = {"flux-ae": _FLUX}  # of the assets whose latents are others than Stable Diffusion's

_WEIGHTS = "diffusion_pytorch_model"
_MAX_CONFIG = 1 << 16  # bytes of a config.json
_MAX_BLOCKS = 32  # of an autoencoder, and layers of a block
_CHANNELS = {"AutoencoderKL": 4, "AutoencoderDC": 32}  # of latents, where a config.json does not say them
_LEVELS = {"AutoencoderKL": "block_out_channels", "AutoencoderDC": "encoder_block_out_channels"}
_PER_CHANNEL = ("latents_mean", "latents_std")

_ROOTS = {"encoder", "decoder", "quant_conv", "post_quant_conv"}  # first parts of its names
_ANCHORS = {"decoder.conv_in.weight"}  # of AutoencoderDC too
_NOT_OURS = {  # a part of names in files of other autoencoders, and what they are
    "op_list": "a DC-AE in the names of its own code; take the folder whose name ends in -diffusers",
    "quantize": "a VQ autoencoder, whose latents are numbers of a codebook and not a Gaussian's",
    "first_stage_model": "a whole Stable Diffusion; save its autoencoder alone, or pass its `vae` folder in diffusers' "
    "layout",
    "time_conv": "an autoencoder of videos",
}


@dataclass(frozen=True, kw_only=True)
class AutoencoderFile:
    """An autoencoder on the disk.

    Attributes
    ----------
    weights : the file
    config : diffusers' description of the network; `_class_name` is "AutoencoderKL" or "AutoencoderDC"
    latents : that it makes
    notes : what was taken for granted, in words
    """

    weights: Path
    config: dict[str, Any] = field(repr=False)
    latents: LatentSpace
    notes: tuple[str, ...] = ()


def weights_file(path: Path) -> Path:
    """The weights that a path means: itself, or the file in a folder of diffusers' layout.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    files = [path] if not path.is_dir() else [path / f"{_WEIGHTS}.safetensors", path / f"{_WEIGHTS}.bin"]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        inner = f" The autoencoder of a pipeline is its folder {path / 'vae'}." if (path / "vae").is_dir() else ""
        raise FileNotFoundError(
            f"{path}: no autoencoder there; needed a weights file, a folder with {_WEIGHTS}.safetensors and "
            f"config.json, or one of {', '.join(DECODERS)}.{inner}{did_you_mean(path.name, DECODERS)}"
        )
    return found


def latents_of(decoder: Path | Asset) -> LatentSpace:
    """The latents of an autoencoder; a public one need not be here. Errors as `open_autoencoder`."""
    if isinstance(decoder, Asset):
        return _PUBLIC.get(decoder.name, LatentSpace())
    return open_autoencoder(decoder).latents


def open_autoencoder(path: Path) -> AutoencoderFile:
    """Find out what an autoencoder is, before its weights are read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none, another kind of one, or nothing says how its latents are scaled.
    """
    file = weights_file(path)
    public = _published(file)
    config = None if public is not None else _config_beside(file)
    if config is not None:
        return _by_config(file, config)
    names = _tensors(file)
    if is_ldm(names):
        config = _ldm_config(file, names)
    elif _fits_stable_diffusion(names):
        config = SD_CONFIG
    else:
        raise ValueError(f"{file}: {_other(names)}.")
    if public is not None:
        return AutoencoderFile(weights=file, config=config, latents=public)
    return _by_names(file, config)


def read_autoencoder(file: Path) -> Unwrapped:
    """The tensors of an autoencoder out of what is around them.

    Raises
    ------
    ValueError
        If the file has no such, or cannot be read.
    """
    return _unwrapped(file, read_state(file))


def described(path: Path) -> dict[str, Any]:
    """How diffusers describes an autoencoder in a file, within bounds: it makes as many layers as it is told."""
    config = read_json(path, "the config.json of an autoencoder", max_size=_MAX_CONFIG)
    for name, value in config.items():
        lists = [value, *value] if isinstance(value, list) and name not in _PER_CHANNEL else []
        longest = max((len(each) for each in lists if isinstance(each, list)), default=0)
        if longest > _MAX_BLOCKS:
            raise ValueError(f"{path}: {shown(name)[:80]} has {longest:,} entries; expected at most {_MAX_BLOCKS}.")
    for name in ("layers_per_block", "encoder_layers_per_block", "decoder_layers_per_block"):
        said = config.get(name, 1)
        for layers in said if isinstance(said, list) else [said]:
            if not is_count(layers) or layers > _MAX_BLOCKS:
                raise ValueError(f"{path}: {name} is {said!r:.80}; expected a number up to {_MAX_BLOCKS}.")
    return config


def _published(file: Path) -> LatentSpace | None:
    """The latents of a file of the cache that was fetched by its name."""
    ours = (item for item in assets() if item.name in DECODERS.values() and item.url is not None)
    name = next((item.name for item in ours if os.path.abspath(item.path) == os.path.abspath(file)), None)
    return None if name is None else _PUBLIC.get(name, LatentSpace())


def _config_beside(file: Path) -> dict[str, Any] | None:
    """The description beside a file; beside one whose name is not diffusers' it may be of something else."""
    beside = file.with_name("config.json")
    if not beside.is_file():
        return None
    if file.name.partition(".")[0] == _WEIGHTS:
        return described(beside)
    try:
        config = described(beside)
    except ValueError:
        return None
    return config if str(config.get("_class_name")).startswith("Autoencoder") else None


def _by_config(file: Path, config: dict[str, Any]) -> AutoencoderFile:
    """An autoencoder that diffusers describes; the statistics beside it are taken if it says no scale."""
    where = file.with_name("config.json")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in _CHANNELS:
        raise ValueError(
            f"{where}: describes {shown(str(kind))[:60]}; expected AutoencoderKL or AutoencoderDC. Pass one of these."
        )
    levels = config.get(_LEVELS[kind])
    channels = config.get("latent_channels", _CHANNELS[kind])
    if not isinstance(levels, list) or not levels or not is_count(channels):
        found = f"{_LEVELS[kind]} {levels!r:.60} and latent_channels {channels!r:.40}"
        raise ValueError(f"{where}: not the weights of an autoencoder in diffusers' names; it says {found}.")
    try:
        space = LatentSpace(channels=channels, factor=2 ** (len(levels) - 1))
        said = _said_scaling(config, space)
    except ValueError as error:
        raise ValueError(f"{where}: {reason(error)}") from None
    counted = _statistics(file, space)
    if said is not None and counted is not None:
        raise ValueError(
            f"{where}: says how latents are scaled, and so does {STATISTICS} beside it. Keep the one by which the "
            "transformer was trained."
        )
    found_space = said or counted
    if found_space is None and kind == "AutoencoderKL" and space == LatentSpace():
        found_space = space  # the released ones are older than the field
    if found_space is None:
        raise ValueError(f"{where}: says no `scaling_factor`; expected it there, or {STATISTICS} beside it.")
    return AutoencoderFile(weights=file, config={**config, "_class_name": kind}, latents=found_space)


def _said_scaling(config: Mapping[str, Any], space: LatentSpace) -> LatentSpace | None:
    """The latents as a config.json says they are scaled; None if it does not."""
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None or std is not None:
        if shift is not None or not isinstance(mean, list) or not isinstance(std, list):
            raise ValueError("latents_mean and latents_std: expected both, as lists, and no `shift_factor`.")
        return _normalised(space, mean, std, multiplier=1.0 if scale is None else scale)
    return None if scale is None else replace(space, scale=scale, shift=0.0 if shift is None else shift)


def _normalised(space: LatentSpace, mean: list[Any], std: list[Any], *, multiplier: Any) -> LatentSpace:
    """(z - mean) / std * multiplier of each channel, as LightningDiT's dataset and diffusers' pipelines have it."""
    if not all(is_number(each) for each in (*mean, *std, multiplier)) or not all(each > 0 for each in std):
        raise ValueError("Found a mean and a std that are no numbers, or a std that is not above 0.")
    scale = tuple(multiplier / each for each in std)
    return replace(space, scale=scale, shift=tuple(map(float, mean)))


def _statistics(file: Path, space: LatentSpace) -> LatentSpace | None:
    """The latents by LightningDiT's statistics beside a file; None if there are none."""
    path = file.with_name(STATISTICS)
    if not path.is_file():
        return None
    found = read_state(path)
    lists: list[list[float]] = []
    for value in (found.get("mean"), found.get("std")):
        if not isinstance(value, Tensor) or value.numel() != space.channels or not value.is_floating_point():
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{path}: found {shape}; expected a mean and a std of {space.channels} channels each, of the latents "
                f"of {file.name}. Move one of the two to another folder if they are not of one autoencoder."
            )
        lists.append(value.flatten().tolist())
    try:
        return _normalised(space, *lists, multiplier=1.0)
    except ValueError as error:
        raise ValueError(f"{path}: {reason(error)}") from None


def _by_names(file: Path, config: dict[str, Any]) -> AutoencoderFile:
    """An autoencoder that its own names and shapes describe."""
    try:
        space = LatentSpace(channels=config["latent_channels"], factor=2 ** (len(config["block_out_channels"]) - 1))
    except ValueError as error:
        raise ValueError(f"{file}: {reason(error)}") from None
    counted = _statistics(file, space)
    if counted is not None:
        return AutoencoderFile(weights=file, config=config, latents=counted)
    if space == LatentSpace():
        note = (
            f"{file}: nothing beside it says how its latents are scaled; {space.scale} is taken, Stable Diffusion's "
            "(SDXL's are scaled by 0.13025, and look alike)"
        )
        return AutoencoderFile(weights=file, config=config, latents=space, notes=(note,))
    raise ValueError(
        f"{file}: an autoencoder of {space.words}, and nothing says how its latents are scaled. "
        f"{_where_scaling_is(space.channels, space.factor)}"
    )


def _where_scaling_is(channels: int, factor: int) -> str:
    """Where people find the scale of such an autoencoder."""
    if (channels, factor) == (16, 8):
        return (
            "SD3's (scale 1.5305, shift 0.0609) and FLUX's (0.3611, 0.1159) look alike: put the config.json of its "
            "folder in diffusers' layout beside it, or pass `vae` flux for the public one."
        )
    return (
        f"Put {STATISTICS} beside it, which is published with VA-VAE; or a config.json with `_class_name` "
        "AutoencoderKL, its sizes and `scaling_factor`."
    )


def _ldm_config(file: Path, names: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        return ldm_config({name: tuple(value.shape) for name, value in names.items()})
    except ValueError as error:
        raise ValueError(f"{file}: {reason(error)}") from None


def _fits_stable_diffusion(names: Mapping[str, Tensor]) -> bool:
    """Whether names are diffusers' and latents have 4 channels; if the rest does not fit, loading says what."""
    first = names.get("decoder.conv_in.weight")
    return "decoder.mid_block.resnets.0.conv1.weight" in names and first is not None and first.shape[1:2] == (4,)


def _other(names: Mapping[str, Tensor]) -> str:
    """What a file has that cannot be used as it is, and what could be done."""
    part = next((part for part in _NOT_OURS if any(part in name.split(".") for name in names)), None)
    if part is not None:
        return f"{_NOT_OURS[part]}"
    if any(name.startswith("encoder.down_blocks.0.0.") for name in names):
        return "an AutoencoderDC; expected its config.json beside it, which is in its folder in diffusers' layout"
    first = names.get("decoder.conv_in.weight")
    if first is not None and first.ndim == 4 and "decoder.mid_block.resnets.0.conv1.weight" in names:
        channels = first.shape[1]
        where = _where_scaling_is(channels, LatentSpace.factor).rstrip(".")
        return f"an AutoencoderKL of {channels} channels; expected its config.json beside it. {where}"
    found = ", ".join(shown(name[:80]) for name in sorted(names)[:3]) or "no tensors"
    return (
        f"not the weights of an autoencoder in diffusers' or LDM's names (found {found}, ...; needed "
        "decoder.conv_in.weight, ...)"
    )


def _tensors(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, for their names and shapes."""
    return _unwrapped(file, read_state(file, mapped=True)).tensors


def _unwrapped(file: Path, state: Mapping[Any, object]) -> Unwrapped:
    """The autoencoder in what a file holds; of a training in LDM's code, without its losses and what else is there."""
    try:
        found = unwrap(state, roots=_ROOTS, anchors=_ANCHORS)
    except ValueError as error:
        raise ValueError(f"{file}: {error}.") from None
    if found is None:
        plain = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
        return Unwrapped(tensors=plain, weights=None, notes=())
    if not is_ldm(found.tensors):
        return found
    kept = {name: value for name, value in found.tensors.items() if name.partition(".")[0] in _ROOTS}
    others = sorted({shown(name.partition(".")[0][:80]) for name in found.tensors.keys() - kept.keys()})
    left = (f"left out {', '.join(map(repr, others[:6]))}",) if others else ()
    return replace(found, tensors=kept, notes=(*found.notes, *left))
