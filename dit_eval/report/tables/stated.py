"""Numbers of the paper's text and captions."""

from __future__ import annotations

import math

import pandas as pd

from dit_eval.flops.kept import count_named
from dit_eval.paper import load_statements, load_table
from dit_eval.report.sampling import correlation
from dit_eval.report.setting import Setting, select
from dit_eval.report.tables.table import BLOCKS, DASH, Column, Row, Table

# Row of a figure's statement -> what our count says of it: model, image size, block.
_COUNTED_STATEMENTS = {
    "gflops-xl2-256": ("DiT-XL/2", 256, None),
    "gflops-xl2-512": ("DiT-XL/2", 512, None),
    "gflops-ldm4": ("LDM-4", None, None),
    "gflops-adm-256": ("ADM-256", None, None),
    "gflops-adm-512": ("ADM-512", None, None),
    "block-in-context": ("DiT-XL/2", 256, "in-context"),
    "block-cross-attention": ("DiT-XL/2", 256, "cross-attention"),
    "block-adaln": ("DiT-XL/2", 256, "adaln"),
    "block-adaln-zero": ("DiT-XL/2", 256, "adaln-zero"),
}


def stated_table(setting: Setting) -> Table:
    """What text and captions of the paper state in numbers, and the same computed here."""
    computed = _counted() | _sampling_computes() | _correlation(setting)
    printed = load_statements(printed=True)["value"]
    rows = []
    for name, row in load_statements().iterrows():
        unit = f" {row['unit']}" if row["unit"] else ""
        cells = {
            "quantity": row["quantity"],
            "of": ", ".join(_conditions(row)) or DASH,
            "printed": printed[str(name)] + unit,
            "computed": computed.get(str(name), DASH),
            "note": row["note"] or DASH,
        }
        values = {"printed": printed[str(name)], "printed_unit": row["unit"]}
        rows.append(Row(cells=cells, values=values, source=row["source"].removeprefix("arXiv 2212.09748v2, ")))
    columns = (
        Column(key="quantity", title="Quantity", text=True),
        Column(key="of", title="Of", text=True),
        Column(key="printed", title="Printed"),
        Column(key="computed", title="Computed here"),
        Column(key="note", title="Note", text=True),
    )
    about = "A dash stands where the number needs a training or samples, which a report does not make."
    return Table(name="stated", title="Numbers of text and captions", columns=columns, rows=tuple(rows), about=about)


def _counted() -> dict[str, str]:
    """Gflops of models, of models with their upsampler, and how many more cross-attention takes, by statement."""
    found = {name: f"{count_named(*model).gflops:.2f}" for name, model in _COUNTED_STATEMENTS.items()}
    table6 = load_table(6)
    for name, image_size in (("gflops-admu-256", 256), ("gflops-admu-512", 512)):
        row = table6[(table6["model"] == "ADM-U") & (table6["image_size"] == image_size)].iloc[0]
        found[name] = f"{count_named(row['base']).gflops + count_named(row['upsampler']).gflops:.2f}"
    least, most = (count_named("DiT-XL/2", 256, block).gflops for block in ("in-context", "cross-attention"))
    return found | {"block-overhead": f"{100 * (most / least - 1):.1f}"}


def _sampling_computes() -> dict[str, str]:
    """Tflops of the two points of Figure 10, and their ratio."""
    steps = load_statements()["sampling_steps"]
    large, largest = (
        count_named(model, 256).gflops * steps[name] / 1000
        for model, name in (("DiT-L/2", "fig10-l2-compute"), ("DiT-XL/2", "fig10-xl2-compute"))
    )
    return {
        "fig10-l2-compute": f"{large:.2f}",
        "fig10-xl2-compute": f"{largest:.2f}",
        "fig10-ratio": f"{large / largest:.2f}",
    }


def _correlation(setting: Setting) -> dict[str, str]:
    published = select(setting.scaling, source="paper", origin="Table 4", block="adaln-zero", training_steps=400_000.0)
    fit = correlation(published["gflops"], published["fid"])
    return {"correlation": "" if fit is None else f"{fit[0]:.5f}"}


def _conditions(row: pd.Series) -> list[str]:
    """What a statement is of, in words."""
    subject = " ".join(part for part in (row["model"], BLOCKS.get(row["block"], row["block"])) if part)
    details = [subject] if subject else []
    if not math.isnan(row["image_size"]) and row["quantity"] == "Gflops":
        details.append(f"{row['image_size']:.0f} px")
    if not math.isnan(row["training_steps_k"]) and row["quantity"].startswith("FID"):
        details.append(f"{row['training_steps_k']:.0f}K training steps")
    if not math.isnan(row["sampling_steps"]) and row["sampling_steps"] != 250:
        details.append(f"{row['sampling_steps']:.0f} sampling steps")
    if row["cfg_scale"] > 1:
        details.append(f"guidance {row['cfg_scale']:g} on {row['cfg_channels']:.0f} channels")
    return details
