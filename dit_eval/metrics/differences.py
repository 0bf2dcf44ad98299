"""Differences of metrics between sets of as many samples: standard errors, intervals, verdicts, and how many images
would decide.

What varies is the generated images; the reference is held fixed. A difference is about the expected values of the
metric at this N, as intervals are: what N images add to a distance is added to both, and is no part of a verdict as
far as the two generators are alike in it. Sets of different N have no such difference and are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric, Sides
from dit_eval.metrics.variation import NoEstimate, Variation
from dit_eval.results.comparison import Difference, Pairing, Verdict
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.settings import MOST_IMAGES

LEVEL = 0.05
_POWER = 0.8
# A difference that is a smaller share of the values is rounding.
_ROUNDING = 1e-9
NO_ESTIMATOR = "there is no estimator of how far it varies"


def variations(metrics: Sequence[Metric], sides: Sides) -> dict[str, Variation | str]:
    """What the images of a set do to each metric, by its key; or why that cannot be told."""
    found: dict[str, Variation | str] = {}
    computed: dict[Callable[[Sides], Any], Variation | str] = {}  # two metrics may have one function
    for metric in metrics:
        if metric.variation is None:
            found[metric.key] = NO_ESTIMATOR
            continue
        if metric.variation not in computed:
            try:
                computed[metric.variation] = metric.variation(sides)
            except NoEstimate as reason:
                computed[metric.variation] = str(reason)
        found[metric.key] = computed[metric.variation]
    return found


def differences(
    results: Sequence[EvalResult],
    varied: Sequence[Mapping[str, Variation | str]],
    pairings: Sequence[Pairing],
    *,
    level: float = LEVEL,
) -> tuple[Difference, ...]:
    """The differences of all metrics and pairs, in the order of `METRICS`, and of the pairs of each.

    Parameters
    ----------
    results, varied : of each set, and what `variations` gives of it
    pairings : of each pair
    level : of verdicts and intervals
    """
    found: list[Difference] = []
    for metric in METRICS:
        if any(metric.key not in each for each in varied):
            continue
        of_pairs = [_difference(metric, results, varied, pairing, level) for pairing in pairings]
        found += _with_verdicts(metric, of_pairs, level)
    return tuple(found)


def _difference(
    metric: Metric,
    results: Sequence[EvalResult],
    varied: Sequence[Mapping[str, Variation | str]],
    pairing: Pairing,
    level: float,
) -> Difference:
    """All but what depends on the other pairs."""
    (a, one), (b, other) = ((results[at].scores[metric.key], varied[at][metric.key]) for at in (pairing.a, pairing.b))
    if a is None or b is None:
        raise ValueError(f"{metric.label}: expected a value of each set to compare; got none.")
    value, num = a - b, results[pairing.a].num_samples
    if abs(value) <= _ROUNDING * max(abs(a), abs(b)):
        value = 0.0
    about: dict[str, Any] = {
        "metric": metric.key,
        "a": pairing.a,
        "b": pairing.b,
        "num_images": num,
        "pairing": pairing.word,
        "value": value,
    }
    if pairing.paired and pairing.same:  # nothing varies, whatever an estimator would say of so many images
        return Difference(**about | {"value": 0.0}, standard_error=0.0, low=0.0, high=0.0, p_value=1.0)
    if isinstance(one, str) or isinstance(other, str):
        return Difference(**about, missing=one if isinstance(one, str) else str(other))
    spread = one.of_difference(other, paired=pairing.paired)
    error = math.sqrt(spread.all)
    reach = NormalDist().inv_cdf(1 - level / 2) * error
    apart = one.of_difference(other, paired=False).all if pairing.paired else None
    return Difference(
        **about,
        standard_error=error,
        low=value - reach,
        high=value + reach,
        p_value=_p_value(value, error),
        images_to_decide=_images_to_decide(value, variance=spread.all, fixed=spread.fixed, num_images=num),
        variance_ratio=apart / spread.all if apart is not None and spread.all > 0 else None,
    )


def _with_verdicts(metric: Metric, of_pairs: Sequence[Difference], level: float) -> list[Difference]:
    """The pairs of one metric, with Holm's correction for their number."""
    from dataclasses import replace

    known = [each for each in of_pairs if each.p_value is not None]
    corrected = iter(holm([each.p_value for each in known if each.p_value is not None]))
    found = []
    for each in of_pairs:
        if each.p_value is not None:
            p = next(corrected)
            verdict: Verdict = "undecided"
            if p < level:
                verdict = "better" if (each.value < 0) == (metric.better == "lower") else "worse"
            each = replace(each, p_corrected=p, verdict=verdict)
        found.append(each)
    return found


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number, by Holm's step-down rule, in their order.

    References
    ----------
    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    found, least = [1.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min((len(values) - rank) * values[place], 1.0))
        found[place] = least
    return found


def _p_value(value: float, error: float) -> float:
    if value == 0:
        return 1.0
    return math.erfc(abs(value) / error / math.sqrt(2)) if error > 0 else 0.0


def _images_to_decide(value: float, *, variance: float, fixed: float, num_images: int) -> int | None:
    """How many images of either set show such a difference at the level of 5 % in four draws of five."""
    reach = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(_POWER)
    allowed = (value / reach) ** 2 - fixed
    found = math.inf if allowed <= 0 else (variance - fixed) * num_images / allowed
    return max(math.ceil(found), 1) if found <= MOST_IMAGES else None
