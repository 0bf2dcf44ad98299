"""Inputs on which training steps and centre crops are compared with the released trainer."""

from __future__ import annotations

import numpy as np
import torch

MODEL = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "input_size": 4, "num_classes": 10}

# Image sizes (width, height) and the side of the crop: halved several times, never, enlarged, odd, one side only.
CROPS = [
    ((500, 375), 64),
    ((375, 500), 64),
    ((501, 333), 128),
    ((129, 257), 64),
    ((127, 128), 64),
    ((1023, 67), 32),
    ((48, 31), 64),
    ((64, 64), 64),
    ((65, 64), 64),
    ((255, 767), 256),
]


def training_batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Five batches: x0 (8, 4, 4, 4), steps (8,) with step 0 among them, labels (8,) some dropped, noise."""
    rng = np.random.RandomState(21)
    batches = []
    for _ in range(5):
        x0 = rng.standard_normal((8, 4, 4, 4)).astype(np.float32)
        steps, labels = rng.randint(0, 1000, 8), rng.randint(0, 11, 8)
        steps[0] = 0
        noise = rng.standard_normal(x0.shape).astype(np.float32)
        batches.append(tuple(map(torch.from_numpy, (x0, steps, labels, noise))))
    return batches


def crop_input(width: int, height: int) -> np.ndarray:
    """A picture with edges and noise, uint8 (height, width, 3)."""
    rng = np.random.RandomState(width * 10_000 + height)
    y, x = np.mgrid[:height, :width]
    stripes = ((x // 7 + y // 5) % 2 * 160)[..., None] + np.array([0, 40, 80])
    return (stripes + rng.randint(-20, 60, (height, width, 3))).clip(0, 255).astype(np.uint8)
