"""What a network learns: DDPM's noise and variance, or the velocity, score or noise of a flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dit_eval.diffusion.flow import PATHS, Level, time_of_ratio, trained_times
from dit_eval.diffusion.process import Denoiser, Diffusion
from dit_eval.diffusion.recipe import FlowRecipe
from dit_eval.diffusion.spacing import NUM_TRAIN_STEPS


class Objective(Protocol):
    """A loss, and the times at which it is taken."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the losses, the one that is trained on first."""
        ...

    def times(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """A time (N,) for each image, drawn from its own generator: int64 timesteps, or float64 times of a path."""
        ...

    def losses(self, denoiser: Denoiser, x0: Tensor, times: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Losses (N,) by their names, of images and noise (N, C, ...) at times (N,)."""
        ...


@cache
def objective_of(flow: FlowRecipe | None) -> Objective:
    """The objective of a recipe, by its `flow`."""
    return _OfDDPM() if flow is None else _OfFlow(flow)


class _OfDDPM:
    """DiT's: see `Diffusion.training_losses`."""

    terms = ("loss", "mse", "vb")

    def __init__(self) -> None:
        self._diffusion = Diffusion()

    def times(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        return np.array([g.integers(NUM_TRAIN_STEPS) for g in generators])

    def losses(self, denoiser: Denoiser, x0: Tensor, times: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return self._diffusion.training_losses(denoiser, x0, times, noise)


class _OfFlow:
    """SiT's, with REPA's times: the squared error of what is predicted, averaged over channels and pixels.

    References
    ----------
    Ma et al. 2024 (SiT, arXiv 2401.08740), Section 2.1; willisma/SiT `transport.training_losses`; sihyun-yu/REPA
    `loss.py` (its denoising loss).
    """

    terms = ("loss",)

    def __init__(self, recipe: FlowRecipe) -> None:
        self._recipe = recipe
        self._ends = trained_times(recipe.path, recipe.prediction)

    def times(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        first, last = self._ends
        if self._recipe.time_sampling == "uniform":
            return np.array([first + g.random() * (last - first) for g in generators])
        drawn = [time_of_ratio(self._recipe.path, math.exp(g.standard_normal())) for g in generators]
        return np.clip(drawn, first, last)

    def losses(self, denoiser: Denoiser, x0: Tensor, times: Tensor, noise: Tensor) -> dict[str, Tensor]:
        levels = [PATHS[self._recipe.path](t) for t in times.tolist()]
        alpha, sigma, d_alpha, d_sigma = (
            _beside([getattr(level, name) for level in levels], x0) for name in ("alpha", "sigma", "d_alpha", "d_sigma")
        )
        backwards = self._recipe.time == "repa"
        told = (1 - times if backwards else times).to(x0.dtype)
        # A network that has a variance as well, as SiT's do, is not asked for it.
        predicted = denoiser(alpha * x0 + sigma * noise, told)[:, : x0.shape[1]]
        if self._recipe.prediction == "velocity":
            velocity = d_alpha * x0 + d_sigma * noise
            error = predicted - (-velocity if backwards else velocity)
        else:
            error = predicted - noise if self._recipe.prediction == "noise" else sigma * predicted + noise
        weights = _beside([self._weight(level) for level in levels], x0)
        return {"loss": (weights * error**2).flatten(1).mean(1)}

    def _weight(self, level: Level) -> float:
        if self._recipe.loss_weight == "velocity":
            return (level.spread / level.sigma) ** 2
        return level.spread / level.sigma**2 if self._recipe.loss_weight == "likelihood" else 1.0


def _beside(numbers: list[float], x: Tensor) -> Tensor:
    """A number (N,) for each image, as (N, 1, ...) to go with x."""
    return torch.tensor(numbers, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 1))
