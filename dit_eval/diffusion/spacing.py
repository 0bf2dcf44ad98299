"""The 1,000 training timesteps, and which of them a sampler visits. Needs no torch, so that plans can use it."""

from __future__ import annotations

import math

import numpy as np

NUM_TRAIN_STEPS = 1000


def linear_betas() -> np.ndarray:
    """Noise variances of the training process, float64 (1000,): 1e-4 to 0.02 in equal steps (Ho et al. 2020)."""
    return np.linspace(1e-4, 0.02, NUM_TRAIN_STEPS, dtype=np.float64)


def noise_levels() -> np.ndarray:
    """abar of the training process, float64 (1000,): the share of the image in the variance of x (Ho et al. 2020)."""
    return np.cumprod(1.0 - linear_betas())


def respaced_timesteps(spacing: str, num_train_steps: int = NUM_TRAIN_STEPS) -> list[int]:
    """The timesteps of the training process that a sampler visits, ascending.

    Parameters
    ----------
    spacing : a number of steps ("250"), numbers of steps in sections of equal length ("10,15,20"), or "ddimN" for N
        steps of equal integer stride (Song et al. 2021)

    Raises
    ------
    ValueError
        If no such subset exists; the message says which do.
    """
    ddim = spacing.startswith("ddim")
    try:
        counts = [int(count) for count in spacing.removeprefix("ddim").split(",")]
    except ValueError:
        raise ValueError(f'Steps {spacing!r}: needed a number such as "250", "10,15,20" or "ddim50".') from None
    if min(counts) < 1:
        raise ValueError(f"Steps {spacing!r}: needed at least 1 in every section.")
    if ddim:
        strides = {math.ceil(num_train_steps / stride): stride for stride in range(num_train_steps, 0, -1)}
        if len(counts) > 1 or counts[0] not in strides:
            near = sorted(sorted(strides), key=lambda n: abs(n - counts[0]))[:2]
            raise ValueError(
                f"Steps {spacing!r}: {num_train_steps} steps have no integer stride that visits exactly {counts[0]}; "
                f"the nearest are ddim{min(near)} and ddim{max(near)}."
            )
        return list(range(0, num_train_steps, strides[counts[0]]))
    steps, start = [], 0
    for section, count in enumerate(counts):
        size = num_train_steps // len(counts) + (section < num_train_steps % len(counts))
        if count > size:
            raise ValueError(f"Steps {spacing!r}: a section of {size} steps cannot give {count}.")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0  # added up, not multiplied: the rounding of the sum decides which steps are taken
        for _ in range(count):
            steps.append(start + round(place))
            place += stride
        start += size
    return steps
