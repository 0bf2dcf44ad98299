"""Tables 1 to 6 of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dit_eval.flops.kept import count_named
from dit_eval.metrics import FID
from dit_eval.paper import load_table
from dit_eval.report.setting import comparable, select
from dit_eval.report.tables.table import (
    BLOCKS,
    DASH,
    Column,
    Row,
    left_apart,
    metric_cells,
    metric_columns,
    metric_values,
    missing,
    number_text,
    row_texts,
    small_number,
    with_notes,
)
from dit_eval.results.eval_result import NOT_PUBLISHED, PROTOCOL

if TYPE_CHECKING:
    from dit_eval.report.tables.table import Table


def paper_tables(points: pd.DataFrame) -> list[Table]:
    """Tables 1 to 6, with the measured points that were made as their rows were.

    Parameters
    ----------
    points : see `points.COLUMNS`; the published ones are not needed
    """
    measured = select(points, source="measured")
    measured = measured[measured["fid"].notna()]
    apart = {size: left_apart(select(measured, image_size=size)) for size in (256, 512, (256, 512))}
    measured = comparable(measured)
    return [
        _table1(),
        _metrics_table(2, "ImageNet 256×256, class-conditional", select(measured, image_size=256), apart[256]),
        _metrics_table(3, "ImageNet 512×512, class-conditional", select(measured, image_size=512), apart[512]),
        _table4(measured, apart[256, 512]),
        _table5(measured),
        _table6(),
    ]


def _table1() -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="layers", title="Layers N"),
        Column(key="hidden_size", title="Hidden size d"),
        Column(key="heads", title="Heads"),
        Column(key="gflops", title="Gflops (I=32, p=4)"),
        Column(key="gflops_counted", title="counted"),
    )
    rows = []
    for row in load_table(1, printed=True).to_dict("records"):
        count = count_named(row["model"] + "/4", 256)
        cells = row_texts(row, columns, {"gflops_counted": f"{count.gflops:.2f}"})
        values = {"gflops_counted": count.gflops}
        rows.append((row["model"], Row(cells=cells, values=values, source="paper, Table 1")))
    return with_notes("table1", "Table 1. DiT configurations", columns, rows, about=_COUNTED)


def _metrics_table(number: int, title: str, measured: pd.DataFrame, apart: str = "") -> Table:
    columns = (Column(key="model", title="Model", text=True), *metric_columns())
    rows = [
        (row["model"], Row(cells=row_texts(row, columns), source=f"paper, Table {number}", part=_family(row["model"])))
        for row in load_table(number, printed=True).to_dict("records")
    ]
    kept, about = _fifty_thousand(measured)
    for row in kept.to_dict("records"):
        cells = metric_cells(row) | {"model": _run_name(row)}
        rows.append(("", Row(cells=cells, values=metric_values(row), source=row["origin"], measured=True)))
    return with_notes(f"table{number}", f"Table {number}. {title}", columns, rows, about=f"{about} {apart}".strip())


def _table4(measured: pd.DataFrame, apart: str = "") -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="image_size", title="Image Resolution", text=True),
        Column(key="gflops", title="Flops (G)"),
        Column(key="gflops_counted", title="counted"),
        Column(key="params_m", title="Params (M)"),
        Column(key="params_m_counted", title="counted"),
        Column(key="training_steps_k", title="Training Steps (K)"),
        Column(key="batch_size", title="Batch Size"),
        Column(key="learning_rate", title="Learning Rate"),
        Column(key="block", title="DiT Block", text=True),
        Column(key="fid_50k", title="FID-50K (no guidance) ↓", best="min"),
    )
    rows = []
    for row in load_table(4, printed=True).to_dict("records"):
        count = count_named(row["model"], int(row["image_size"]), row["block"])
        cells = row_texts(
            row,
            columns,
            {
                "image_size": f"{row['image_size']}×{row['image_size']}",
                "block": BLOCKS.get(row["block"], row["block"]),
                "gflops_counted": f"{count.gflops:.2f}",
                "params_m_counted": f"{count.params_m:.0f}",
            },
        )
        key = f"{row['model']} {row['image_size']} {row['training_steps_k']}K {row['block']}"
        values = {
            "image_size": row["image_size"],
            "gflops_counted": count.gflops,
            "params_m_counted": count.params_m,
        }
        part = " ".join((row["model"].split("/")[0], row["image_size"], row["training_steps_k"], row["block"]))
        if row["training_steps_k"] != "400" or row["block"] != "adaln-zero":
            part = f"{row['image_size']} {row['training_steps_k'] == '400'}"
        rows.append((key, Row(cells=cells, values=values, source="paper, Table 4", group=row["image_size"], part=part)))
    unguided = select(measured, cfg_scale=1.0, sampler="ddpm", sampling_steps=250)
    kept, about = _fifty_thousand(unguided[unguided["gflops"].notna()])
    for row in kept.to_dict("records"):
        cells = {
            "model": row["model"],
            "image_size": "{0:.0f}×{0:.0f}".format(row["image_size"]),
            "gflops": DASH,
            "gflops_counted": small_number(row["gflops"], 2),
            "params_m": DASH,
            "params_m_counted": small_number(row["params_m"], 0),
            "training_steps_k": DASH if missing(row["training_steps"]) else f"{row['training_steps'] / 1000:g}",
            "batch_size": number_text(row["batch_size"], 0),
            "learning_rate": DASH,
            "block": BLOCKS.get(row["block"], row["block"]) or DASH,
            "fid_50k": number_text(row["fid"], 2),
        }
        size = f"{row['image_size']:.0f}"
        full = {"image_size": size, "gflops_counted": row["gflops"], "params_m_counted": row["params_m"]}
        full |= {key.replace("fid", "fid_50k", 1): value for key, value in metric_values(row, (FID,)).items()}
        full = {key: value for key, value in full.items() if not missing(value)}
        rows.append(("", Row(cells=cells, values=full, source=row["origin"], measured=True, group=size)))
    about = f"{about} {apart}".strip() + f" {_COUNTED} Best values are sought at each resolution."
    return with_notes("table4", "Table 4. Every DiT model", columns, rows, about=about.strip())


def _table5(measured: pd.DataFrame) -> Table:
    columns = (Column(key="decoder", title="Decoder", text=True), *metric_columns())
    rows = [
        (row["decoder"], Row(cells=row_texts(row, columns), source="paper, Table 5"))
        for row in load_table(5, printed=True).to_dict("records")
    ]
    same = select(measured, model="DiT-XL/2", image_size=256, cfg_scale=1.5, sampler="ddpm", sampling_steps=250)
    kept, about = _fifty_thousand(same[same["decoder"].notna()])
    for row in kept.to_dict("records"):
        rows.append(
            (
                "",
                Row(
                    cells=metric_cells(row) | {"decoder": row["decoder"]},
                    values=metric_values(row),
                    source=row["origin"],
                    measured=True,
                ),
            )
        )
    title = "Table 5. Decoder ablation, ImageNet 256×256, DiT-XL/2-G (cfg=1.5)"
    return with_notes("table5", title, columns, rows, about=about)


def _table6() -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="image_size", title="Image Resolution", text=True),
        Column(key="base_gflops", title="Base Flops (G)"),
        Column(key="upsampler_gflops", title="Upsampler Flops (G)"),
        Column(key="total_gflops", title="Total Flops (G)"),
        Column(key="total_gflops_counted", title="counted"),
        Column(key="params_m_counted", title="Params (M), counted"),
    )
    rows = []
    for row in load_table(6, printed=True).to_dict("records"):
        counts = [count_named(row[part]) for part in ("base", "upsampler") if row[part]]
        more = {
            "image_size": f"{row['image_size']}×{row['image_size']}",
            "total_gflops_counted": f"{sum(c.gflops for c in counts):.2f}",
            "params_m_counted": f"{sum(c.params_m for c in counts):.1f}",
        }
        values = {
            "image_size": row["image_size"],
            "total_gflops_counted": sum(c.gflops for c in counts),
            "params_m_counted": sum(c.params_m for c in counts),
        }
        cells, part = row_texts(row, columns, more), _family(row["model"])
        rows.append((row["model"], Row(cells=cells, values=values, source="paper, Table 6", part=part)))
    return with_notes("table6", "Table 6. Gflops of diffusion U-Nets (denoising network only)", columns, rows,
                       about=_COUNTED)  # fmt: skip


_COUNTED = (
    'Columns headed "counted" are not of the paper: they were counted when this table was made (multiply-adds and one '
    "for each normalised element; trainable parameters)."
)


def _family(model: str) -> str:
    """What the paper sets between two rules: GANs, and models of one name."""
    name = model.split("-")[0]
    return "GAN" if "GAN" in model else name


def _fifty_thousand(measured: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The points with the paper's N, and a sentence on those left out."""
    kept = measured[measured["num_samples"] == 50_000]
    out = len(measured) - len(kept)
    if not out:
        return kept, ""
    one = out == 1
    return (
        kept,
        f"{out} measured result{'' if one else 's'} of other than 50,000 samples {'is' if one else 'are'} left out.",
    )


def as_published(row: dict[str, Any]) -> str:
    """The parts of a badge that are as published; what is not stands in the protocol and in N, beside it."""
    if not str(row["protocol"]).startswith(PROTOCOL):
        return DASH
    return "not known" if missing(row["badge"]) else str(row["badge"]).partition(NOT_PUBLISHED)[0]


def _run_name(row: dict[str, Any]) -> str:
    """A measured run as the paper would name it: DiT-XL/2-G (cfg=1.50), with what differs from its protocol."""
    name = str(row["model"])
    if not missing(row["cfg_scale"]) and row["cfg_scale"] != 1.0:
        name += f"-G (cfg={row['cfg_scale']:.2f})"
    if row["block"] not in (None, "adaln-zero"):
        name += f", {BLOCKS.get(row['block'], row['block'])}"
    if row["decoder"] not in (None, "ft-EMA"):
        name += f", {row['decoder']} decoder"
    if not missing(row["training_steps"]):
        name += f", {row['training_steps'] / 1000:g}K training steps"
    if not missing(row["sampling_steps"]) and (row["sampler"] != "ddpm" or row["sampling_steps"] != 250):
        name += f", {row['sampler'].upper()} {row['sampling_steps']:.0f} steps"
    if row["seeds"]:
        name += f", {row['seeds']} seeds"
    if row["selected_by"]:
        name += ", selected"
    return name
