"""The Stable Diffusion autoencoder between images and DiT's latents: diffusers' AutoencoderKL, three decoders.

All three share the encoder; the paper's Table 5 compares the decoders. Latents are scaled by 0.18215 so that they have
about unit variance (Rombach et al. 2022).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_eval.models.checkpoints import read_state
from dit_eval.models.config import LATENT_FACTOR
from dit_eval.models.wrappers import unwrap
from dit_eval.system.reading import NOT_OURS, is_count, read_json
from dit_eval.system.switches import arithmetic, each_core_alone
from dit_eval.system.text import did_you_mean, reason, shown

SCALE = 0.18215
LATENT_CHANNELS = 4
# Decoder names of the command line and the assets that hold them.
DECODERS = {"ema": "sd-vae-ft-ema", "mse": "sd-vae-ft-mse", "original": "sd-vae-original"}

_WEIGHTS = "diffusion_pytorch_model"
_MAX_CONFIG = 1 << 16  # bytes of a config.json
_MAX_BLOCKS = 32  # of an autoencoder, and layers of a block
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_ROOTS = {"encoder", "decoder", "quant_conv", "post_quant_conv"}  # first parts of its names
_ANCHORS = {"decoder.conv_in.weight"}

# The f8 autoencoder that all three are, as diffusers describes it; one weights file is then enough.
_CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": SCALE,
}


class Autoencoder:
    """Decoder of latents and encoder of images, with its weights.

    Parameters
    ----------
    path : weights of the f8 autoencoder (safetensors or a PyTorch state dict, in diffusers' names), or a folder in
        diffusers' layout with them; a `config.json` beside diffusers' own file name is used
    device : where it runs
    tiling : decode in overlapping tiles with blended seams, for images that do not fit; this changes pixels
    on_note : told what wrappers were taken off the names of the weights

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it does not hold an AutoencoderKL.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        tiling: bool = False,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.device = device
        self._model = _load(Path(path), on_note).to(device).eval().requires_grad_(False)
        if tiling:
            self._model.enable_tiling()
        # A picture is work enough for a core, and its rounding then depends neither on its neighbours nor on the cores.
        self._batch = 1 if device == "cpu" else 8

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, 3, 8 H, 8 W), nominally in -1..1, of scaled latents (N, 4, H, W).

        On a GPU a few are decoded at a time, fewer where its memory runs out; on a CPU one by each core. That does not
        change them.

        Raises
        ------
        ValueError
            If the latents do not have the autoencoder's channels.
        RuntimeError
            If not even one image fits into the GPU's memory.
        """
        channels = self._model.config.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(f"Found latents {tuple(latents.shape)}; needed (N, {channels}, H, W).")
        if self.device == "cpu" and self._batch == 1:
            with each_core_alone() as cores:
                return torch.cat(cores.map(lambda part: self._model.decode(part / SCALE).sample, latents.split(1)))
        images: list[Tensor] = []
        begin = 0
        while begin < len(latents):
            part = latents[begin : begin + self._batch] / SCALE
            try:
                images.append(self._model.decode(part).sample)
            except torch.OutOfMemoryError:
                if self._batch == 1:
                    raise RuntimeError(
                        f"The GPU has no memory for decoding one image of {latents.shape[2] * LATENT_FACTOR} px. "
                        "Decode it in tiles (`vae_tiling`)."
                    ) from None
                self._batch //= 2
                continue
            begin += len(part)
        return torch.cat(images)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posteriors of images (N, 3, 8 H, 8 W) in -1..1, (N, 4, H, W) each.

        They are as the encoder gives them; a latent is a sample of that Gaussian, times `SCALE`.

        Raises
        ------
        ValueError
            If the images have other channels, or a side that is no multiple of 8.
        """
        if images.ndim != 4 or images.shape[1] != 3 or any(side % LATENT_FACTOR for side in images.shape[2:]):
            raise ValueError(f"Found images {tuple(images.shape)}; needed (N, 3, H, W), sides multiples of 8.")

        def moments(part: Tensor) -> tuple[Tensor, Tensor]:
            posterior = self._model.encode(part).latent_dist
            return posterior.mean, posterior.std

        with arithmetic("fp32", self.device), each_core_alone(self.device) as cores:
            means, deviations = zip(*cores.map(moments, images.split(self._batch)), strict=True)
        return torch.cat(means), torch.cat(deviations)


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
        raise FileNotFoundError(
            f"{path}: no autoencoder there; needed a weights file, a folder with {_WEIGHTS}.safetensors and "
            f"config.json, or one of {', '.join(DECODERS)}.{did_you_mean(path.name, DECODERS)}"
        )
    return found


def _load(
    path: Path, on_note: Callable[[str], None] | None
) -> Any:  # an AutoencoderKL; diffusers is loaded only when needed
    from diffusers import AutoencoderKL

    file = weights_file(path)
    state = read_state(file)
    try:
        found = unwrap(state, roots=_ROOTS, anchors=_ANCHORS)
    except ValueError as error:
        raise ValueError(f"{file}: {error}.") from None
    if found is not None:
        state = {**found.tensors}
        if found.notes and on_note:
            on_note(f"{file}: {'; '.join(found.notes)}")
    beside = file.with_name("config.json")
    config = described(beside) if file.stem == _WEIGHTS and beside.is_file() else _CONFIG
    try:
        with torch.device("meta"):
            model = AutoencoderKL.from_config(config)
        model.load_state_dict({_modern_name(name): value for name, value in state.items()}, assign=True)
    except (*NOT_OURS, IndexError, RuntimeError) as error:
        why = reason(error)
        raise ValueError(f"{file}: not the weights of an f8 autoencoder in diffusers' names ({why}).") from None
    return model


def described(path: Path) -> dict[str, Any]:
    """How diffusers describes an autoencoder in a file, within bounds: it makes as many layers as it is told."""
    config = read_json(path, "the config.json of an autoencoder", max_size=_MAX_CONFIG)
    for name, value in config.items():
        if isinstance(value, list) and len(value) > _MAX_BLOCKS:
            raise ValueError(f"{path}: {shown(name)[:80]} has {len(value):,} entries; expected at most {_MAX_BLOCKS}.")
    layers = config.get("layers_per_block", 1)
    if not is_count(layers) or layers > _MAX_BLOCKS:
        raise ValueError(f"{path}: layers_per_block is {layers!r:.80}; expected a number up to {_MAX_BLOCKS}.")
    return config


def _modern_name(name: str) -> str:
    """The public files name the four maps of their attention as diffusers did when they were made."""
    head, _, kind = name.rpartition(".")
    module, _, leaf = head.rpartition(".")
    return f"{module}.{_OLD_NAMES[leaf]}.{kind}" if ".attentions." in name and leaf in _OLD_NAMES else name
