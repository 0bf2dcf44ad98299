"""Training steps of flows on which ours are compared with SiT's and REPA's trainers: settings, batches, and draws."""

from __future__ import annotations

import numpy as np
import torch

MODEL = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "input_size": 4, "num_classes": 10}

# Ours, of `FlowRecipe`; `make_flow_training_goldens.py` says them to the trainers in their words.
SIT = [
    {"path": path, "prediction": prediction, "loss_weight": weight}
    for path in ("linear", "gvp", "vp")
    for prediction, weight in (("velocity", "none"), ("noise", "none"), ("noise", "velocity"), ("score", "likelihood"))
]
REPA = [
    {"path": path, "time": "repa", "time_sampling": sampling}
    for path in ("linear", "gvp")
    for sampling in ("uniform", "logit-normal")
]


def name_of(case: dict[str, str]) -> str:
    return " ".join([case.get("time", "sit"), *(value for key, value in case.items() if key != "time")])


def flow_batches() -> list[dict[str, torch.Tensor]]:
    """Five batches: x0 and noise (8, 4, 4, 4), labels (8,) some dropped, and what times are made of, (8,) each."""
    rng, batches = np.random.RandomState(33), []
    for _ in range(5):
        batch = {
            "x0": rng.standard_normal((8, 4, 4, 4)).astype(np.float32),
            "labels": rng.randint(0, 11, 8),
            # Nearer to the data SiT computes sigma of the VP path, 1 - exp(...), to five digits.
            "uniform": rng.uniform(0.02, 0.95, 8).astype(np.float32),
            "normal": rng.standard_normal(8).astype(np.float32),
            "noise": rng.standard_normal((8, 4, 4, 4)).astype(np.float32),
        }
        batches.append({name: torch.from_numpy(values) for name, values in batch.items()})
    return batches
