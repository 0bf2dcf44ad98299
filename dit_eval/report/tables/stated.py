"""Numbers of the paper's text and captions."""

from __future__ import annotations

import math

from dit_eval.flops.kept import count_named
from dit_eval.paper import load_statements, load_table
from dit_eval.report.sampling import correlation
from dit_eval.report.setting import Setting, select
from dit_eval.report.tables.table import _BLOCKS, DASH, Column, Row, Table

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
    statements = load_statements()
    computed: dict[str, str] = {}
    for name, (model, image_size, block) in _COUNTED_STATEMENTS.items():
        computed[name] = f"{count_named(model, image_size, block).gflops:.2f}"
    for name, image_size in (("gflops-admu-256", 256), ("gflops-admu-512", 512)):
        base, upsampler = (load_table(6).query(f"model == 'ADM-U' and image_size == {image_size}").iloc[0][k]
                           for k in ("base", "upsampler"))  # fmt: skip
        computed[name] = f"{count_named(base).gflops + count_named(upsampler).gflops:.2f}"
    sampling = {}
    for name, key in (("fig10-l2-compute", "DiT-L/2"), ("fig10-xl2-compute", "DiT-XL/2")):
        sampling[key] = count_named(key, 256).gflops * statements.loc[name, "sampling_steps"] / 1000
        computed[name] = f"{sampling[key]:.2f}"
    computed["fig10-ratio"] = f"{sampling['DiT-L/2'] / sampling['DiT-XL/2']:.2f}"
    published = select(setting.scaling, source="paper", origin="Table 4", block="adaln-zero", training_steps=400_000.0)
    fit = correlation(published["gflops"], published["fid"])
    computed["correlation"] = "" if fit is None else f"{fit[0]:.5f}"
    gflops = {b: count_named("DiT-XL/2", 256, b).gflops for b in ("in-context", "cross-attention")}
    computed["block-overhead"] = f"{100 * (gflops['cross-attention'] / gflops['in-context'] - 1):.1f}"
    printed = load_statements(printed=True)["value"]
    rows = []
    for name, row in statements.iterrows():
        subject = " ".join(part for part in (row["model"], _BLOCKS.get(row["block"], row["block"])) if part)
        details = [subject] if subject else []
        if not math.isnan(row["image_size"]) and row["quantity"] == "Gflops":
            details.append(f"{row['image_size']:.0f} px")
        if not math.isnan(row["training_steps_k"]) and row["quantity"].startswith("FID"):
            details.append(f"{row['training_steps_k']:.0f}K training steps")
        if not math.isnan(row["sampling_steps"]) and row["sampling_steps"] != 250:
            details.append(f"{row['sampling_steps']:.0f} sampling steps")
        if row["cfg_scale"] > 1:
            details.append(f"guidance {row['cfg_scale']:g} on {row['cfg_channels']:.0f} channels")
        unit = f" {row['unit']}" if row["unit"] else ""
        cells = {
            "quantity": row["quantity"],
            "of": ", ".join(details) or DASH,
            "printed": printed[str(name)] + unit,
            "computed": computed.get(str(name), DASH),
            "note": row["note"] or DASH,
        }
        rows.append(Row(cells=cells, source=row["source"].removeprefix("arXiv 2212.09748v2, ")))
    columns = (
        Column(key="quantity", title="Quantity", text=True),
        Column(key="of", title="Of", text=True),
        Column(key="printed", title="Printed"),
        Column(key="computed", title="Computed here"),
        Column(key="note", title="Note", text=True),
    )
    about = "A dash stands where the number needs a training or samples, which a report does not make."
    return Table(name="stated", title="Numbers of text and captions", columns=columns, rows=tuple(rows), about=about)
