"""Small U-Nets, weights and inputs on which ours are compared with the original modules, from NumPy's frozen stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_SMALL = {"image_size": 16, "input_size": 16, "channels": 32, "num_classes": 10, "num_res_blocks": 1}
_LATENT = {
    "num_classes": None, "context_dim": 24, "resblock_updown": False, "scale_shift_norm": False, "out_channels": 3,
}  # fmt: skip

# Fields of UNetConfig. Between them: both attention orders, heads given either way, half a multiplier, attention at
# some levels only, two residual blocks, an upsampler, latent models with one head and with several.
CASES: dict[str, dict[str, Any]] = {
    "adm": _SMALL | {"channel_mult": (1, 2, 3), "attention_at": (2, 4), "head_channels": 16},
    "adm, new order": _SMALL
    | {"channel_mult": (1, 2), "attention_at": (2,), "head_channels": 32, "new_attention_order": True, "dropout": 0.1},
    "adm, half": _SMALL
    | {"channels": 64, "channel_mult": (0.5, 1), "attention_at": (1,), "num_heads": 4, "num_res_blocks": 2},
    "upsampler": _SMALL | {"channel_mult": (1, 2), "attention_at": (2,), "num_heads": 4, "low_res_size": 4},
    "latent, one head": _SMALL | _LATENT | {"channel_mult": (1, 2), "attention_at": (1, 2), "num_heads": 1},
    "latent, heads": _SMALL
    | _LATENT
    | {"channel_mult": (1, 3), "attention_at": (2,), "head_channels": 8, "in_channels": 4, "out_channels": 4},
}


def seeded_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random values for every key: norm weights around 1, others so that activations keep their size."""
    filled = {}
    for number, key in enumerate(sorted(state)):
        rng, shape = np.random.RandomState(number), tuple(state[key].shape)
        values = rng.standard_normal(shape) * (0.2 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:])))
        if len(shape) == 1 and key.endswith("weight"):
            values += 1
        filled[key] = torch.from_numpy(values.astype(np.float32))
    return filled


def inputs(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """x (2, C, H, W), t (2,), and y, context and low_res where the model takes them."""
    rng = np.random.RandomState(99)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    channels, size = config.get("in_channels", 3), config["input_size"]
    found = {"x": normal(2, channels, size, size), "t": torch.tensor([3, 998])}
    if config["num_classes"]:
        found["y"] = torch.tensor([1, 9])
    if config.get("context_dim"):
        found["context"] = normal(2, 1, config["context_dim"])
    if config.get("low_res_size"):
        found["low_res"] = normal(2, channels, config["low_res_size"], config["low_res_size"])
    return found


def layout(state: dict[str, torch.Tensor]) -> str:
    """Names and shapes of a state dict as text, one line each."""
    return "\n".join(f"{key} {tuple(state[key].shape)}" for key in sorted(state))
