"""Autoencoders between images and latents, by diffusers: AutoencoderKL, and DC-AE (Chen et al. 2024, arXiv 2410.10733).

The three of Stable Diffusion share the encoder; the paper's Table 5 compares the decoders. `dit_eval.models.vae_files`
finds out what a file is of, and README.md beside it lists what can be passed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_eval.models.latent_space import LatentSpace, PerChannel
from dit_eval.models.vae_files import AutoencoderFile, open_autoencoder, read_autoencoder
from dit_eval.models.vae_names import in_diffusers_names, is_ldm
from dit_eval.system.reading import NOT_OURS
from dit_eval.system.switches import arithmetic, each_core_alone
from dit_eval.system.text import reason, shown

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Autoencoder:
    """Decoder of latents and encoder of images, with its weights.

    Parameters
    ----------
    path : weights (safetensors or a PyTorch state dict, in diffusers' or LDM's names), or a folder in diffusers' layout
        with them; what is beside them says how latents are scaled, see `dit_eval.models.vae_files`
    device : where it runs
    tiling : decode in overlapping tiles with blended seams, for images that do not fit; this changes pixels
    on_note : told what wrappers were taken off the names of the weights, and what was taken for granted

    Attributes
    ----------
    latents : that it makes

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it does not hold an autoencoder of a known kind, or nothing says how its latents are scaled.
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
        file = open_autoencoder(Path(path))
        self.latents: LatentSpace = file.latents
        self._scale, self._shift = (self._factors(each) for each in (file.latents.scale, file.latents.shift))
        self._model = _load(file, on_note).float().to(device).eval().requires_grad_(False)
        if tiling:
            self._model.enable_tiling()
        # A picture is work enough for a core, and its rounding then depends neither on its neighbours nor on the cores.
        self._batch = 1 if device == "cpu" else 8

    def _factors(self, values: PerChannel) -> float | Tensor:
        """A number, or one for each channel (C, 1, 1)."""
        if isinstance(values, tuple):
            return torch.tensor(values, device=self.device)[:, None, None]
        return values

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, 3, H, W), nominally in -1..1, of scaled latents (N, C, h, w).

        On a GPU a few are decoded at a time, fewer where its memory runs out; on a CPU one by each core. That does not
        change them.

        Raises
        ------
        ValueError
            If the latents do not have the autoencoder's channels.
        RuntimeError
            If not even one image fits into the GPU's memory.
        """
        channels = self.latents.channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(f"Found latents {tuple(latents.shape)}; needed (N, {channels}, H, W).")
        if self.device == "cpu" and self._batch == 1:
            with each_core_alone() as cores:
                return torch.cat(cores.map(self._images, latents.split(1)))
        images: list[Tensor] = []
        begin = 0
        while begin < len(latents):
            part = latents[begin : begin + self._batch]
            try:
                images.append(self._images(part))
            except torch.OutOfMemoryError:
                if self._batch == 1:
                    raise RuntimeError(
                        f"The GPU has no memory for decoding one image of {latents.shape[2] * self.latents.factor} px. "
                        "Decode it in tiles (`vae_tiling`)."
                    ) from None
                self._batch //= 2
                continue
            begin += len(part)
        return torch.cat(images)

    def _images(self, part: Tensor) -> Tensor:
        part = part / self._scale
        images: Tensor = self._model.decode(part if self._unshifted else part + self._shift).sample
        return images

    @property
    def _unshifted(self) -> bool:
        return isinstance(self._shift, float) and self._shift == 0.0

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posteriors of images (N, 3, H, W) in -1..1, (N, C, h, w) each.

        They are as the encoder gives them; a latent is a sample of that Gaussian, shifted and scaled as `latents` says.
        DC-AE's encoder gives one latent of an image, and so a deviation of 0.

        Raises
        ------
        ValueError
            If the images have other channels, or a side that is no multiple of the autoencoder's factor.
        """
        factor = self.latents.factor
        if images.ndim != 4 or images.shape[1] != 3 or any(side % factor for side in images.shape[2:]):
            raise ValueError(f"Found images {tuple(images.shape)}; needed (N, 3, H, W), sides multiples of {factor}.")

        def moments(part: Tensor) -> tuple[Tensor, Tensor]:
            encoded = self._model.encode(part)
            if "latent" in encoded:
                return encoded.latent, torch.zeros_like(encoded.latent)
            return encoded.latent_dist.mean, encoded.latent_dist.std

        with arithmetic("fp32", self.device), each_core_alone(self.device) as cores:
            means, deviations = zip(*cores.map(moments, images.split(self._batch)), strict=True)
        return torch.cat(means), torch.cat(deviations)


def _load(file: AutoencoderFile, on_note: Callable[[str], None] | None) -> Any:  # diffusers is loaded only when needed
    import diffusers

    found = read_autoencoder(file.weights)
    notes = (*((f"{file.weights}: {'; '.join(found.notes)}",) if found.notes else ()), *file.notes)
    if on_note:
        for note in notes:
            on_note(note)
    state = in_diffusers_names(found.tensors) if is_ldm(found.tensors) else found.tensors
    state = {_modern_name(name): value for name, value in state.items()}
    try:
        with torch.device("meta"):
            model = getattr(diffusers, file.config["_class_name"]).from_config(file.config)
        if other := _difference(state, model.state_dict()):
            raise ValueError(other)
        model.load_state_dict(state, assign=True)
    except (*NOT_OURS, IndexError, RuntimeError) as error:
        why = reason(error)
        raise ValueError(f"{file.weights}: not the weights of an autoencoder in diffusers' names ({why}).") from None
    return model


def _difference(found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is not as a described network has it, None if all are."""
    for name in sorted(found.keys() | needed.keys()):
        shapes = [tuple(state[name].shape) if name in state else "nothing" for state in (found, needed)]
        if shapes[0] != shapes[1]:
            return f"{shown(name[:80])}: found {shapes[0]}; the network that is described has {shapes[1]}"
    return None


def _modern_name(name: str) -> str:
    """The public files name the four maps of their attention as diffusers did when they were made."""
    head, _, kind = name.rpartition(".")
    module, _, leaf = head.rpartition(".")
    return f"{module}.{_OLD_NAMES[leaf]}.{kind}" if ".attentions." in name and leaf in _OLD_NAMES else name
