"""Networks on which ours are compared with those of SiT, REPA, fast-DiT and LightningDiT: configurations, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from dit_goldens import seeded_state

_SMALL = {"depth": 2, "hidden_size": 64, "num_heads": 4, "patch_size": 2, "input_size": 8, "num_classes": 10}
_XL_1 = {"rms_norm": True, "swiglu": True, "rope": True, "learn_sigma": False, "in_channels": 32, "patch_size": 1}

# Whose module, and our configuration.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SiT": ("SiT", _SMALL),
    "fast-DiT": ("fast-DiT", _SMALL),
    "REPA": ("REPA", _SMALL | {"learn_sigma": False}),
    "REPA, qk-norm": ("REPA", _SMALL | {"learn_sigma": False, "qk_norm": True}),
    "LightningDiT": ("LightningDiT", _SMALL | _XL_1 | {"input_size": 4}),
    "LightningDiT, qk-norm": ("LightningDiT", _SMALL | _XL_1 | {"input_size": 4, "qk_norm": True}),
    "LightningDiT, no shift": ("LightningDiT", _SMALL | _XL_1 | {"input_size": 4, "shift": False}),
    "LightningDiT, LayerNorm of queries and keys": ("LightningDiT", _SMALL | {"qk_norm": True}),
    "LightningDiT, rotations alone": ("LightningDiT", _SMALL | {"rope": True, "learn_sigma": False}),
    # The width and head size of XL, with one layer and few tokens.
    "LightningDiT, wide": (
        "LightningDiT",
        _SMALL | _XL_1 | {"depth": 1, "hidden_size": 1152, "num_heads": 16, "input_size": 4},
    ),
}
# What is counted, and has its names and shapes compared: module, its name there, and what it is told.
LARGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SiT-XL/2": ("SiT", "SiT-XL/2", {}),
    "REPA SiT-XL/2": ("REPA", "SiT-XL/2", {"z_dims": [768], "qk_norm": False}),
    "REPA SiT-XL/2, qk-norm": ("REPA", "SiT-XL/2", {"z_dims": [768], "qk_norm": True}),
    **{
        name: ("LightningDiT", name, {
            "input_size": 16, "in_channels": 32, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True,
        })
        for name in ("LightningDiT-B/1", "LightningDiT-XL/1", "LightningDiT-1p0B/2", "LightningDiT-1p6B/1")
    },
}  # fmt: skip
# The released sampler of LightningDiT with the settings of its 800 epochs, in our words.
SAMPLED = {
    "sampler": "ode-euler", "num_sampling_steps": 50, "cfg_scale": 6.7, "guidance_interval": (0.125, 1.0),
    "timestep_shift": 0.3,
}  # fmt: skip
SAMPLED_CASE, SAMPLED_LABELS = "LightningDiT", torch.tensor([3, 9])


def weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random weights under the keys of a state dict; tables stay as they are, and norms weigh around 1."""
    filled = seeded_state(state)
    for key, value in filled.items():
        if key.startswith("feat_rope."):
            filled[key] = state[key]
        elif "norm" in key and key.endswith("weight"):
            filled[key] = 1 + value
    return filled


def later_inputs(config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (4, C, H, W) float32, times (4,) of flows, and labels (4,), the last two "no label"."""
    shape = (4, config.get("in_channels", 4), config["input_size"], config["input_size"])
    x = torch.from_numpy(np.random.RandomState(99).standard_normal(shape).astype(np.float32))
    classes = config["num_classes"]
    return x, torch.tensor([0.0, 0.04, 0.7, 1.0]), torch.tensor([3, classes - 1, classes, classes])


def start() -> torch.Tensor:
    """Noise of two images, (2, 32, 4, 4)."""
    return torch.from_numpy(np.random.RandomState(23).standard_normal((2, 32, 4, 4)).astype(np.float32))
