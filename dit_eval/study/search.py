"""Coarse to fine: which settings of sampling to try next, and which were best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Literal

from dit_eval.results.settings import SamplingSettings

Interval = tuple[float, float]
_DIGITS = 4  # of a scale between two others


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is tried: a checkpoint, and how images are drawn from it.

    `ckpt` is None for the public checkpoint of a model.
    """

    ckpt: str | None
    sampling: SamplingSettings

    @property
    def scale(self) -> float:
        return self.sampling.cfg_scale

    def at(self, scale: float) -> Candidate:
        """The same at another scale of guidance."""
        return replace(self, sampling=at_scale(self.sampling, scale))

    @property
    def name(self) -> str:
        """A few words on what differs within a sweep."""
        words = [] if self.ckpt is None else [self.ckpt]
        words += [self.sampling.weights] if self.sampling.weights != "ema" else []
        words += [f"{self.sampling.num_sampling_steps} steps", f"cfg {self.scale:g}"]
        if self.sampling.guidance_interval is not None:
            words.append("in {:g} to {:g}".format(*self.sampling.guidance_interval))
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What a sweep varies, each a list of one for what it does not; every combination is tried.

    Attributes
    ----------
    ckpts : checkpoints: one each EMA length, or each training length
    weights : sets of a trainer's file
    steps : numbers of sampling steps
    intervals : where guidance acts; None: everywhere
    cfg_scales : scales of guidance, between which the search goes on
    """

    ckpts: tuple[str | None, ...]
    weights: tuple[Literal["ema", "model"], ...]
    steps: tuple[str, ...]
    intervals: tuple[Interval | None, ...]
    cfg_scales: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of combinations; without guidance some are the same."""
        return prod(map(len, (self.ckpts, self.weights, self.steps, self.intervals, self.cfg_scales)))

    def combinations(self, base: SamplingSettings) -> list[Candidate]:
        """All of them, each once: without guidance there is no interval of it.

        Raises
        ------
        ValueError
            If options do not go together.
        """
        found: dict[Candidate, None] = {}
        for ckpt, weights, steps, interval, scale in product(
            self.ckpts, self.weights, self.steps, self.intervals, sorted(self.cfg_scales)
        ):
            most = replace(base, weights=weights, num_sampling_steps=steps, cfg_scale=max(scale, 2.0))
            sampling = at_scale(replace(most, guidance_interval=interval), scale)
            found[Candidate(ckpt=ckpt, sampling=sampling)] = None
        return list(found)


def at_scale(sampling: SamplingSettings, scale: float) -> SamplingSettings:
    """The same at another scale of guidance; at 1.0 without what acts in guidance alone."""
    if scale != 1.0:
        return replace(sampling, cfg_scale=scale)
    return replace(sampling, cfg_scale=1.0, cfg_channels=None, guidance_interval=None, guide_ckpt=None)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found.

    Attributes
    ----------
    worth : of each candidate, in the order in which they were tried; less is better
    best : the first of the least
    at_the_end : whether its scale is the least or the greatest of several that were tried; below no guidance, 1, there
        is none
    """

    worth: dict[Candidate, float]
    best: Candidate
    at_the_end: bool


def search(coarse: list[Candidate], worth_of: Callable[[Candidate], float], *, rounds: int) -> Found:
    """The best of all combinations, and then of scales of guidance between it and its neighbours.

    Each round tries the middle between the best scale and the next lower and next higher one that was tried with the
    same other settings. What is tried next follows from the scores alone, so that a search that is killed goes on the
    same.

    Parameters
    ----------
    coarse : the combinations
    worth_of : less is better
    rounds : how often the gap beside the best scale is halved
    """
    worth = {candidate: worth_of(candidate) for candidate in coarse}
    for _ in range(rounds):
        best = min(worth, key=lambda candidate: worth[candidate])
        for candidate in _between(best, worth):
            if candidate not in worth:
                worth[candidate] = worth_of(candidate)
    best = min(worth, key=lambda candidate: worth[candidate])
    lower, upper = _beside(best, worth)
    return Found(worth=worth, best=best, at_the_end=(lower is None) != (upper is None) and best.scale != 1.0)


def _beside(best: Candidate, worth: dict[Candidate, float]) -> tuple[Candidate | None, Candidate | None]:
    """The candidates of the next lower and the next higher scale; of several of one scale the best."""
    alike = [each for each in worth if _is_alike(each, best)]
    lower = [each for each in alike if each.scale < best.scale]
    upper = [each for each in alike if each.scale > best.scale]
    return (
        min(lower, key=lambda each: (-each.scale, worth[each]), default=None),
        min(upper, key=lambda each: (each.scale, worth[each]), default=None),
    )


def _is_alike(one: Candidate, other: Candidate) -> bool:
    """Whether two differ in the scale of guidance alone, which has no interval where it is 1."""
    if 1.0 in (one.scale, other.scale):
        return one.at(1.0) == other.at(1.0)
    return one.at(2.0) == other.at(2.0)


def _between(best: Candidate, worth: dict[Candidate, float]) -> list[Candidate]:
    lower, upper = _beside(best, worth)
    found = []
    if lower is not None:
        found.append(best.at(_middle(lower.scale, best.scale)))
    if upper is not None:
        found.append(upper.at(_middle(best.scale, upper.scale)))
    return found


def _middle(low: float, high: float) -> float:
    return round((low + high) / 2, _DIGITS)
