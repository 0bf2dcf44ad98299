"""How much a network is guided, by time: everywhere, or in an interval. Needs no torch.

Outside an interval the conditional network is asked alone, as is without guidance: at scale 1 the other pass counts for
nothing (Ho & Salimans 2021), and it is not made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dit_eval.diffusion.flow import Flow
from dit_eval.diffusion.spacing import noise_levels, respaced_timesteps
from dit_eval.results.sample_run import SampleRun

Schedule = Callable[[float], float]  # sigma of DDPM, or a flow's own time -> guidance scale; 1.0 for none


def guidance_schedule(run: SampleRun) -> Schedule:
    """The guidance scale of a run, by time.

    With DDPM's samplers the time is sigma = sqrt((1 - abar) / abar), the noise beside an image of its own scale, and
    the interval is open below, LOW < sigma <= HIGH (Kynkaanniemi et al. 2024, arXiv 2404.07724, Section 3). With a
    flow's it is the sampler's own time, and both ends belong to it (as in REPA's sampler).
    """
    if run.guidance_interval is None:
        return lambda time: run.cfg_scale
    low, high = run.guidance_interval
    if run.settings.is_flow:
        return lambda time: run.cfg_scale if low <= time <= high else 1.0
    return lambda time: run.cfg_scale if low < time <= high else 1.0


def scales(run: SampleRun) -> list[float]:
    """The guidance scale of each pass of an image through the network, from noise to data.

    Of `ode-dopri5` nobody knows them before it runs: none.
    """
    schedule = guidance_schedule(run)
    if run.settings.is_flow:
        flow = Flow.of(run)
        asked = zip(flow.own_times, flow.evaluations, strict=False)
        return [schedule(time) for time, count in asked for _ in range(count)]
    return [schedule(sigma) for sigma in reversed(sigmas(run.num_sampling_steps))]


def sigmas(spacing: str) -> list[float]:
    """sigma of the timesteps that DDPM visits, ascending."""
    levels = noise_levels()[respaced_timesteps(spacing)]
    return np.sqrt((1 - levels) / levels).tolist()
