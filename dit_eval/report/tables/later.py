"""Tables of later papers."""

from __future__ import annotations

from dit_eval.paper import load_later
from dit_eval.report.tables.table import (
    DASH,
    Column,
    Row,
    Table,
    metric_cells,
    metric_columns,
    metric_values,
    number_text,
)


def later_tables() -> list[Table]:
    """Results of later papers at 256 px and at 512 px, as their sources state them."""
    later = load_later()
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="params_m", title="Params (M)"),
        Column(key="training", title="Training", text=True),
        Column(key="sampling", title="Sampling", text=True),
        Column(key="guidance", title="Guidance", text=True),
        *metric_columns(),
    )
    made = []
    for image_size in (256, 512):
        notes: list[str] = []
        rows = []
        for row in later[later["image_size"] == image_size].to_dict("records"):
            cells = metric_cells(row) | {k: row[k] or DASH for k in ("model", "training", "sampling", "guidance")}
            cells["params_m"] = number_text(row["params_m"], 0)
            marks: tuple[int, ...] = ()
            if row["note"]:
                text = row["note"][0].upper() + row["note"][1:] + "."
                notes += [] if text in notes else [text]
                marks = (notes.index(text),)
            rows.append(Row(cells=cells, values=metric_values(row), source=row["source"], notes=marks))
        made.append(
            Table(
                name=f"later-{image_size}",
                title=f"Later results, ImageNet {image_size}×{image_size}",
                columns=columns,
                rows=tuple(rows),
                about="As the sources state them, which name the same protocol; not of the DiT paper, not measured "
                "here. A dash: not found in the source.",
                notes=tuple(notes),
            )
        )
    return made
