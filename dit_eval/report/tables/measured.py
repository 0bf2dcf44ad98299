"""The user's own results as a table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dit_eval.report.points import ADDITIONAL_METRICS, PAPERS_METRICS
from dit_eval.report.setting import select
from dit_eval.report.tables.paper import as_published
from dit_eval.report.tables.table import (
    DASH,
    Column,
    Row,
    Table,
    metric_cells,
    metric_columns,
    metric_values,
    missing,
    number_text,
    sampling_cells,
    small_number,
    with_spread,
)
from dit_eval.results.references import reference_title

# Which the protocol has said already.
UNDOUBTED = (reference_title("adm-2021"), reference_title("digits"))


def measured_table(points: pd.DataFrame) -> Table:
    """Every measured result with how it was made, in the order of the file."""
    columns = (
        Column(key="model", title="Model or file", text=True),
        Column(key="image_size", title="Pixels"),
        Column(key="training_steps", title="Training steps"),
        Column(key="objective", title="Trained as", text=True),
        Column(key="sampling", title="Sampling", text=True),
        Column(key="nfe", title="NFE"),
        Column(key="cfg_scale", title="Guidance"),
        Column(key="decoder", title="Decoder", text=True),
        Column(key="seed", title="Seed"),
        Column(key="num_samples", title="N"),
        *metric_columns(best=False),
        Column(key="fid_infinity", title="FID at infinite N ↓"),
        *metric_columns(ADDITIONAL_METRICS, best=False),
        Column(key="gflops", title="Gflops"),
        Column(key="params_m", title="Params (M)"),
        Column(key="protocol", title="Protocol", text=True),
        Column(key="reference", title="Reference", text=True),
        Column(key="badge", title="As published", text=True),
    )
    measured = select(points, source="measured").to_dict("records")
    notes = _references(measured)
    asked = any(not missing(row["evaluations"]) for row in measured)
    rows = [
        Row(
            cells=_cells(row, with_evaluations=asked),
            values=_values(row),
            source=row["origin"],
            measured=True,
            notes=_mark(row, notes),
        )
        for row in measured
    ]
    about = "Numbers of different N, protocol or reference do not compare. Gflops and parameters are counted."
    if any(" ± " in row.cells[metric.key] for row in rows for metric in (*PAPERS_METRICS, *ADDITIONAL_METRICS)):
        about += " Behind ±: the standard error over draws of N images."
    columns = tuple(c for c in columns if c.key == "model" or any(row.cells[c.key] != DASH for row in rows))
    return Table(
        name="measured",
        title="Measured results",
        columns=columns,
        rows=tuple(rows),
        about=about,
        notes=tuple(f"Against {whose}." if whose != DASH else "Reference not recorded." for whose in notes),
    )


def _references(measured: list[dict[str, Any]]) -> list[str]:
    """The references of a table's rows, each of which gets a mark; none where all rows are against the same."""
    found = list(dict.fromkeys(row["reference"] or DASH for row in measured))
    return found if len(found) > 1 else []


def _mark(row: dict[str, Any], references: list[str]) -> tuple[int, ...]:
    whose = row["reference"] or DASH
    return (references.index(whose),) if whose in references else ()


def _values(row: dict[str, Any]) -> dict[str, float | str]:
    """Numbers in full."""
    full = metric_values(row, (*PAPERS_METRICS, *ADDITIONAL_METRICS))
    return full | {key: row[key] for key in ("fid_infinity", "gflops", "params_m") if not missing(row[key])}


def _cells(row: dict[str, Any], *, with_evaluations: bool) -> dict[str, str]:
    cells = metric_cells(row, decimals=3) | {
        "model": row["model"] + ("" if row["block"] in (None, "adaln-zero") else f" {row['block']}"),
        **sampling_cells(row, with_evaluations=with_evaluations),
        "cfg_scale": number_text(row["cfg_scale"], 2),
        "decoder": row["decoder"] or DASH,
        "fid_infinity": number_text(row["fid_infinity"], 3),
        "gflops": small_number(row["gflops"], 3),
        "params_m": small_number(row["params_m"], 2),
        "protocol": row["protocol"] or DASH,
        "reference": DASH if row["reference"] in (None, *UNDOUBTED) else row["reference"],
        "badge": as_published(row),
    }
    cells |= {
        metric.key: with_spread(small_number(row[metric.key], 3), row, metric.key, 3) for metric in ADDITIONAL_METRICS
    }
    return cells | {key: number_text(row[key], 0) for key in ("image_size", "training_steps", "seed", "num_samples")}
