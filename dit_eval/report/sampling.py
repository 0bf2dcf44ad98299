"""Can more sampling steps make up for a smaller model? An analysis of evaluations at several sampling computes.

Everything here speaks of points that were evaluated. Nothing is interpolated: what a model reaches with a compute C is
the least FID of its points that cost C or less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

COMPUTE = "sampling_tflops"
UNITS = {"Tflops": 1.0, "Gflops": 1e3, "Mflops": 1e6}  # of a compute that is kept in Tflops


@dataclass(frozen=True, kw_only=True)
class PairVerdict:
    """Two models at equal sampling compute.

    Attributes
    ----------
    source : of the points, "paper" or "measured"; the two are never compared with each other
    small, large : names, the one with fewer Gflops first
    small_points, large_points : evaluations of each
    small_best, large_best : least FID of each
    small_compute : Tflops per image at the smaller model's best point
    ahead_until : greatest Tflops at which the smaller model's FID is at or below the larger's, among the computes
        where both have points; None if there is none
    overtaken_at : least Tflops of a point of the larger model that is better than every point of the smaller; None if
        there is none
    """

    source: str
    small: str
    large: str
    small_points: int
    large_points: int
    small_best: float
    large_best: float
    small_compute: float
    ahead_until: float | None
    overtaken_at: float | None

    @property
    def reaches(self) -> bool:
        """Whether some number of steps brings the smaller model to the larger's best FID."""
        return self.small_best <= self.large_best

    @property
    def saving(self) -> float | None:
        """How many times less compute the larger model needs to beat the smaller's best."""
        return self.small_compute / self.overtaken_at if self.overtaken_at else None

    def sentence(self) -> str:
        """The verdict in words."""
        points = f"{self.source}, {self.small_points} and {self.large_points} points"
        if self.reaches:
            text = f"{self.small} reaches the best FID of {self.large} ({self.small_best:.2f}, {self.large_best:.2f})."
        else:
            text = f"No number of steps evaluated brings {self.small} ({self.small_best:.2f} at best) to {self.large} "
            text += f"({self.large_best:.2f})."
        if self.ahead_until is None:
            text += f" At equal sampling compute {self.large} is ahead wherever both have points."
        else:
            text += f" At equal sampling compute {self.small} is level or ahead up to {compute_text(self.ahead_until)}."
        if self.overtaken_at is not None and self.saving is not None:
            times = f"{self.saving:.1f} times less" if self.saving >= 1 else f"{1 / self.saving:.1f} times more"
            text += f" {self.large} is better than {self.small} at its best from {compute_text(self.overtaken_at)} on, "
            text += f"{times} than the {compute_text(self.small_compute)} of that best."
        return f"{text} ({points})"


def unit_for(tflops: float) -> str:
    """The unit in which a compute is a number of 1 or more, if there is one."""
    return next((unit for unit, factor in UNITS.items() if tflops * factor >= 1), "Mflops")


def compute_text(tflops: float) -> str:
    """A compute with its unit: 15.2 Tflops, 1.6 Mflops."""
    unit = unit_for(tflops)
    return f"{tflops * UNITS[unit]:.3g} {unit}"


def correlation(gflops: Iterable[float], fid: Iterable[float]) -> tuple[float, float, float] | None:
    """Pearson's r of log Gflops and FID, and the least-squares line FID = intercept + slope ln(Gflops).

    Returns
    -------
    r, slope, intercept; None if all Gflops, or all FIDs, are equal: then there is no r
    """
    x, y = np.log(np.asarray(list(gflops), dtype=float)), np.asarray(list(fid), dtype=float)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / (dx**2).sum())
    r = float((dx * dy).sum() / math.sqrt((dx**2).sum() * (dy**2).sum()))
    return r, slope, float(y.mean() - slope * x.mean())


def pareto_front(points: pd.DataFrame, compute: str = COMPUTE) -> pd.DataFrame:
    """The points that no other of the same source beats in both compute and FID, from the cheapest to the best."""
    fronts = []
    for _, own in _known(points, compute).groupby("source", sort=False):
        ordered = own.sort_values([compute, "fid"], kind="stable")
        fronts.append(ordered[ordered["fid"] < ordered["fid"].cummin().shift(fill_value=math.inf)])
    return pd.concat(fronts) if fronts else points.head(0)


def compare_pairs(points: pd.DataFrame, compute: str = COMPUTE) -> list[PairVerdict]:
    """A verdict for each two models of one source, the cheapest models first."""
    verdicts = []
    for source, own in _known(points, compute).groupby("source", sort=False):
        order = own.groupby("model")["gflops"].min().sort_values(kind="stable").index
        verdicts += [_pair(own, str(source), small, large, compute) for small, large in combinations(order, 2)]
    return verdicts


def compute_for_target(points: pd.DataFrame, target: float, compute: str = COMPUTE) -> pd.DataFrame:
    """The cheapest evaluated point of each model, and source, with FID at or below a target.

    Returns
    -------
    pandas.DataFrame
        source, model, target, tflops, sampling_steps and fid of that point, NaN where no point reaches the target;
        best_fid, the least of the model's points; points, their number. The cheapest first.
    """
    rows = []
    for (source, model), own in _known(points, compute).groupby(["source", "model"], sort=False):
        reached = own[own["fid"] <= target].sort_values(compute, kind="stable")
        first = reached.iloc[0] if len(reached) else None
        rows.append(
            {
                "source": source,
                "model": model,
                "target": target,
                "tflops": math.nan if first is None else first[compute],
                "sampling_steps": math.nan if first is None else first["sampling_steps"],
                "fid": math.nan if first is None else first["fid"],
                "best_fid": own["fid"].min(),
                "points": len(own),
                "gflops": own["gflops"].min(),
            }
        )
    columns = ["source", "model", "target", "tflops", "sampling_steps", "fid", "best_fid", "points", "gflops"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["tflops", "gflops"], kind="stable").reset_index(drop=True)


def targets(points: pd.DataFrame) -> list[float]:
    """FIDs worth asking for: the best of each model and source, from the worst to the best."""
    return sorted(points.groupby(["source", "model"])["fid"].min().dropna().unique(), reverse=True)


def _known(points: pd.DataFrame, compute: str) -> pd.DataFrame:
    return points[points[compute].notna() & points["fid"].notna()]


def _pair(points: pd.DataFrame, source: str, small: str, large: str, compute: str) -> PairVerdict:
    a, b = (points[points["model"] == model].sort_values(compute, kind="stable") for model in (small, large))
    best = a.loc[a["fid"].idxmin()]
    start = max(a[compute].min(), b[compute].min())
    ahead = None
    for budget in sorted({*a[compute], *b[compute]}):
        if budget >= start:
            own, other = (own[own[compute] <= budget]["fid"].min() for own in (a, b))
            ahead = float(budget) if own <= other else ahead
    better = b[b["fid"] < best["fid"]]
    return PairVerdict(
        source=source,
        small=small,
        large=large,
        small_points=len(a),
        large_points=len(b),
        small_best=float(best["fid"]),
        large_best=float(b["fid"].min()),
        small_compute=float(best[compute]),
        ahead_until=ahead,
        overtaken_at=float(better[compute].min()) if len(better) else None,
    )
