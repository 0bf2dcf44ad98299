"""Figure 2: FID of each model, and beside the U-Nets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.paper import load_table
from dit_eval.report.figures.draw import (
    PATCH_COLOURS,
    SIZE_COLOURS,
    add_legend,
    caption,
    handle,
    interval,
    pad_y,
    style_of,
)
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.select import at_common_training, extent, of_block, prefix_of
from dit_eval.report.figures.style import INK, PAPER, SOFT, lettering, new_figure, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import PATCHES, SIZES, fid_label, steps_text

_BUBBLE, _BUBBLE_RIGHT = 3.2, 0.8  # points squared per Gflop, in the two halves of Figure 2
_LARGEST_BUBBLE = 380.0  # points squared, where no model is the paper's


@styled
def fid_by_model(setting: Setting) -> Figure | None:
    """Figure 2, left: FID by model size and patch size at the shortest common training; bubble area is Gflops."""
    points = at_common_training(of_block(setting.scaling))
    if points.empty:
        return None
    figure, axis = new_figure(3.5, 3.0)
    sizes = [size for size in SIZES if size in set(points["size"])]
    bubble = _BUBBLE if setting.is_papers else _LARGEST_BUBBLE / points["gflops"].max()
    both = len(set(points["source"])) > 1
    for row in points.sort_values("gflops", ascending=False).itertuples():
        x = sizes.index(row.size) + (0.2 if row.source == "measured" and both else 0.0)
        _bubble(axis, x, row, area=max(bubble * row.gflops, 14.0))
    axis.set_xticks(range(len(sizes)), [lettering(f"{prefix_of(points)}{size}") for size in sizes])
    axis.set_xlim(-0.5, len(sizes) - 0.45)
    pad_y(axis, extent(points, "fid"), 0.12)
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlabel(f"Model, after {steps_text(points['training_steps'].iloc[0])} training steps")
    handles = [handle(PATCH_COLOURS[p], "o", f"patch size {p}") for p in PATCHES if p in set(points["patch"])]
    add_legend(axis, handles, loc="upper right")
    caption(figure, points, published="Table 4", extra="bubble area: Gflops")
    return figure


@styled
def against_unets(setting: Setting) -> Figure | None:
    """Figure 2, right: FID against Gflops of DiT-XL/2 and the diffusion U-Nets at 256 px, without and with guidance."""
    if not setting.is_papers:
        return None
    table2, table6 = load_table(2).set_index("model"), load_table(6)
    gflops = {f"{row.model}": row.total_gflops for row in table6[table6["image_size"] == 256].itertuples()}
    published = select(setting.points, source="paper", origin="Table 2")
    gflops["DiT-XL/2"] = published["gflops"].iloc[0]
    guided = {
        "ADM": "ADM-G",
        "ADM-U": "ADM-G, ADM-U",
        "LDM-8": "LDM-8-G",
        "LDM-4": "LDM-4-G (cfg=1.50)",
        "DiT-XL/2": "DiT-XL/2-G (cfg=1.50)",
    }
    figure, axis = new_figure(3.5, 3.0)
    axis.set_xscale("log")
    xs: list[float] = []
    ys: list[float] = []
    names: list[str] = []
    lines: list[tuple[float, float]] = []
    reach: list[float] = []
    for plain, best in guided.items():
        colour = SIZE_COLOURS["XL"] if plain.startswith("DiT") else SIZE_COLOURS["B"]
        x, top, bottom = gflops[plain], table2.loc[plain, "fid"], table2.loc[best, "fid"]
        axis.annotate(
            "",
            (x, bottom),
            (x, top),
            arrowprops={"arrowstyle": "-", "color": colour, "linestyle": ":", "linewidth": 1.2},
        )
        axis.scatter(x, top, s=26, facecolor=PAPER, edgecolor=colour, linewidth=1.3, zorder=3)
        axis.scatter(x, bottom, s=_BUBBLE_RIGHT * x, color=colour, alpha=0.25, linewidth=0, zorder=2)
        axis.scatter(x, bottom, s=_BUBBLE_RIGHT * x, facecolor="none", edgecolor=colour, linewidth=1.2, zorder=3)
        xs, ys, names = [*xs, x, x], [*ys, top, bottom], [*names, f"{plain} {top:.2f}", f"{bottom:.2f}"]
        lines += [(x, y) for y in np.linspace(bottom, top, 12)]
        reach += [6.0, math.sqrt(_BUBBLE_RIGHT * x / math.pi) + 2.0]
    measured = select(setting.points, source="measured", num_samples=setting.num_samples)
    measured = measured[measured["gflops"].notna() & measured["fid"].notna()]
    for row in measured.itertuples():
        colour, _ = style_of(row)
        if row.fid <= 1.3 * max(ys):
            axis.scatter(row.gflops, row.fid, s=34, color=colour, edgecolor=INK, linewidth=0.8, zorder=4)
            interval(axis, row.gflops, row._asdict(), "fid")
    axis.set_ylim(0, 18)
    axis.set_xlim(30, 2600)
    axis.set_xlabel("Gflops of the denoising network (log scale)")
    axis.set_ylabel("FID-50K ↓, ImageNet 256")
    handles = [
        handle(SIZE_COLOURS["XL"], "o", "DiT"),
        handle(SIZE_COLOURS["B"], "o", "diffusion U-Net"),
        handle(SOFT, "o", "without guidance", face=PAPER, size=5),
        handle(SOFT, "o", "with guidance, area: Gflops", face="#dddddd", size=9),
    ]
    add_legend(axis, handles, loc="upper right")
    caption(figure, pd.concat([published, measured]), published="Tables 2 and 6")
    place_labels(axis, xs, ys, names, obstacles=lines, reach=reach)
    return figure


FIGURE2_LEFT = PaperFigure(
    name="figure2-left",
    title="Figure 2, left: FID by model",
    draw=fid_by_model,
    about="Each bubble is a model; its area shows Gflops.",
    claim="Larger models and smaller patches both lower FID; Gflops are what they share.",
)
FIGURE2_RIGHT = PaperFigure(
    name="figure2-right",
    title="Figure 2, right: against diffusion U-Nets",
    draw=against_unets,
    about="A dotted line leads from a model without guidance to the same model with it; the evaluations of "
    "guidance, two for each step, are not counted, as in the paper.",
    claim="DiT-XL/2 needs few Gflops for its FID.",
)


def _bubble(axis: Axes, x: float, row: Any, *, area: float) -> None:
    """A model at its FID: filled if measured, pale with a rim if published."""
    colour = PATCH_COLOURS[int(row.patch)]
    if row.source == "measured":
        axis.scatter(x, row.fid, s=area, color=colour, edgecolor=INK, linewidth=0.8, zorder=3)
        interval(axis, x, row._asdict(), "fid")
    else:
        axis.scatter(x, row.fid, s=area, color=colour, alpha=0.25, linewidth=0, zorder=2)
        axis.scatter(x, row.fid, s=area, facecolor="none", edgecolor=colour, linewidth=1.2, zorder=3)
