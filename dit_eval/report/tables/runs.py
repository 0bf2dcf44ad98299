"""The user's own results as leaderboards: one for each group of results whose numbers compare, the best first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric
from dit_eval.metrics.printed import decimals, signed
from dit_eval.metrics.published import Beside, published_beside
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.seeds import SeedGroup, together
from dit_eval.report.setting import select
from dit_eval.report.tables.measured import UNDOUBTED
from dit_eval.report.tables.table import (
    DASH,
    Column,
    Row,
    Table,
    about_spread,
    metric_columns,
    missing,
    number_text,
    run_cells,
    sampling_cells,
    small_number,
    with_spread,
)
from dit_eval.report.words import fid_label
from dit_eval.results.eval_result import PROTOCOL, EvalResult

_GROUP = ["protocol", "reference", "image_size", "num_samples"]  # what results have in common whose numbers compare


def runs_tables(points: pd.DataFrame, results: Sequence[EvalResult], seeds: Iterable[SeedGroup] = ()) -> list[Table]:
    """A leaderboard for each group of results: those that compare with the paper's first, then the largest groups.

    Parameters
    ----------
    points, results : the measured points among others, and their results in the same order
    seeds : results that are one row
    """
    every = [
        {**row, "number": number} for number, row in enumerate(select(points, source="measured").to_dict("records"))
    ]
    rows = together(every, seeds)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[name]) for name in _GROUP), []).append(row)
    ordered = sorted(groups.values(), key=lambda group: (group[0]["protocol"] != PROTOCOL, -len(group)))
    return [_table(group, results, "runs" if not place else f"runs-{place + 1}") for place, group in enumerate(ordered)]


def best_of(table: Table) -> list[tuple[str, str, Row]]:
    """The best run by each metric that the paper prints: the column's title, the number, the row."""
    found = []
    for metric in PAPERS_METRICS:
        rows = [row for row in table.rows if row.measured and metric.key in row.values]
        title = next((column.title for column in table.columns if column.key == metric.key), "")
        if rows and title:
            best = min(rows, key=lambda row: _worth(row, metric))
            found.append((title, best.cells[metric.key], best))
    return found


def _worth(row: Row, metric: Metric) -> float:
    """Less is better, whatever the metric; rows without it come last."""
    value = float(row.values.get(metric.key, math.nan))
    return math.inf if math.isnan(value) else value if metric.better == "lower" else -value


def _table(group: Sequence[dict[str, Any]], results: Sequence[EvalResult], name: str) -> Table:
    metrics = [metric for metric in METRICS if any(not missing(row.get(metric.key)) for row in group)]
    beside = {row["number"]: published_beside(results[row["number"]]) for row in group}
    columns = (
        Column(key="model", title="Run", text=True),
        *metric_columns(metrics),
        Column(key="fid_infinity", title="FID at infinite N ↓", best="min"),
        Column(key="difference", title="FID less published"),
        Column(key="published", title="Published FID", text=True),
        Column(key="gflops", title="Gflops", setting=True),
        Column(key="params_m", title="Params (M)", setting=True),
        Column(key="training_steps", title="Training steps", setting=True),
        Column(key="objective", title="Trained as", text=True, setting=True),
        Column(key="sampling", title="Sampling", text=True, setting=True),
        Column(key="nfe", title="NFE", setting=True),
        Column(key="cfg_scale", title="Guidance", setting=True),
        Column(key="decoder", title="Decoder", text=True, setting=True),
        Column(key="seed", title="Seed", setting=True),
        Column(key="selected_by", title="Selected by", text=True),
        Column(key="badge", title="As published", text=True, setting=True),
    )
    asked = any(not missing(row["evaluations"]) for row in group)
    rows = [_row(row, metrics, beside[row["number"]], with_evaluations=asked) for row in group]
    rows.sort(key=lambda row: [_worth(row, metric) for metric in metrics])
    columns = tuple(c for c in columns if c.key == "model" or any(row.cells[c.key] != DASH for row in rows))
    return Table(name=name, title=_title(group[0]), columns=columns, rows=tuple(rows), about=_about(rows, columns))


def _title(row: dict[str, Any]) -> str:
    """What the results of a group have in common."""
    parts = [
        "" if missing(row["image_size"]) else f"{row['image_size']:.0f} px",
        f"{fid_label(row['num_samples'])}",
        f"protocol {row['protocol']}",
        "" if row["reference"] in (None, *UNDOUBTED) else str(row["reference"]),
    ]
    return ", ".join(part for part in parts if part)


def _about(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    texts = []
    if spread := about_spread(rows):
        texts.append(spread)
    if any(column.key == "published" for column in columns):
        texts.append("Published: of the same model and settings, or, where it says nearest, of the nearest FID.")
    return " ".join(texts)


def _row(row: dict[str, Any], metrics: Sequence[Metric], beside: Beside | None, *, with_evaluations: bool) -> Row:
    cells = run_cells(row) | sampling_cells(row, with_evaluations=with_evaluations)
    cells |= {
        "fid_infinity": number_text(row["fid_infinity"], 2),
        "gflops": small_number(row["gflops"], 3),
        "params_m": small_number(row["params_m"], 2),
        "decoder": row["decoder"] or DASH,
        "seed": row["seeds"] or number_text(row["seed"], 0),
        "selected_by": row["selected_by"] or DASH,
        "badge": row["badge"] or DASH,
        "difference": DASH,
        "published": DASH,
    }
    values: dict[str, float | str] = {
        key: row[key] for key in ("fid_infinity", "gflops", "params_m", "training_steps") if not missing(row[key])
    }
    for metric in metrics:
        cells[metric.key] = _score(row, metric)
        names = {metric.key: metric.key, f"{metric.key}_error": f"{metric.key}_standard_error"}
        names |= {f"{metric.key}_{end}": f"{metric.key}_{end}" for end in ("low", "high", "sd", "degrees")}
        values |= {name: row[key] for key, name in names.items() if not missing(row.get(key))}
    if beside is not None and (difference := beside.published.difference("fid", row["fid"])) is not None:
        printed = beside.published.values["fid"]
        cells["difference"] = signed(difference, len(printed.partition(".")[2]))
        near = "" if beside.is_same else "nearest: "
        cells["published"] = f"{printed}, {near}{beside.published.name} ({beside.published.source})"
        values["difference"] = difference
    return Row(cells=cells, values=values, source=row["origin"], measured=True, result=row["number"])


def _score(row: dict[str, Any], metric: Metric) -> str:
    if missing(row[metric.key]):
        return DASH
    return with_spread(decimals(row[metric.key], metric.digits), row, metric.key, metric.digits)
