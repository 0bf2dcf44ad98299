"""Samplers of one network as a table."""

from __future__ import annotations

import pandas as pd

from dit_eval.report.samplers import COMPUTE
from dit_eval.report.sampling import pareto_front, unit_for
from dit_eval.report.tables.table import Column, Row, Table, compute_cell, small_number
from dit_eval.report.words import fid_label


def samplers_table(points: pd.DataFrame) -> Table:
    """Every point of `samplers.sampler_points` with its evaluations and compute, a part for each sampler.

    Points that no other beats in both compute and FID are marked.
    """
    front = set(pareto_front(points, COMPUTE).index)
    unit = unit_for(points[COMPUTE].max() / 1000)
    columns = (
        Column(key="series", title="Sampler", text=True),
        Column(key="steps", title="Steps"),
        Column(key="nfe", title="NFE"),
        Column(key="compute", title=f"{unit} per image"),
        Column(key="fid", title=f"{fid_label(points['num_samples'].iloc[0])} ↓", best="min"),
        Column(key="front", title="On the front", text=True),
    )
    rows = []
    for name, own in points.groupby("series", sort=False):
        for index, row in own.sort_values("nfe", kind="stable").iterrows():
            rows.append(
                Row(
                    cells={
                        "series": str(name),
                        # A solver that chooses its steps has none.
                        "steps": f"{row['sampling_steps']:.0f}" if pd.notna(row["sampling_steps"]) else "its own",
                        "nfe": f"{row['nfe']:.4g}",
                        "compute": compute_cell(row[COMPUTE] / 1000, unit),
                        "fid": small_number(row["fid"], 2),
                        "front": "yes" if index in front else "no",
                    },
                    values={"nfe": row["nfe"], "compute": row[COMPUTE] / 1000, "fid": row["fid"]},
                    source=row["origin"],
                    measured=True,
                    part=str(name),
                )
            )
    about = (
        "NFE: evaluations of the network for an image; of a solver that chooses its steps the mean of the first "
        "images. In brackets: what the weights were trained for. On the front: no other point is cheaper and better."
    )
    title = f"Samplers of {points['model'].iloc[0]}, without guidance"
    return Table(name="samplers", title=title, columns=columns, rows=tuple(rows), about=about)
