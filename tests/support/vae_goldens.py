"""Autoencoders on which ours are compared with VA-VAE's and FLUX's: sizes, weights by `dit_goldens`, and inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

WIDTH = 32  # of the first level, 128 in the published ones: the least that their 32 groups divide
VA_VAE: dict[str, Any] = {"embed_dim": 32, "ch_mult": (1, 1, 2, 2, 4)}
FLUX: dict[str, Any] = {
    "resolution": 256, "in_channels": 3, "ch": 128, "out_ch": 3, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "z_channels": 16, "scale_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip


def image(side: int = 48) -> torch.Tensor:
    """(1, 3, side, side) in -1..1."""
    return torch.from_numpy(np.random.RandomState(7).uniform(-1, 1, (1, 3, side, side)).astype(np.float32))


def latents(channels: int, side: int) -> torch.Tensor:
    """(1, channels, side, side), as a DiT makes them."""
    return torch.from_numpy(np.random.RandomState(8).standard_normal((1, channels, side, side)).astype(np.float32))


def latents_of_images() -> np.ndarray:
    """(12, 32, 2, 2) of which LightningDiT's data set counts the statistics."""
    rng = np.random.RandomState(9)
    means, scales = rng.standard_normal(32) * 0.5, rng.uniform(0.5, 4, 32)
    values = rng.standard_normal((12, 2, 2, 32)) * scales + means
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)
