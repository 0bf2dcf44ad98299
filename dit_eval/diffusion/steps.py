"""The steps of every sampler, from noise to data, as one kind of thing.

A step is counted as DDPM counts: the last one has index 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from dit_eval.diffusion.each_image import solve_each
from dit_eval.diffusion.flow import Flow, convert, diffusion
from dit_eval.diffusion.guidance import Schedule, guidance_schedule, sigmas
from dit_eval.diffusion.process import Diffusion
from dit_eval.results.settings import SamplingSettings

Draw = Callable[[int], Tensor]  # step index -> noise


class Network(Protocol):
    """A network with its guidance, for a batch of images."""

    def __call__(self, x: Tensor, time: Tensor, *, scale: float, rows: Sequence[int] | None = None) -> Tensor:
        """What it predicts, float32 (n, C or 2 C, ...).

        Parameters
        ----------
        x : float32 (n, C, ...)
        time : (n,) that it is told; DDPM's timesteps if they are integers
        scale : of guidance; 1.0 for the conditional network alone
        rows : which images of the batch these are; None for all
        """
        ...


class Steps(Protocol):
    """The steps of a sampler."""

    def __len__(self) -> int: ...

    def passes(self, index: int) -> int:
        """Passes through a network that a step takes of an image; 1 if nobody knows."""
        ...

    def step(self, network: Network, x: Tensor, index: int, draw: Draw) -> Tensor:
        """The state after a step, of its index and the state before."""
        ...


def steps_of(settings: SamplingSettings) -> Steps:
    """The steps that settings ask for."""
    schedule = guidance_schedule(settings)
    if not settings.is_flow:
        return _Ancestral(settings, schedule)
    flow = Flow.of(settings)
    return _AdaptiveSteps(flow, schedule) if flow.is_adaptive else _FlowSteps(flow, schedule)


class _Ancestral:
    """DDPM and DDIM."""

    def __init__(self, settings: SamplingSettings, schedule: Schedule) -> None:
        spacing = str(settings.num_sampling_steps)
        self._diffusion = Diffusion(spacing)
        self._rule: Literal["ddpm", "ddim"] = "ddim" if settings.sampler == "ddim" else "ddpm"
        self._scales = [schedule(sigma) for sigma in sigmas(spacing)]

    def __len__(self) -> int:
        return len(self._diffusion)

    def passes(self, index: int) -> int:
        return 1 if self._scales[index] == 1.0 else 2

    def step(self, network: Network, x: Tensor, index: int, draw: Draw) -> Tensor:
        scale = self._scales[index]
        noise = draw(index)  # of each step, used or not: the noise of the next depends on it
        return self._diffusion.step(lambda x, t: network(x, t, scale=scale), x, index, noise, sampler=self._rule)


class _Field:
    """What a flow's network says of a place, in the flow's terms."""

    def __init__(self, flow: Flow, network: Network, scale: float) -> None:
        self._flow, self._network, self._scale = flow, network, scale

    def velocity(self, x: Tensor, t: float) -> Tensor:
        return self._as("velocity", x, t, self._predicted(x, t))

    def drift(self, x: Tensor, t: float) -> Tensor:
        """v + w s, of the SDE dx = (v + w s) dt + sqrt(2 w) dW."""
        predicted = self._predicted(x, t)
        return self._as("velocity", x, t, predicted) + self.diffusion(t) * self._as("score", x, t, predicted)

    def score(self, x: Tensor, t: float) -> Tensor:
        return self._as("score", x, t, self._predicted(x, t))

    def diffusion(self, t: float) -> float:
        settings = self._flow.settings
        return diffusion(settings.diffusion_form or "sigma", t, self._flow.level(t), settings.diffusion_norm or 1.0)

    def _as(self, wanted: str, x: Tensor, t: float, predicted: Tensor) -> Tensor:
        return convert(
            predicted, x, self._flow.level(t), given=self._flow.settings.prediction or "velocity", wanted=wanted
        )

    def _predicted(self, x: Tensor, t: float) -> Tensor:
        """The network's prediction, of x's type; of a network that predicts its variance as well, without that."""
        # One number for all images, made on the device: a copy would make a GPU wait.
        time = torch.full((len(x),), self._flow.told(t), dtype=torch.float32, device=x.device)
        predicted = self._network(x.float(), time, scale=self._scale)[:, : x.shape[1]].to(x.dtype)
        # REPA's time runs from data to noise, so its velocity does; a score and noise are the same either way.
        backwards = self._flow.settings.time == "repa" and self._flow.settings.prediction == "velocity"
        return -predicted if backwards else predicted


class _FlowSteps:
    """An ODE or SDE by steps that are known before."""

    def __init__(self, flow: Flow, schedule: Schedule) -> None:
        self._flow, self._times = flow, flow.times
        self._evaluations = flow.evaluations
        self._scales = [schedule(time) for time in flow.own_times]

    def __len__(self) -> int:
        return len(self._evaluations)

    def passes(self, index: int) -> int:
        number = len(self) - 1 - index
        return self._evaluations[number] * (1 if self._scales[number] == 1.0 else 2)

    def step(self, network: Network, x: Tensor, index: int, draw: Draw) -> Tensor:
        number = len(self) - 1 - index
        field = _Field(self._flow, network, self._scales[number])
        x = x.double() if self._flow.is_double else x
        begin = self._times[number]
        if number == len(self._times) - 1:
            return _last_step(self._flow, field, x, begin)
        end = self._times[number + 1]
        heun = self._evaluations[number] == 2
        if not self._flow.is_sde:
            return (_heun if heun else _euler)(field.velocity, x, begin, end)
        noise = draw(index).to(x.dtype) * math.sqrt(2 * field.diffusion(begin) * (end - begin))
        # Euler and Maruyama: the noise is added to what the drift gives; Heun, as SiT does: the drift meets the noise.
        return _heun(field.drift, x + noise, begin, end) if heun else _euler(field.drift, x, begin, end) + noise


def _euler(slope: Callable[[Tensor, float], Tensor], x: Tensor, begin: float, end: float) -> Tensor:
    return x + (end - begin) * slope(x, begin)


def _heun(slope: Callable[[Tensor, float], Tensor], x: Tensor, begin: float, end: float) -> Tensor:
    """The trapezoid with Euler's step for its end, of second order (Karras et al. 2022, Algorithm 1)."""
    first = slope(x, begin)
    second = slope(x + (end - begin) * first, end)
    return x + (end - begin) * (0.5 * first + 0.5 * second)


def _last_step(flow: Flow, field: _Field, x: Tensor, t: float) -> Tensor:
    """From the last time to the data without noise: SiT's three ways."""
    size = flow.settings.last_step_size or 0.0
    if flow.settings.last_step == "mean":
        return x + size * field.drift(x, t)
    if flow.settings.last_step == "euler":
        return x + size * field.velocity(x, t)
    # Tweedie's formula (Efron 2011): the mean of the data given x.
    level = flow.level(t)
    return x / level.alpha + level.sigma**2 / level.alpha * field.score(x, t)


class _AdaptiveSteps:
    """An ODE by Dormand and Prince's pair of orders 4 and 5 (1980), as torchdiffeq has it: all of it as one step.

    The solver chooses its steps by the error of all that it is given. It is given one image, so that no image depends
    on others; networks are asked for many at once (`solve_each`).
    """

    def __init__(self, flow: Flow, schedule: Schedule) -> None:
        self._flow, self._schedule = flow, schedule

    def __len__(self) -> int:
        return 1

    def passes(self, index: int) -> int:
        return 1

    def step(self, network: Network, x: Tensor, index: int, draw: Draw) -> Tensor:
        return solve_each(self._solve, network, x.double() if self._flow.is_double else x)

    def _solve(self, network: Network, x: Tensor) -> Tensor:
        from torchdiffeq import odeint

        def slope(t: Tensor, x: Tensor) -> Tensor:
            time = float(t)
            return _Field(self._flow, network, self._schedule(self._flow.own_time(time))).velocity(x, time)

        # The times are those of SiT, which keeps the states there; the solver interpolates to the last one as well.
        times = torch.tensor(self._flow.times, dtype=x.dtype, device=x.device)
        return odeint(slope, x, times, method="dopri5", atol=self._flow.settings.atol, rtol=self._flow.settings.rtol)[
            -1
        ]
