"""Figure 5: block designs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import (
    BLOCK_STYLES,
    block_name,
    caption,
    gflops_text,
    interval,
    marker_of,
    params_text,
    series,
)
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.select import common_steps, end_points, step_label, step_scale
from dit_eval.report.figures.style import lettering, new_figure, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def block_designs(setting: Setting) -> Figure | None:
    """Figure 5: the four block designs; published end points, and curves over training where measured."""
    designs = _of_one_model(setting.scaling)
    if designs.empty:
        return None
    measured = select(designs, source="measured")
    steps = common_steps(designs, each="block")
    ends = select(designs, training_steps=steps)
    order = [b for b in BLOCK_STYLES if b in set(ends["block"])]
    label = fid_label(setting.num_samples)
    if measured.empty:
        figure, left = new_figure(3.5, 2.2)
    else:
        figure, (left, right) = new_figure(7.0, 2.6, columns=2)
        _curves(right, designs[designs["training_steps"] <= max(steps, measured["training_steps"].max())], order)
        right.set_ylabel(f"{label} ↓")
    _bars(left, ends, order)
    left.set_xlabel(f"{label} ↓ of {lettering(ends['model'].iloc[0])} at {steps_text(steps)} training steps")
    caption(figure, designs, published="Table 4", extra=end_points(designs))
    return figure


FIGURE5 = PaperFigure(
    name="figure5",
    title="Figure 5: block designs",
    draw=block_designs,
    about="Four ways to tell a transformer block the timestep and the class.",
    claim="adaLN-Zero is best, and cheap.",
)


def _of_one_model(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the model with the most block designs, the paper's or the largest of several; empty without one."""
    designs = points[points["block"].notna()]
    counts = designs.groupby("model")["block"].nunique()
    models = [m for m in counts.index if counts[m] > 1]
    largest = designs.groupby("model")["gflops"].max()
    model = "DiT-XL/2" if "DiT-XL/2" in models else max(models, key=lambda m: (counts[m], largest[m]), default=None)
    return select(designs, model=model)


def _bars(axis: Axes, ends: pd.DataFrame, order: Sequence[str]) -> None:
    """A line for each block design, as long as its FID; measured ones below published ones."""
    both = len(set(ends["source"])) > 1
    for row in ends.itertuples():
        colour, marker = BLOCK_STYLES[row.block]
        is_measured = row.source == "measured"
        y = len(order) - 1 - order.index(row.block) - (0.28 if is_measured and both else 0.0)
        axis.plot([0, row.fid], [y, y], color=colour, linewidth=1.6, alpha=0.5, zorder=1)
        marker_of(axis, row.fid, y, colour, marker, measured=is_measured, size=7)
        interval(axis, y, row._asdict(), "fid", across=True)
        size = "" if is_measured and both else f"   {gflops_text(row.gflops)}, {params_text(row.params_m)}"
        text = f"{row.fid:.2f}{size}"
        axis.annotate(text, (row.fid, y), (7, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set_yticks(range(len(order)), [block_name(b) for b in reversed(order)])
    axis.set_ylim(-0.7, len(order) - 0.4)
    widest = max(ends["fid"])
    axis.set_xlim(0, (1.95 if both else 2.3) * widest)
    axis.set_xticks([x for x in axis.get_xticks() if x <= 1.05 * widest])
    axis.grid(False, axis="y")


def _curves(axis: Axes, points: pd.DataFrame, order: Sequence[str]) -> None:
    """FID of each block design over training."""
    for block in order:
        own = select(points, block=block)
        series(axis, own, "training_steps", "fid", BLOCK_STYLES[block], scale=step_scale(points))
    axis.set_xlabel(step_label(points))
    axis.set_xlim(left=0)
