"""Stopping early: look at random parts of the images, each with the earlier one in it, until it is sure enough.

The looks are fixed before anything is seen: 1/16, 1/8, 1/4, 1/2 and all of the images, as far as the metrics can be
told from so few. Each has a level, a fifth of the error that may be made shared by the early ones and the rest for the
last, and what is said at a look is said at its level: intervals are so much wider, p values have to be so much smaller.
The chance of a false word at any look is no more than the sum of the levels, whatever the looks have in common
(Bonferroni); so it is at the look where the run stops, by whatever rule it does. What that costs where all images are
needed is little: a z of 2.05 in place of 1.96.

A comparison spends 4 % in place of 5: where N is only some times the number of dimensions, standard errors of
differences come out up to 5 % too small, and of 4,000 comparisons of equal generators 5.8 % were decided when the
levels added up to 5 % (benchmarks/coverage_of_differences.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dit_eval.features.seen import Grown
from dit_eval.images.picked import Picked, whole
from dit_eval.metrics.choose import FeatureSizes, chosen
from dit_eval.metrics.intervals import estimate_uncertainty
from dit_eval.metrics.metric import Metric
from dit_eval.metrics.variation import LEAST_IMAGES
from dit_eval.results.eval_result import Estimate
from dit_eval.results.looking import Looking
from dit_eval.scoring import Scored, scored

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.images import ImageSet
    from dit_eval.results.settings import EvaluationSettings
    from dit_eval.system.where import Where

T = TypeVar("T")

ORDER_SEED = 0  # of the order in which images are taken
_PARTS = (16, 8, 4, 2)
_EARLY = 0.2  # of the error
INTERVALS, COMPARISONS = 0.05, 0.04  # the error that may be made


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Numbers of images at which to look, ascending, and the level of each; the last is all of them."""

    numbers: tuple[int, ...]
    levels: tuple[float, ...]

    @property
    def rule(self) -> str:
        *early, last = (100 * level for level in self.levels)
        shared = f"{sum(early):.3g} % of error shared by the early ones and " if early else ""
        return f"pre-set looks at random parts of the images, {shared}{last:.3g} % for the last"

    def rows(self, number: int) -> np.ndarray:
        """The images of a look, int64 (number,), ascending; those of an earlier look are among them."""
        # RandomState, not Generator: its stream is frozen, and a published figure must not change with NumPy.
        return np.sort(np.random.RandomState(ORDER_SEED).permutation(self.numbers[-1])[:number])

    def told(self, used: int, *, decided: bool, seconds: float, until: float | None = None) -> Looking:
        """What to say of a run that stopped.

        Parameters
        ----------
        seconds : that the features of the images used took
        """
        return Looking(
            rule=self.rule,
            seed=ORDER_SEED,
            looks=self.numbers,
            levels=self.levels,
            used=used,
            decided=decided,
            seconds_saved=seconds * (self.numbers[-1] - used) / used,
            until=until,
        )


def looks_at(num_images: int, *, error: float, least: int = LEAST_IMAGES) -> Looks:
    """When to look at so many images.

    Parameters
    ----------
    error : the chance of a false word: `INTERVALS` or `COMPARISONS`
    least : images that the metrics can be told from
    """
    early = [num_images // part for part in _PARTS if num_images // part >= least]
    if not early:
        return Looks(numbers=(num_images,), levels=(error,))
    levels = (*(_EARLY * error / len(early) for _ in early), (1 - _EARLY) * error)
    return Looks(numbers=(*early, num_images), levels=levels)


def least_images(metrics: Sequence[Metric], network: FeatureSizes) -> int:
    """How many images these metrics, and how far they vary, can be told from."""
    dims = {"pool": network.pool_dim, "spatial": network.spatial_dim or 0}
    of_moments = [2 * (dims[metric.needs.moments] + 1) for metric in metrics if metric.needs.moments]
    return max(LEAST_IMAGES, *of_moments, *(metric.needs.least_gen for metric in metrics))


def score_until(
    *,
    gen: ImageSet,
    ref: ImageSet,
    network: FeatureExtractor,
    settings: EvaluationSettings,
    where: Where,
    then: Callable[[Scored], T],
) -> T:
    """`dit_eval.scoring.scored`, of as many images as give intervals that are narrow enough for `settings.until`.

    Raises
    ------
    ValueError
        As `scored`; or if a metric has no interval, or gen can be read only once.
    """
    target, metrics = settings.until or 0.0, chosen(settings, gen=gen, ref=ref, network=network).metrics
    images = whole(gen)
    looks = looks_at(images.num_images, error=INTERVALS, least=least_images(metrics, network))
    grown, picked = Grown(), Picked(images=images, rows=looks.rows(0))
    where = replace(where, references={} if where.references is None else where.references)
    seconds: dict[str, float] = {}

    def sure(found: Scored, level: float) -> tuple[bool, Scored]:
        sides = replace(found.sides, z=NormalDist().inv_cdf(1 - level / 2))
        uncertainty = estimate_uncertainty(sides, scores=found.result.scores)
        estimates = [uncertainty.estimates.get(metric.key) for metric in metrics]
        result = replace(found.result, uncertainty=uncertainty)
        narrow = all(each is not None and half_width(each) <= target for each in estimates)
        return narrow, replace(found, result=result)

    for number, level in zip(looks.numbers, looks.levels, strict=True):

        def look(found: Scored, number: int = number, level: float = level) -> tuple[bool, T | None]:
            for phase, spent in found.result.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent
            narrow, found = sure(found, level)
            if not narrow and number < looks.numbers[-1]:
                return False, None
            told = looks.told(number, decided=narrow, seconds=seconds["gen features"], until=target)
            return True, then(replace(found, result=replace(found.result, looking=told, seconds=dict(seconds))))

        done, value = scored(
            gen=picked.other(looks.rows(number)),
            ref=ref,
            network=network,
            settings=replace(settings, intervals=False),
            where=where,
            then=look,
            grown=grown,
        )
        if done:
            break
    return value  # type: ignore[return-value]  # the last look is always done


def half_width(estimate: Estimate) -> float:
    """Half of an interval as a share of its value; infinite where that is 0."""
    return (estimate.high - estimate.low) / 2 / abs(estimate.value) if estimate.value else float("inf")
