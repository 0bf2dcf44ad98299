"""Weights and inputs on which our DiT is compared with the released module; NumPy's frozen stream makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_TINY = {"depth": 3, "hidden_size": 64, "num_heads": 4, "patch_size": 2, "input_size": 8, "num_classes": 10}
# The width, head size and patch size of DiT-XL/2 and /4, with few layers and tokens.
_WIDE = {"depth": 2, "hidden_size": 1152, "num_heads": 16, "patch_size": 2, "input_size": 8, "num_classes": 1000}

# Configuration, and the guidance scale or None for a plain forward pass.
CASES: dict[str, tuple[dict[str, Any], float | None]] = {
    "tiny": (_TINY, None),
    "tiny, guided 1.0": (_TINY, 1.0),
    "tiny, guided 4.0": (_TINY, 4.0),
    "wide": (_WIDE, None),
    "wide, guided 1.5": (_WIDE, 1.5),
    "wide, patch 4": (_WIDE | {"patch_size": 4}, None),
}


# Sampling loops: a model small enough that every step of every loop can be kept.
LOOP_MODEL = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "input_size": 4, "num_classes": 10}
LOOPS: dict[str, tuple[str, str, float]] = {  # name: spacing, sampler, guidance scale
    **{f"ddpm {steps} cfg {scale}": (steps, "ddpm", scale) for steps in ("16", "250") for scale in (1.0, 1.5, 4.0)},
    "ddim ddim50 cfg 1.5": ("ddim50", "ddim", 1.5),
    "ddim 16 cfg 1.0": ("16", "ddim", 1.0),
}


def loop_noise(count: int) -> torch.Tensor:
    """Noise of `count` draws, (count, 2, 4, 4, 4): the start, then one for each step in the order they are taken."""
    return torch.from_numpy(np.random.RandomState(7).standard_normal((count, 2, 4, 4, 4)).astype(np.float32))


LOOP_LABELS = torch.tensor([3, 8])


def seeded_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the same keys and shapes with random values; the position table is left as it is."""
    filled = {}
    for number, key in enumerate(sorted(state)):
        rng = np.random.RandomState(number)
        shape = tuple(state[key].shape)
        scale = 0.3 / np.sqrt(max(shape[-1], 1)) if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
        values = torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))
        filled[key] = state[key] if key == "pos_embed" else values
    return filled


def inputs(config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (4, 4, H, W) float32, t (4,), y (4,): two labels, then "no label" twice, as guidance needs them."""
    rng = np.random.RandomState(99)
    size, classes = config["input_size"], config["num_classes"]
    x = torch.from_numpy(rng.standard_normal((4, 4, size, size)).astype(np.float32))
    return x, torch.tensor([0, 999, 0, 999]), torch.tensor([3, classes - 1, classes, classes])


def training_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0 (6, 4, 4, 4) in -1..1 with values in the outer bins, steps (6,) with step 0 twice, labels (6,), noise."""
    rng = np.random.RandomState(11)
    x0 = rng.uniform(-1.3, 1.3, (6, 4, 4, 4)).clip(-1, 1).astype(np.float32)
    noise = rng.standard_normal(x0.shape).astype(np.float32)
    return (
        torch.from_numpy(x0),
        torch.tensor([0, 0, 1, 250, 700, 999]),
        torch.tensor([0, 5, 9, 10, 3, 3]),
        torch.from_numpy(noise),
    )
