"""Repeated evaluations of one model: mean, spread, and the shares of training and sampling in it.

Result y_ij is of training i (of a) and sampling seed j. Two models of random effects, by design:

- nested, where each training has noise of its own: y_ij = m + T_i + S_ij;
- crossed, where all trainings were sampled with the same b seeds, and so from the same noise:
  y_ij = m + T_i + S_j + E_ij. What a noise does to all trainings alike, S_j, is no part of their differences.

The components are those of the analysis of variance, by the method of moments: each mean square is set equal to its
expectation. Of a crossed design var(T) = (MS_T - MS_E) / b; of a nested one (MS_T - MS_S) / n0, where n0 is the number
of results of each training, or (N - sum n_i^2 / N) / (a - 1) if they differ. The component of sampling is the variance
within trainings, in both: of a crossed design that is var(S) + var(E). The estimates have no bias, and so may be
negative.

References
----------
Searle, Casella and McCulloch 1992, "Variance Components", chapters 3 and 4; Satterthwaite 1946, "An approximate
distribution of estimates of variance components"; Welch 1947, on means of unequal variances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr

LEVEL = 0.05  # of the test whether two means differ


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A number with its standard error, and the degrees of freedom behind that; infinite where it is no estimate."""

    value: float
    error: float
    degrees: float = math.inf

    def is_apart(self, other: Mean) -> bool:
        """Whether they differ significantly, by Welch's two-sided t-test.

        The two are taken for independent. Those from the same noise or the same images go together, so that fewer
        differences are found than there are, and not more.
        """
        variances = (self.error**2, other.error**2)
        difference, error = abs(self.value - other.value), math.sqrt(sum(variances))
        if error == 0.0:
            return difference > 0.0
        below = sum(v**2 / mean.degrees for v, mean in zip(variances, (self, other), strict=True))
        degrees = sum(variances) ** 2 / below if below else math.inf
        return bool(2 * stdtr(degrees, -difference / error) < LEVEL)


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """What repeated results say together.

    Attributes
    ----------
    mean : of the means of the trainings, with its standard error over fresh trainings and fresh noise; over fresh noise
        alone where there is but one training
    sd : standard deviation of the results, of N - 1
    variation : the coefficient of variation, sd over |mean|; None for a mean of 0
    training, sampling : components of the variance of a result, negative ones as 0; None where the design does not
        tell: of one training, or without two results of one
    training_raw : as estimated
    design : see above; None without components
    """

    mean: Mean
    sd: float
    variation: float | None
    training: float | None
    training_raw: float | None
    sampling: float | None
    design: Literal["nested", "crossed"] | None


def repeats(results: Sequence[tuple[str, int, float]]) -> Repeats:
    """Mean, spread and components of results.

    Parameters
    ----------
    results : training (whatever tells it from others), seed of sampling and value of each, one for each pair of them

    Raises
    ------
    ValueError
        If there are fewer than two, or two of one training and one seed.
    """
    panel: dict[str, dict[int, float]] = {}
    for training, seed, value in results:
        if seed in panel.setdefault(training, {}):
            raise ValueError(f"Two results of training {training} with seed {seed}; expected one.")
        panel[training][seed] = value
    if len(results) < 2:
        raise ValueError(f"{len(results)} results; expected at least two.")
    every = np.array([value for _, _, value in results], dtype=float)
    mean = float(np.mean([np.mean([*own.values()]) for own in panel.values()]))
    sd = float(every.std(ddof=1))
    found = _components(panel)
    return Repeats(
        mean=Mean(value=mean, error=found.error, degrees=found.degrees),
        sd=sd,
        variation=sd / abs(mean) if mean else None,
        training=None if found.training is None else max(0.0, found.training),
        training_raw=found.training,
        sampling=found.sampling,
        design=found.design,
    )


@dataclass(frozen=True, kw_only=True)
class _Components:
    error: float
    degrees: float
    training: float | None = None
    sampling: float | None = None
    design: Literal["nested", "crossed"] | None = None


def _components(panel: dict[str, dict[int, float]]) -> _Components:
    rows = [np.array([*own.values()], dtype=float) for own in panel.values()]
    counts = np.array([len(row) for row in rows])
    a, total = len(rows), int(counts.sum())
    if a == 1:
        variance = float(rows[0].var(ddof=1))
        return _Components(error=math.sqrt(variance / total), degrees=total - 1, sampling=variance)
    means = np.array([row.mean() for row in rows])
    error = float(means.std(ddof=1)) / math.sqrt(a)
    if total == a:  # one result of each training
        return _Components(error=error, degrees=a - 1)
    if len({frozenset(own) for own in panel.values()}) == 1:
        return _crossed(panel)
    grand = np.concatenate(rows).mean()
    between = float((counts * (means - grand) ** 2).sum()) / (a - 1)
    within = float(sum(((row - row.mean()) ** 2).sum() for row in rows)) / (total - a)
    each = (total - float((counts**2).sum()) / total) / (a - 1)
    return _Components(error=error, degrees=a - 1, training=(between - within) / each, sampling=within, design="nested")


def _crossed(panel: dict[str, dict[int, float]]) -> _Components:
    """Of a whole table of trainings and seeds. The variance of its mean is (MS_T + MS_S - MS_E) / (a b)."""
    seeds = sorted(next(iter(panel.values())))
    table = np.array([[own[seed] for seed in seeds] for own in panel.values()], dtype=float)
    a, b = table.shape
    rows, columns, grand = table.mean(axis=1), table.mean(axis=0), table.mean()
    of_rows = b * float(((rows - grand) ** 2).sum()) / (a - 1)
    of_columns = a * float(((columns - grand) ** 2).sum()) / (b - 1)
    rest = float(((table - rows[:, None] - columns + grand) ** 2).sum()) / ((a - 1) * (b - 1))
    shared = max(0.0, of_columns - rest)
    variance = of_rows + shared
    below = of_rows**2 / (a - 1)
    if shared:
        below += of_columns**2 / (b - 1) + rest**2 / ((a - 1) * (b - 1))
    return _Components(
        error=math.sqrt(variance / (a * b)),
        degrees=variance**2 / below if below else a - 1,
        training=(of_rows - rest) / b,
        sampling=(of_columns + (a - 1) * rest) / a,
        design="crossed",
    )
