"""Figure 6: training curves by size and by patch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dit_eval.report.figures.draw import (
    PATCH_COLOURS,
    caption,
    common_style,
    from_zero,
    legend_above,
    patch_handles,
    series,
    size_handles,
    source_handles,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.labels import figure_of, halo
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
from dit_eval.report.figures.style import Look, lettering, new_figure, settle, small, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import PATCHES, SIZES, fid_label


@styled
def training_curves(setting: Setting, look: Look) -> Picture | None:
    """Figure 6: FID over training; above, sizes at each patch size; below, patch sizes at each size."""
    shown = of_block(setting.scaling)
    shown = shown[shown["training_steps"].notna() & shown["size"].notna()]
    measured = select(shown, source="measured")
    if measured["training_steps"].nunique() < 2:
        return None  # the paper prints end points, which Figure 2 has
    shown = shown[shown["training_steps"] <= max(common_steps(shown), measured["training_steps"].max())]
    patches = [p for p in PATCHES if p in set(shown["patch"])]
    sizes = [s for s in SIZES if s in set(shown["size"])]
    figure = new_figure(look, 4.6, wide=True, columns=0)
    grid = figure.add_gridspec(2, len(patches) * len(sizes))
    legend_above(
        figure,
        [*size_handles(shown), *patch_handles(shown, coloured=True), *source_handles(shown)],
    )
    panels = [
        [(f"patch size {p}", select(shown, patch=p), "size") for p in patches],
        [(f"{prefix_of(shown)}{s}", select(shown, size=s), "patch") for s in sizes],
    ]
    named = []
    for line, contents in enumerate(panels):
        width = grid.ncols // len(contents)
        for number, (title, subset, by) in enumerate(contents):
            axis = figure.add_subplot(grid[line, number * width : (number + 1) * width])
            axis.set_title(lettering(title))
            named.append((axis, _panel(axis, shown, subset, by)))
            if number == 0:
                axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
            else:
                axis.tick_params(labelleft=False)
    settle(figure)
    for axis, ends in named:
        _stack_labels(axis, ends)
    return Picture(figure=figure, caption=caption(shown, published="Table 4", extra=end_points(shown)), data=shown)


FIGURE6 = PaperFigure(
    name="figure6",
    title="Figure 6: training by size and by patch",
    draw=training_curves,
    about="Above, sizes at each patch size; below, patch sizes at each size.",
    claim="Whatever is held fixed, the model with more Gflops ends lower.",
    missing="Figure 6 (FID over training) needs results after several training lengths: --results. The paper prints "
    "end points only, which Figure 2 shows.",
)


def _panel(axis: Axes, shown: pd.DataFrame, subset: pd.DataFrame, by: str) -> list[tuple[float, float, str]]:
    """Curves of a subset of the figure's points, one for each size or each patch size; place and name of each end."""
    scale = step_scale(shown)
    farthest = shown["training_steps"].max() * scale
    ends = []
    for _, own in subset.groupby(by, sort=False):
        colour, marker = common_style(own)
        if by == "patch":
            colour = PATCH_COLOURS[int(own["patch"].iloc[0])]
        series(axis, own, "training_steps", "fid", (colour, marker), scale=scale, size=4)
        measured = select(own, source="measured")
        for row in last_of_each(measured if len(measured) else own).itertuples():
            name = f"{row.size if by == 'size' else f'/{row.patch:.0f}'}  {row.fid:.1f}"
            ends.append((row.training_steps * scale, row.fid, name))
    axis.set_xlim(0, 1.62 * farthest)
    axis.set_xticks(np.linspace(0, farthest, 3), [f"{x:g}" for x in np.linspace(0, farthest, 3)])
    from_zero(axis, extent(shown, "fid"), room=0.06)
    axis.set_xlabel(step_label(shown))
    return ends


def _stack_labels(axis: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """Names to the right of points that lie above each other, moved apart where they would touch."""
    low, high = axis.get_ylim()
    figure = figure_of(axis)
    line = 1.25 * small() / 72 * figure.dpi * (high - low) / axis.get_window_extent().height  # of text, as FID
    place = -math.inf
    for y, x, name in sorted((y, x, name) for x, y, name in ends):
        place = max(place + line, y)
        text = axis.annotate(
            lettering(name), (x, y), (x + 0.07 * axis.get_xlim()[1], place), fontsize=small(), va="center",
            annotation_clip=False,
        )  # fmt: skip
        text.set_path_effects([halo()])
