"""Figure 5: block designs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from dit_eval.report.figures.draw import (
    BLOCK_STYLES,
    block_name,
    caption,
    from_zero,
    gflops_text,
    interval,
    legend_above,
    marker_of,
    params_text,
    series,
    source_handles,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.select import common_steps, end_points, extent, step_label, step_scale
from dit_eval.report.figures.style import Look, lettering, new_figure, points, small, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def block_designs(setting: Setting, look: Look) -> Picture | None:
    """Figure 5: the four block designs; published end points, and curves over training where measured."""
    designs = _of_one_model(setting.scaling)
    if designs.empty:
        return None
    measured = select(designs, source="measured")
    steps = common_steps(designs, each="block")
    ends = select(designs, training_steps=steps)
    order = [b for b in BLOCK_STYLES if b in set(ends["block"])]
    label = fid_label(setting.num_samples)
    if measured["training_steps"].nunique() < 2:
        figure, left = new_figure(look, 2.2)
    else:
        figure, (left, right) = new_figure(look, 2.6, wide=True, columns=2)
        designs = designs[designs["training_steps"] <= max(steps, measured["training_steps"].max())]
        _curves(right, designs, order)
        right.set_ylabel(f"{label} ↓")
    _bars(left, ends, order)
    model = lettering(ends["model"].iloc[0])
    left.set_xlabel(f"{label} ↓ of {model}\nat {steps_text(steps)} training steps")
    legend_above(figure, source_handles(designs))
    text = caption(designs, published="Table 4", extra=end_points(designs))
    return Picture(figure=figure, caption=text, data=designs)


FIGURE5 = PaperFigure(
    name="figure5",
    title="Figure 5: block designs",
    draw=block_designs,
    about="Four ways to tell a transformer block the timestep and the class.",
    claim="adaLN-Zero is best, and cheap.",
)


def _of_one_model(shown: pd.DataFrame) -> pd.DataFrame:
    """The points of the model with the most block designs, the paper's or the largest of several; empty without one."""
    designs = shown[shown["block"].notna()]
    counts = designs.groupby("model")["block"].nunique()
    models = [m for m in counts.index if counts[m] > 1]
    largest = designs.groupby("model")["gflops"].max()
    model = "DiT-XL/2" if "DiT-XL/2" in models else max(models, key=lambda m: (counts[m], largest[m]), default=None)
    return select(designs, model=model)


def _bars(axis: Axes, ends: pd.DataFrame, order: Sequence[str]) -> None:
    """A line for each block design, as long as its FID; measured ones below published ones."""
    both = len(set(ends["source"])) > 1
    for row in ends.to_dict("records"):
        colour, marker = BLOCK_STYLES[row["block"]]
        is_measured = row["source"] == "measured"
        y = len(order) - 1 - order.index(row["block"]) + (0.0 if not both else -0.17 if is_measured else 0.17)
        axis.plot([0, row["fid"]], [y, y], color=colour, linewidth=points(1.6), alpha=0.5, zorder=1)
        marker_of(axis, row["fid"], y, colour, marker, measured=is_measured, size=6)
        interval(axis, y, row, "fid", across=True)
        place = max(end for end in (row["fid"], row["fid_high"], row["fid"] + row["fid_sd"]) if end == end)
        axis.annotate(
            f"{row['fid']:.2f}", (place, y), (points(6), 0), textcoords="offset points", va="center", fontsize=small()
        )
    first = ends.drop_duplicates("block").set_index("block")
    costs = {b: f"{gflops_text(first.loc[b, 'gflops'])}, {params_text(first.loc[b, 'params_m'])}" for b in order}
    axis.set_yticks(range(len(order)), [f"{block_name(b)}\n{costs[b]}" for b in reversed(order)])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(-0.6, len(order) - 0.4)
    axis.set_xlim(0, 1.25 * extent(ends, "fid").max())
    axis.grid(False, axis="y")
    axis.grid(True, axis="x")


def _curves(axis: Axes, shown: pd.DataFrame, order: Sequence[str]) -> None:
    """FID of each block design over training."""
    for block in order:
        own = select(shown, block=block)
        series(axis, own, "training_steps", "fid", BLOCK_STYLES[block], scale=step_scale(shown))
    axis.set_xlabel(step_label(shown))
    axis.set_xlim(left=0)
    from_zero(axis, extent(shown, "fid"))
