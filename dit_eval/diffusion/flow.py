"""Flows: paths from noise to data, what a network may predict on them, and the times that a sampler visits.

On a path, x_t = alpha(t) x + sigma(t) noise, with t from 0 (noise) to 1 (data): SiT's time, which everything here is
in. REPA's runs the other way. Needs no torch: all of it is numbers, by which tensors are multiplied.

References
----------
Ma et al. 2024 (SiT, arXiv 2401.08740), Section 2; Albergo et al. 2023 (stochastic interpolants); Song et al. 2021
(score SDEs), eq. 11 for the VP path; Yu et al. 2025 (REPA, arXiv 2410.06940). Times, forms of the diffusion and last
steps are those of the released samplers: willisma/SiT `transport/`, sihyun-yu/REPA `samplers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.diffusion.spacing import NUM_TRAIN_STEPS, noise_levels
from dit_eval.results.settings import SamplingSettings

if TYPE_CHECKING:
    from torch import Tensor

_VP_BETAS = 0.1, 20.0  # at the end of the data and of the noise; 1,000 times those of DDPM's first and last step
# How far from its ends a path is followed where something is divided by 0 there.
_VP_SHORT = 1e-3
_VP_LEAST = 1e-5  # nearer to the data SiT trains nothing on the VP path
MOST_POINTS = 100_000  # steps of a flow's sampler; a slip of the hand beyond
_SHORT = 1e-3


@dataclass(frozen=True, kw_only=True)
class Level:
    """A place on a path.

    Attributes
    ----------
    alpha, sigma : of x_t = alpha x + sigma noise
    d_alpha, d_sigma : their derivatives in t
    drift : d_alpha / alpha, infinite at alpha 0
    spread : sigma^2 drift - sigma d_sigma, by which a score acts on the velocity: v = drift x + spread s. The path is
        that of the diffusion dx = -drift x ds + sqrt(2 spread) dW (Song et al. 2021, Section 3.4)
    """

    alpha: float
    sigma: float
    d_alpha: float
    d_sigma: float
    drift: float
    spread: float

    @classmethod
    def of(cls, alpha: float, sigma: float, d_alpha: float, d_sigma: float) -> Level:
        drift = d_alpha / alpha if alpha else math.inf
        spread = sigma**2 * drift - sigma * d_sigma
        return cls(alpha=alpha, sigma=sigma, d_alpha=d_alpha, d_sigma=d_sigma, drift=drift, spread=spread)


def linear(t: float) -> Level:
    """alpha = t, sigma = 1 - t: rectified flow and flow matching; SiT, Section 2.2."""
    return Level.of(t, 1 - t, 1.0, -1.0)


def gvp(t: float) -> Level:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2), whose squares add to 1: SiT, Section 2.2; REPA's "cosine"."""
    sin, cos = math.sin(math.pi / 2 * t), math.cos(math.pi / 2 * t)
    return Level.of(sin, cos, math.pi / 2 * cos, -math.pi / 2 * sin)


def vp(t: float) -> Level:
    """The variance-preserving diffusion, Song et al. 2021, eq. 11 and 33, with s = 1 - t for its time.

    log alpha = -s^2 (b1 - b0) / 4 - s b0 / 2 and sigma^2 = 1 - alpha^2, of beta(s) = b0 + s (b1 - b0); drift and spread
    are beta / 2. An adaptive solver asks beyond the data as well, where there is no noise: the least stands for it.
    """
    low, high = _VP_BETAS
    s = 1 - t
    half_beta = (low + s * (high - low)) / 2
    alpha = math.exp(-(s**2) * (high - low) / 4 - s * low / 2)
    least = max(s, _VP_LEAST)
    sigma = math.sqrt(-math.expm1(-(least**2) * (high - low) / 2 - least * low))
    d_alpha, d_sigma = alpha * half_beta, -(alpha**2) * half_beta / sigma
    return Level(alpha=alpha, sigma=sigma, d_alpha=d_alpha, d_sigma=d_sigma, drift=half_beta, spread=half_beta)


PATHS: dict[str, Callable[[float], Level]] = {"linear": linear, "gvp": gvp, "vp": vp}


def trained_times(path: str, prediction: str) -> tuple[float, float]:
    """The times between which SiT's trainer draws: its `create_transport` leaves out where a loss is not finite."""
    if path == "vp":
        return 0.0, 1 - _VP_LEAST
    return (0.0, 1.0) if prediction == "velocity" else (_SHORT, 1 - _SHORT)


def time_of_ratio(path: str, ratio: float) -> float:
    """The time at which a path has a ratio sigma / alpha; on the VP path, of those that it has, the nearest."""
    if path == "linear":
        return 1 / (1 + ratio)
    if path == "gvp":
        return 1 - 2 / math.pi * math.atan(ratio)
    low, high = _VP_BETAS
    # Of s = 1 - t: s^2 (b1 - b0) / 4 + s b0 / 2 = -log alpha, where alpha^2 = 1 / (1 + ratio^2).
    a, b, c = (high - low) / 4, low / 2, 0.5 * math.log1p(ratio**2)
    return 1 - min(1.0, (math.sqrt(b**2 + 4 * a * c) - b) / (2 * a))


def convert(value: Tensor, x: Tensor, level: Level, *, given: str, wanted: str) -> Tensor:
    """What a network predicts at x, as something else: "velocity" dx/dt, "score" of the density, or "noise".

    All are one prediction: score = -noise / sigma, and velocity = d_alpha x0 + d_sigma noise, where the data x0 and the
    noise add to x (SiT, Section 2.1, the velocity as a conditional mean, the score by the noise, and by the velocity).

    Returns
    -------
    Of the shape and type of x. Not finite where a path has no such thing: a score at its end, a velocity from noise
    where alpha is 0.
    """
    if given == wanted:
        return value
    if given == "velocity":
        # x and its derivative are two equations for x0 and the noise.
        noise = (level.d_alpha * x - level.alpha * value) / (level.d_alpha * level.sigma - level.alpha * level.d_sigma)
        return noise if wanted == "noise" else noise / -level.sigma
    if wanted == "noise":
        return -level.sigma * value
    score = value if given == "score" else value / -level.sigma
    return score if wanted == "score" else level.drift * x + level.spread * score


def diffusion(form: str, t: float, level: Level, norm: float = 1.0) -> float:
    """The diffusion w(t) of an SDE dx = (v + w s) dt + sqrt(2 w) dW, whose densities are those of the flow for any w.

    SiT, Section 2.3 and Table of diffusion coefficients, where w_t is twice this; the forms are those of its code.
    """
    if form == "sbdm":  # that of the score-based model with this path; SiT, Section 2.4; beta / 2 on the VP path
        return norm * level.spread
    forms = {
        "constant": norm,
        "sigma": norm * level.sigma,
        "linear": norm * (1 - t),
        "decreasing": 0.25 * (norm * math.cos(math.pi * t) + 1) ** 2,
        "increasing-decreasing": norm * math.sin(math.pi * t) ** 2,
    }
    return forms[form]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What settings say of the flow that a sampler follows.

    Attributes
    ----------
    settings : of a flow's sampler, all filled in (`SamplingSettings.completed`)
    points : number of steps as asked for; SiT counts times and REPA the steps between them
    """

    settings: SamplingSettings
    points: int

    @classmethod
    def of(cls, settings: SamplingSettings) -> Flow:
        """Of settings, as they are given or recorded.

        Raises
        ------
        ValueError
            If their number of steps is none of a flow.
        """
        points = number_of_points(str(settings.num_sampling_steps), settings.rule)
        return cls(settings=settings.completed(), points=points)

    @property
    def is_sde(self) -> bool:
        return self.settings.rule.startswith("sde-")

    @property
    def is_adaptive(self) -> bool:
        return self.settings.rule == "ode-dopri5"

    @property
    def is_double(self) -> bool:
        """Whether the state and times are float64 as REPA's, or float32 as SiT's; the network's are always float32."""
        return self.settings.time == "repa"

    def level(self, t: float) -> Level:
        return PATHS[self.settings.path or "linear"](t)

    def told(self, t: float) -> float:
        """The time that the network is told.

        Of a network trained by DDPM it is the timestep that has the path's ratio of signal to noise, between timesteps
        where there is none, and the nearest beyond their ends.
        """
        if self.settings.time == "ddpm":
            level = self.level(t)
            return _timestep(math.log(level.sigma / level.alpha))
        return 1 - t if self.settings.time == "repa" else t

    def own_time(self, t: float) -> float:
        """The time that the sampler's user speaks of, as for an interval of guidance."""
        return 1 - t if self.settings.time == "repa" else t

    @cached_property
    def own_times(self) -> tuple[float, ...]:
        """The times visited, from noise to data, as `own_time` has them; of an SDE without the end of its last step."""
        noise, data = self._short()
        ends = (1 - noise, data) if self.settings.time == "repa" else (noise, 1 - data)
        times = _evenly(*ends, self.points + (self.settings.time == "repa" and not self.is_sde))
        shift = self.settings.timestep_shift
        # Esser et al. 2024 (arXiv 2403.03206), eq. 23, in SiT's time: below 1 more steps are near the noise.
        return times if shift is None else tuple(shift * t / (1 + (shift - 1) * t) for t in times)

    @cached_property
    def times(self) -> tuple[float, ...]:
        """The times visited, ascending, of the type of the state."""
        if self.settings.time == "repa":
            return tuple(1 - time for time in self.own_times)
        return tuple(np.array(self.own_times, np.float32).tolist())

    def _short(self) -> tuple[float, float]:
        """By how much a path is left out at the noise and at the data.

        As SiT's `check_interval`, with what its `create_transport` sets, but for what is infinite there, where SiT's
        code draws NaN and this one stops 0.001 short: an "sbdm" diffusion at the noise, of the linear and GVP paths; a
        score at the data, where Heun's SDE asks for it and has no last step.
        """
        velocity = self.settings.prediction == "velocity"
        at_data = _SHORT if self.settings.path == "vp" or not velocity else 0.0
        at_noise = 0.0 if self.settings.path == "vp" else at_data
        if self.is_sde:
            if self.settings.path != "vp" and self.settings.diffusion_form == "sbdm":
                at_noise = _SHORT
            at_data = self.settings.last_step_size or (_SHORT if self.settings.rule == "sde-heun" else at_data)
        return at_noise, at_data

    @property
    def evaluations(self) -> list[int]:
        """How often each step asks the network; of an adaptive solver nobody knows before it runs: no steps.

        The time at which a step begins decides about guidance in all of it.
        """
        if self.is_adaptive:
            return []
        asked = [2 if self.settings.rule.endswith("-heun") else 1] * (len(self.times) - 1)
        if not self.is_sde and self.settings.time == "repa":
            asked[-1] = 1  # REPA's last step of Heun is Euler's
        return [*asked, *([1] if self.is_sde and self.settings.last_step != "none" else [])]


def number_of_points(steps: str, sampler: str) -> int:
    """The number of steps of a flow's sampler.

    Raises
    ------
    ValueError
        If it is no whole number, or too small or large.
    """
    if not steps.isdecimal() or not 2 <= int(steps) <= MOST_POINTS:
        raise ValueError(
            f"Steps {steps!r}: the sampler {sampler} takes a whole number from 2 to {MOST_POINTS:,}; spacings such as "
            '"ddim50" and "10,15,20" are for ddpm and ddim.'
        )
    return int(steps)


def _evenly(begin: float, end: float, count: int) -> tuple[float, ...]:
    """So many numbers, counted from the nearer end as PyTorch's `linspace` does: a bound of guidance may be one."""
    step = (end - begin) / (count - 1)
    return tuple(begin + step * i if i < count // 2 else end - step * (count - 1 - i) for i in range(count))


def _timestep(ratio: float) -> float:
    """DDPM's timestep with a logarithm of sigma / alpha, linear in it between two timesteps."""
    return float(np.interp(ratio, _ddpm_ratios(), np.arange(NUM_TRAIN_STEPS)))


@cache
def _ddpm_ratios() -> np.ndarray:
    """The logarithm of sigma / alpha at DDPM's 1,000 timesteps, ascending."""
    levels = noise_levels()
    return 0.5 * np.log((1 - levels) / levels)
