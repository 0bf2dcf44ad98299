"""Mean, spread and components of variance of results of several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric
from dit_eval.report.seeds import SeedGroup
from dit_eval.report.setting import select
from dit_eval.report.tables.table import (
    DASH,
    Column,
    Row,
    Table,
    missing,
    number_text,
    run_cells,
    small_number,
)
from dit_eval.report.variance import Repeats

_ABOUT = (
    "a × b: a trainings, each sampled with b seeds. SD of the results, CoV = SD / mean. The components of the variance "
    "are those of random effects by the method of moments (Searle, Casella and McCulloch 1992), as standard "
    "deviations: of training, what another training moves; of sampling, what other noise moves. Crossed: all trainings "
    "from the same noise. An estimate below 0 stands as 0, and as estimated beside it. SE of one result: what a single "
    "file of samples says of its own chance."
)


def seeds_table(points: pd.DataFrame, groups: Iterable[SeedGroup]) -> list[Table]:
    """Every metric of every group; no table without groups.

    Parameters
    ----------
    points : the measured points among others, one for each result
    """
    every = select(points, source="measured").to_dict("records")
    rows = [
        _row([every[place] for place in group.places], group, metric, found)
        for group in groups
        for metric in METRICS
        if (found := group.repeats([every[place][metric.key] for place in group.places])) is not None
    ]
    columns = (
        Column(key="model", title="Run", text=True),
        Column(key="training_steps", title="Training steps", setting=True),
        Column(key="sampling", title="Sampling", text=True, setting=True),
        Column(key="cfg_scale", title="Guidance", setting=True),
        Column(key="num_samples", title="N", setting=True),
        Column(key="seeds", title="Seeds", text=True),
        Column(key="metric", title="Metric", text=True),
        Column(key="mean", title="Mean"),
        Column(key="mean_error", title="SE of the mean"),
        Column(key="sd", title="SD"),
        Column(key="variation", title="CoV (%)"),
        Column(key="training_sd", title="SD of training"),
        Column(key="sampling_sd", title="SD of sampling"),
        Column(key="training_raw", title="Variance of training, as estimated"),
        Column(key="one_error", title="SE of one result"),
        Column(key="design", title="Design", text=True),
    )
    shown = tuple(c for c in columns if any(row.cells[c.key] != DASH for row in rows))
    title = "Several seeds: mean, spread, and the shares of training and sampling"
    return [Table(name="seeds", title=title, columns=shown, rows=tuple(rows), about=_ABOUT)] if rows else []


def _row(own: Sequence[dict[str, Any]], group: SeedGroup, metric: Metric, found: Repeats) -> Row:
    numbers = {
        "mean": found.mean.value,
        "mean_error": found.mean.error,
        "sd": found.sd,
        "variation": None if found.variation is None else 100 * found.variation,
        "training_sd": None if found.training is None else math.sqrt(found.training),
        "sampling_sd": None if found.sampling is None else math.sqrt(found.sampling),
        "one_error": _one_error(own, metric),
    }
    known = {key: value for key, value in numbers.items() if value is not None}
    cells = run_cells(own[0]) | {
        "num_samples": number_text(own[0]["num_samples"], 0),
        "seeds": f"{group.words} ({group.about})",
        "metric": metric.label,
        **{key: small_number(value, metric.digits) for key, value in numbers.items()},
        "training_raw": DASH if found.training_raw is None else f"{found.training_raw:.2g}",
        "design": found.design or DASH,
    }
    values: dict[str, float | str] = {**known, "metric": metric.key}
    values |= {} if found.training_raw is None else {"training_raw": found.training_raw}
    return Row(cells=cells, values=values, source=", ".join(row["origin"] for row in own), measured=True)


def _one_error(own: Sequence[dict[str, Any]], metric: Metric) -> float | None:
    """The standard error of a result, over those of a group; None where one has none."""
    errors = [row.get(f"{metric.key}_error") for row in own]
    if any(missing(error) for error in errors):
        return None
    return math.sqrt(sum(float(error or 0.0) ** 2 for error in errors) / len(errors))
