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
