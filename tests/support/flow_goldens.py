"""Flows on which our samplers are compared with SiT's and REPA's: settings, weights by `dit_goldens`, and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MODEL = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "input_size": 4, "num_classes": 1000}
LABELS = torch.tensor([3, 977])
STEPS = 50
REPAS_INTERVAL = (0.0, 0.7)  # of its published samples

# Our settings; `make_flow_goldens.py` says them to the released samplers in their words.
SIT: dict[str, dict[str, Any]] = {
    "sit ode-euler linear velocity": {"sampler": "ode-euler"},
    "sit ode-euler linear velocity cfg": {"sampler": "ode-euler", "cfg_scale": 1.5},
    "sit ode-euler gvp noise": {"sampler": "ode-euler", "path": "gvp", "prediction": "noise"},
    "sit ode-euler vp velocity": {"sampler": "ode-euler", "path": "vp"},
    "sit ode-heun linear velocity cfg": {"sampler": "ode-heun", "cfg_scale": 4.0},
    "sit ode-heun linear score": {"sampler": "ode-heun", "prediction": "score"},
    "sit ode-heun vp noise": {"sampler": "ode-heun", "path": "vp", "prediction": "noise"},
    "sit ode-dopri5 linear velocity": {"sampler": "ode-dopri5"},
    "sit ode-dopri5 gvp velocity": {"sampler": "ode-dopri5", "path": "gvp", "rtol": 1e-4},
    "sit ode-dopri5 vp score": {"sampler": "ode-dopri5", "path": "vp", "prediction": "score"},
    "sit ode-dopri5 linear velocity cfg": {"sampler": "ode-dopri5", "cfg_scale": 4.0},
    "sit sde-euler linear velocity cfg": {"sampler": "sde-euler", "cfg_scale": 1.5},
    "sit sde-euler gvp velocity linear": {"sampler": "sde-euler", "path": "gvp", "diffusion_form": "linear"},
    "sit sde-euler vp noise sbdm tweedie": {
        "sampler": "sde-euler", "path": "vp", "prediction": "noise", "diffusion_form": "sbdm", "last_step": "tweedie",
    },
    "sit sde-euler linear noise decreasing euler": {
        "sampler": "sde-euler", "prediction": "noise", "diffusion_form": "decreasing", "last_step": "euler",
        "last_step_size": 0.02, "diffusion_norm": 0.5,
    },
    "sit sde-heun linear velocity": {"sampler": "sde-heun"},
    "sit sde-heun gvp score increasing-decreasing none": {
        "sampler": "sde-heun", "path": "gvp", "prediction": "score", "diffusion_form": "increasing-decreasing",
        "last_step": "none",
    },
}  # fmt: skip
REPA: dict[str, dict[str, Any]] = {
    "repa ode-euler": {"sampler": "ode-euler"},
    "repa ode-euler cfg interval": {
        "sampler": "ode-euler", "cfg_scale": 1.8, "cfg_channels": 4, "guidance_interval": REPAS_INTERVAL,
    },
    "repa ode-heun cfg interval": {
        "sampler": "ode-heun", "cfg_scale": 1.8, "cfg_channels": 4, "guidance_interval": (0.3, 0.7),
    },
    "repa sde-euler cosine cfg": {"sampler": "sde-euler", "path": "gvp", "cfg_scale": 1.8, "cfg_channels": 4},
    "repa sde-euler cfg interval": {
        "sampler": "sde-euler", "cfg_scale": 1.8, "cfg_channels": 4, "guidance_interval": REPAS_INTERVAL,
    },
}  # fmt: skip
CASES = {
    **{name: {"time": "sit", **settings} for name, settings in SIT.items()},
    **{name: {"time": "repa", **settings} for name, settings in REPA.items()},
}


def flow_noise() -> torch.Tensor:
    """Noise (STEPS + 1, 2, 4, 4, 4): the start, then one for each step of an SDE."""
    draws = np.random.RandomState(17).standard_normal((STEPS + 1, 2, 4, 4, 4))
    return torch.from_numpy(draws.astype(np.float32))
