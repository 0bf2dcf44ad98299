"""Figure 6: training curves by size and by patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import PATCH_COLOURS, caption, pad_y, series, size_legend, style_of
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.labels import figure_of
from dit_eval.report.figures.select import (
    common_steps,
    end_points,
    extent,
    last_of_each,
    of_block,
    prefix_of,
    step_label,
    step_scale,
)
from dit_eval.report.figures.style import lettering, new_figure, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import PATCHES, SIZES, fid_label


@styled
def training_curves(setting: Setting) -> Figure | None:
    """Figure 6: FID over training; above, sizes at each patch size; below, patch sizes at each size."""
    points = of_block(setting.scaling)
    points = points[points["training_steps"].notna()]
    if points.empty:
        return None
    patches = [p for p in PATCHES if p in set(points["patch"])]
    sizes = [s for s in SIZES if s in set(points["size"])]
    figure = new_figure(7.0, 4.9, columns=0)
    grid = figure.add_gridspec(2, len(patches) * len(sizes))
    if "paper" not in set(points["source"]):
        size_legend(figure, points, patch_colours=True)
    panels = [
        [(f"patch size {p}", select(points, patch=p), "size") for p in patches],
        [(f"{prefix_of(points)}{s}", select(points, size=s), "patch") for s in sizes],
    ]
    for line, contents in enumerate(panels):
        width = grid.ncols // len(contents)
        for number, (title, subset, by) in enumerate(contents):
            axis = figure.add_subplot(grid[line, number * width : (number + 1) * width])
            axis.set_title(lettering(title), fontsize=8)
            _panel(axis, points, subset, by)
            if number == 0:
                axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
            else:
                axis.tick_params(labelleft=False)
    caption(figure, points, published="Table 4", extra=end_points(points))
    return figure


FIGURE6 = PaperFigure(
    name="figure6",
    title="Figure 6: training by size and by patch",
    draw=training_curves,
    about="Above, sizes at each patch size; below, patch sizes at each size.",
    claim="Whatever is held fixed, the model with more Gflops ends lower.",
)


def _panel(axis: Axes, points: pd.DataFrame, subset: pd.DataFrame, by: str) -> None:
    """Curves of a subset of the figure's points, one for each size or each patch size, named where they end."""
    labelled = "paper" if "paper" in set(points["source"]) else "measured"
    scale = step_scale(points)
    measured = select(points, source="measured")["training_steps"] * scale
    farthest = max([scale * common_steps(points), *measured])
    xs, ys, names = [], [], []
    for _, own in subset[subset["training_steps"] * scale <= farthest].groupby(by, sort=False):
        colour, marker = style_of(next(own.itertuples()))
        if by == "patch":
            colour = PATCH_COLOURS[int(own["patch"].iloc[0])]
        series(axis, own, "training_steps", "fid", (colour, marker), scale=scale)
        ends = select(own, source=labelled)
        for row in (ends if labelled == "paper" else last_of_each(ends)).itertuples():
            xs.append(row.training_steps * scale)
            ys.append(row.fid)
            names.append(f"{row.size if by == 'size' else f'/{row.patch:.0f}'}  {row.fid:.1f}")
    axis.set_xlim(0, 1.62 * farthest)
    axis.set_xticks(np.linspace(0, farthest, 3), [f"{x:g}" for x in np.linspace(0, farthest, 3)])
    pad_y(axis, extent(points, "fid"), 0.08, bottom=0)
    _stack_labels(axis, xs, ys, names)
    axis.set_xlabel(step_label(points))


def _stack_labels(axis: Axes, xs: Sequence[float], ys: Sequence[float], names: Sequence[str]) -> None:
    """Names to the right of points that lie above each other, moved apart where they would touch."""
    if not names:
        return
    low, high = axis.get_ylim()
    figure = figure_of(axis)
    figure.draw_without_rendering()
    gap = 8.5 / 72 * figure.dpi * (high - low) / axis.get_window_extent().height  # a line of text
    place = -math.inf
    for y, x, name in sorted(zip(ys, xs, names, strict=True)):
        place = max(place + gap, y)
        axis.annotate(lettering(name), (x, y), (x + 0.07 * axis.get_xlim()[1], place), fontsize=6.8, va="center",
                      annotation_clip=False)  # fmt: skip
