"""Tables of the scaling law and of sampling compute."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from dit_eval.report.law import LEAST_MODELS, Law
from dit_eval.report.sampling import PairVerdict, compare_pairs, compute_for_target, pareto_front, targets, unit_for
from dit_eval.report.setting import Setting, select
from dit_eval.report.tables.table import DASH, Column, Row, Table, compute_cell, number_text
from dit_eval.report.words import fid_label, steps_text


def sampling_tables(setting: Setting) -> list[Table]:
    """Sampling against model compute: pairs of models, the Pareto front, the compute for a target FID."""
    points = setting.sweep
    label = fid_label(setting.sweep_samples)
    unit = unit_for(points["sampling_tflops"].max())
    return [
        _pairs_table(compare_pairs(points), label, unit),
        _front_table(points, label, unit),
        _targets_table(points, label, unit),
    ]


def law_tables(laws: Iterable[Law]) -> list[Table]:
    """Correlation and order of each source of points; then every exception, if there is any."""
    columns = (
        Column(key="question", title="Question", text=True),
        Column(key="where", title="Where", text=True),
        Column(key="result", title="Result"),
        Column(key="of", title="Of", text=True),
    )
    others = (
        Column(key="question", title="Question", text=True),
        Column(key="better", title="Should have the lower FID", text=True),
        Column(key="better_fid", title="FID"),
        Column(key="worse", title="Than", text=True),
        Column(key="worse_fid", title="FID"),
        Column(key="conditions", title="Both", text=True),
    )
    rows: list[Row] = []
    exceptions: list[Row] = []
    for law in laws:
        source, is_measured = f"computed, {law.source} points", law.source == "measured"
        for c in law.correlations:
            cells = {
                "question": "r of ln Gflops and FID",
                "where": f"{steps_text(c.training_steps)} training steps",
                "result": DASH if c.r is None else f"{c.r:.3f}",
                "of": f"{c.models} model{'' if c.models == 1 else 's'}",
            }
            values = {} if c.r is None else {"result": c.r}
            rows.append(Row(cells=cells, values=values, source=source, measured=is_measured))
        for question, noun, order in (
            ("Larger size, lower FID", "", law.sizes),
            ("Smaller patch, lower FID", "patch size ", law.patches),
            ("Longer training, lower FID", "training steps ", law.training),
        ):
            for step, part in order.by_step().items():
                count = {"result": f"{part.held}", "of": f"{part.total} pair{'' if part.total == 1 else 's'}"}
                rows.append(
                    Row(
                        cells={"question": question, "where": noun + step, **count}, source=source, measured=is_measured
                    )
                )
            for pair in order.exceptions:
                cells = {
                    "question": question,
                    "better": f"{pair.second}, {steps_text(pair.second_steps)} training steps",
                    "better_fid": f"{pair.second_fid:.2f}",
                    "worse": f"{pair.first}, {steps_text(pair.first_steps)} training steps",
                    "worse_fid": f"{pair.first_fid:.2f}",
                    "conditions": ", ".join(pair.conditions) or DASH,
                }
                values = {"better_fid": pair.second_fid, "worse_fid": pair.first_fid}
                exceptions.append(Row(cells=cells, values=values, source=source, measured=is_measured))
    about = (
        "Pairs of points that differ in nothing but what is asked; result: how many of them hold. A tie does not. r "
        f"needs {LEAST_MODELS} models; adaLN-Zero models only."
    )
    title = "Quality and compute: correlation and order"
    made = [Table(name="scaling-law", title=title, columns=columns, rows=tuple(rows), about=about)]
    if exceptions:
        title = "Quality and compute: where the order does not hold"
        made.append(Table(name="scaling-law-exceptions", title=title, columns=others, rows=tuple(exceptions)))
    return made


def _pairs_table(verdicts: list[PairVerdict], label: str, unit: str) -> Table:
    columns = (
        Column(key="small", title="Smaller model", text=True),
        Column(key="large", title="Larger model", text=True),
        Column(key="small_best", title=f"Smaller, best {label}"),
        Column(key="large_best", title=f"Larger, best {label}"),
        Column(key="reaches", title="Smaller reaches larger", text=True),
        Column(key="ahead_until_tflops", title=f"Smaller ahead up to ({unit})"),
        Column(key="overtaken_at_tflops", title=f"Larger beats its best from ({unit})"),
        Column(key="saving", title="times less"),
        Column(key="points", title="Points", text=True),
    )
    rows = [
        Row(
            cells={
                "small": v.small,
                "large": v.large,
                "small_best": f"{v.small_best:.2f}",
                "large_best": f"{v.large_best:.2f}",
                "reaches": "yes" if v.reaches else "never",
                "ahead_until_tflops": "nowhere" if v.ahead_until is None else compute_cell(v.ahead_until, unit),
                "overtaken_at_tflops": DASH if v.overtaken_at is None else compute_cell(v.overtaken_at, unit),
                "saving": DASH if v.saving is None else f"{v.saving:.1f}",
                "points": f"{v.small_points} and {v.large_points}",
            },
            values=_known(
                small_best=v.small_best,
                large_best=v.large_best,
                ahead_until_tflops=v.ahead_until,
                overtaken_at_tflops=v.overtaken_at,
                saving=v.saving,
            ),
            source=f"computed, {v.source} points",
            measured=v.source == "measured",
        )
        for v in verdicts
    ]
    about = (
        "Of the points evaluated, nothing interpolated. Sampling compute is Gflops x steps for one image, guidance not "
        "counted. Where a model has one point, the verdict rests on it."
    )
    title = "Sampling against model compute: pairs of models at equal sampling compute"
    return Table(name="sampling-pairs", title=title, columns=columns, rows=tuple(rows), about=about)


def _front_table(points: pd.DataFrame, label: str, unit: str) -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="steps", title="Sampling steps"),
        Column(key="tflops", title=f"{unit} per image"),
        Column(key="fid", title=f"{label} ↓"),
    )
    rows = [
        Row(
            cells={
                "model": row["model"],
                "steps": f"{row['sampling_steps']:.0f}",
                "tflops": compute_cell(row["sampling_tflops"], unit),
                "fid": f"{row['fid']:.2f}",
            },
            values={"tflops": row["sampling_tflops"], "fid": row["fid"]},
            source="paper, text on Figure 10" if row["source"] == "paper" else row["origin"],
            measured=row["source"] == "measured",
        )
        for row in pareto_front(points).to_dict("records")
    ]
    title = "Pareto front: no other point of the same source is cheaper and better"
    return Table(name="sampling-front", title=title, columns=columns, rows=tuple(rows))


def _targets_table(points: pd.DataFrame, label: str, unit: str) -> Table:
    columns = (
        Column(key="target", title=f"Target {label}"),
        Column(key="model", title="Model", text=True),
        Column(key="tflops", title=f"{unit} per image"),
        Column(key="steps", title="Sampling steps"),
        Column(key="fid", title=f"{label} there"),
        Column(key="best_fid", title=f"Best {label}"),
        Column(key="points", title="Points"),
    )
    rows = []
    for source, target in ((s, t) for s in ("paper", "measured") for t in targets(select(points, source=s))):
        for row in compute_for_target(select(points, source=source), target).to_dict("records"):
            reached = not math.isnan(row["tflops"])
            rows.append(
                Row(
                    cells={
                        "target": f"{target:.2f}",
                        "model": row["model"],
                        "tflops": compute_cell(row["tflops"], unit) if reached else "not reached",
                        "steps": number_text(row["sampling_steps"], 0),
                        "fid": number_text(row["fid"], 2),
                        "best_fid": f"{row['best_fid']:.2f}",
                        "points": f"{row['points']}",
                    },
                    values=_known(target=target, tflops=row["tflops"], fid=row["fid"], best_fid=row["best_fid"]),
                    source=f"computed, {row['source']} points",
                    measured=row["source"] == "measured",
                )
            )
    title = "Sampling compute for a target FID: the best of each model as target"
    return Table(name="sampling-targets", title=title, columns=columns, rows=tuple(rows))


def _known(**values: float | None) -> dict[str, float | str]:
    """Those numbers that there are."""
    return {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
