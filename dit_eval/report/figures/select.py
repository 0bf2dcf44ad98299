"""Which of the points a figure shows."""

from __future__ import annotations

import math

import pandas as pd

from dit_eval.report.sampling import UNITS, unit_for
from dit_eval.report.words import THOUSANDS_FROM


def prefix_of(points: pd.DataFrame) -> str:
    """What the names of these models begin with, such as "DiT-"; nothing if they are of several families."""
    families = points["family"].dropna().unique()
    return f"{families[0]}-" if len(families) == 1 else ""


def of_block(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the common block design; the others belong to Figure 5."""
    return points[points["block"].isin(["adaln-zero"])]


def common_steps(points: pd.DataFrame, *, each: str = "model") -> float:
    """The training length at which most models (or block designs) were evaluated, the longer one of two."""
    counts = points.groupby("training_steps")[each].nunique()
    return float(counts[counts == counts.max()].index.max()) if len(counts) else math.nan


def at_common_training(points: pd.DataFrame) -> pd.DataFrame:
    """The points after one training length, the paper's 400K where it has points; DiTs of the paper only."""
    points = points[points["size"].notna()]
    return points[points["training_steps"] == common_steps(points)]


def last_of_each(points: pd.DataFrame) -> pd.DataFrame:
    """The point with the most compute of each model, to be labelled."""
    return points.sort_values(["training_gflops", "sampling_tflops"], kind="stable").drop_duplicates(
        "model", keep="last"
    )


def gflops_unit(points: pd.DataFrame) -> tuple[str, float]:
    """The unit that fits the compute of the models of these points, and what their Gflops are to be multiplied by."""
    unit = unit_for(points["gflops"].max() / 1000)
    return unit, UNITS[unit] / 1000


def step_scale(points: pd.DataFrame) -> float:
    """Training steps are shown in thousands, unless they are few."""
    return 1e-3 if points["training_steps"].max() >= THOUSANDS_FROM else 1.0


def step_label(points: pd.DataFrame) -> str:
    return "Training steps (K)" if step_scale(points) < 1 else "Training steps"


def end_points(points: pd.DataFrame) -> str:
    return "the paper prints end points, no curves" if "paper" in set(points["source"]) else ""


def extent(points: pd.DataFrame, metric: str) -> pd.Series:
    """All values that an axis of the metric has to show: the points and the ends of their bars."""
    ends = [points[name] for name in (metric, f"{metric}_low", f"{metric}_high")]
    ends += [points[metric] + sign * points[f"{metric}_sd"] for sign in (-1, 1)]
    return pd.concat([values.dropna() for values in ends], ignore_index=True)
