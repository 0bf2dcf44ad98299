"""Figures 9 and 10: FID against training compute and sampling compute."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import caption, compute_panel, is_crowded, pad_y, size_legend, thin_ticks
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.select import end_points, extent, last_of_each, of_block, prefix_of
from dit_eval.report.figures.style import SOFT, new_figure, styled
from dit_eval.report.sampling import UNITS, pareto_front, unit_for
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def training_compute(setting: Setting) -> Figure | None:
    """Figure 9: FID against training compute."""
    points = of_block(setting.scaling)
    points = points[points["training_gflops"].notna()]
    if points.empty:
        return None
    published = select(points, source="paper")
    labelled = published if len(published) else last_of_each(points)
    crowded = is_crowded(labelled)
    figure, axis = new_figure(7.0 if crowded else 3.5, 3.1)
    compute_panel(axis, points, "training_gflops", "fid")
    axis.set_xlabel("Training compute (Gflops, log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlim(points["training_gflops"].min() / 3, points["training_gflops"].max() * 4)
    thin_ticks(axis)
    pad_y(axis, extent(points, "fid"), 0.1, bottom=0)
    caption(figure, points, published="Table 4", extra=end_points(points))
    if crowded:
        size_legend(figure, points)
        return figure
    names = [
        row.model.removeprefix(prefix_of(points))
        + (f" {row.training_steps / 1e6:.3g}M" if row.training_steps > 1e6 else "")
        for row in labelled.itertuples()
    ]
    place_labels(
        axis,
        list(labelled["training_gflops"]),
        list(labelled["fid"]),
        names,
        obstacles=list(zip(points["training_gflops"], points["fid"], strict=True)),
    )
    return figure


@styled
def sampling_compute(setting: Setting) -> Figure | None:
    """Figure 10: FID against sampling compute per image, with the front that nothing measured beats."""
    unit = unit_for(setting.sweep["sampling_tflops"].max())
    points = setting.sweep.assign(sampling_tflops=setting.sweep["sampling_tflops"] * UNITS[unit])
    published, measured = (select(points, source=source) for source in ("paper", "measured"))
    swept = measured.groupby("model")["sampling_steps"].nunique()
    if published.empty and (swept.empty or swept.max() < 2):
        return None
    ends = pd.concat([published, last_of_each(measured)])
    crowded = is_crowded(ends)
    figure, axis = new_figure(7.0 if crowded else 3.5, 3.1)
    compute_panel(axis, points, "sampling_tflops", "fid")
    _draw_front(axis, points, measured if len(measured) else points)
    axis.set_xlabel(f"Sampling compute per image ({unit}, log scale)")
    axis.set_ylabel(f"{fid_label(setting.sweep_samples)} ↓")
    _scale_sampling(axis, points, with_measured=len(measured) > 0)
    caption(figure, points, published="text on Figure 10", extra=_note(setting, measured))
    if crowded:
        size_legend(figure, points)
        return figure
    prefix = "" if setting.is_papers else prefix_of(points)
    place_labels(
        axis,
        list(ends["sampling_tflops"]),
        list(ends["fid"]),
        [
            f"{row.model.removeprefix('DiT-')}, {row.sampling_steps:.0f} steps"
            if row.source == "paper"
            else row.model.removeprefix(prefix)
            for row in ends.itertuples()
        ],
        obstacles=list(zip(points["sampling_tflops"], points["fid"], strict=True)),
    )
    return figure


FIGURE9 = PaperFigure(
    name="figure9",
    title="Figure 9: training compute",
    draw=training_compute,
    about="Training compute is Gflops x batch size x training steps x 3.",
)
FIGURE10 = PaperFigure(
    name="figure10",
    title="Figure 10: sampling compute",
    draw=sampling_compute,
    about="Sampling compute is Gflops x sampling steps for one image, guidance not counted.",
)


def _draw_front(axis: Axes, points: pd.DataFrame, candidates: pd.DataFrame) -> None:
    """The candidates that no other beats, as steps to the right end of the points."""
    front = pareto_front(candidates, "sampling_tflops")
    if len(front) > 1:
        xs = np.append(front["sampling_tflops"], points["sampling_tflops"].max() * 2)
        ys = np.append(front["fid"], front["fid"].iloc[-1])
        axis.step(xs, ys, where="post", color=SOFT, linewidth=0.9, linestyle=":", zorder=1)


def _scale_sampling(axis: Axes, points: pd.DataFrame, *, with_measured: bool) -> None:
    low, high = points["sampling_tflops"].min(), points["sampling_tflops"].max()
    margin = 2.5 if high / low < 30 else 1.7
    axis.set_xlim(low / margin, high * (6.0 if with_measured else margin))  # room for names at the ends of curves
    if with_measured:
        thin_ticks(axis)
    pad_y(axis, extent(points, "fid"), 0.35 if len(points) < 5 else 0.1)


def _note(setting: Setting, measured: pd.DataFrame) -> str:
    length = measured["training_steps"].max()
    note = "the paper prints two points of its curves" if measured.empty else "dotted: measured Pareto front"
    return note if setting.is_papers or math.isnan(length) else f"{note}; {steps_text(length)} training steps"
