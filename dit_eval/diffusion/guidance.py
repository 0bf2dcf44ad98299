"""How much a network is guided, by time: everywhere, or in an interval. Needs no torch.

Outside an interval the conditional network is asked alone, as is without guidance: at scale 1 the other pass counts for
nothing (Ho & Salimans 2021), and it is not made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dit_eval.diffusion.flow import Flow
from dit_eval.diffusion.spacing import noise_levels, respaced_timesteps
from dit_eval.results.settings import SamplingSettings

Schedule = Callable[[float], float]  # sigma of DDPM, or a flow's own time -> guidance scale; 1.0 for none


def guidance_schedule(settings: SamplingSettings) -> Schedule:
    """The guidance scale that settings ask for, by time.

    With DDPM's samplers the time is sigma = sqrt((1 - abar) / abar), the noise beside an image of its own scale, and
    the interval is open below, LOW < sigma <= HIGH (Kynkaanniemi et al. 2024, arXiv 2404.07724, Section 3). With a
    flow's it is the sampler's own time, and both ends belong to it (as in REPA's sampler).
    """
    if settings.guidance_interval is None:
        return lambda time: settings.cfg_scale
    low, high = settings.guidance_interval
    if settings.is_flow:
        return lambda time: settings.cfg_scale if low <= time <= high else 1.0
    return lambda time: settings.cfg_scale if low < time <= high else 1.0


def scales(settings: SamplingSettings) -> list[float]:
    """The guidance scale of each pass of an image through the network, from noise to data.

    Of `ode-dopri5` nobody knows them before it runs: none.
    """
    schedule = guidance_schedule(settings)
    if settings.is_flow:
        flow = Flow.of(settings)
        asked = zip(flow.own_times, flow.evaluations, strict=False)
        return [schedule(time) for time, count in asked for _ in range(count)]
    return [schedule(sigma) for sigma in reversed(sigmas(str(settings.num_sampling_steps)))]


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """How often the network is asked for an image (NFE), and how often of these with guidance, which is a second pass.

    Both may be means over images, of a solver that chooses its steps.
    """

    number: float
    guided: float

    @property
    def fraction(self) -> float:
        """The share that is guided."""
        return self.guided / self.number

    @property
    def passes(self) -> float:
        """Passes of an image through a network: two where it is guided."""
        return self.number + self.guided


def evaluations(settings: SamplingSettings) -> Evaluations | None:
    """The evaluations of an image; None of `ode-dopri5`, where nobody knows them before it runs."""
    found = scales(settings)
    return Evaluations(number=len(found), guided=sum(scale != 1.0 for scale in found)) if found else None


def sigmas(spacing: str) -> list[float]:
    """sigma of the timesteps that DDPM visits, ascending."""
    levels = noise_levels()[respaced_timesteps(spacing)]
    return np.sqrt((1 - levels) / levels).tolist()
