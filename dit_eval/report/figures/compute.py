"""Figures 9 and 10: FID against training compute and sampling compute."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dit_eval.report.figures.draw import (
    caption,
    compute_panel,
    from_zero,
    is_crowded,
    legend_above,
    patch_handles,
    size_handles,
    source_handles,
    thin_ticks,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.select import end_points, extent, last_of_each, of_block, prefix_of
from dit_eval.report.figures.style import SOFT, Look, new_figure, points, styled
from dit_eval.report.sampling import UNITS, pareto_front, unit_for
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def training_compute(setting: Setting, look: Look) -> Picture | None:
    """Figure 9: FID against training compute."""
    shown = of_block(setting.scaling)
    shown = shown[shown["training_gflops"].notna()]
    if shown.empty:
        return None
    published = select(shown, source="paper")
    labelled = published if len(published) else last_of_each(shown)
    crowded = is_crowded(labelled)
    figure, axis = new_figure(look, 2.9, wide=crowded)
    compute_panel(axis, shown, "training_gflops", "fid")
    axis.set_xlabel("Training compute (Gflops, log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlim(shown["training_gflops"].min() / 3, shown["training_gflops"].max() * 4)
    thin_ticks(axis)
    from_zero(axis, extent(shown, "fid"))
    picture = Picture(figure=figure, caption=caption(shown, published="Table 4", extra=end_points(shown)), data=shown)
    if crowded:
        legend_above(figure, [*size_handles(shown), *patch_handles(shown)])
        return picture
    legend_above(figure, source_handles(shown))
    names = [
        row.model.removeprefix(prefix_of(shown))
        + (f" {row.training_steps / 1e6:.3g}M" if row.training_steps > 1e6 else "")
        for row in labelled.itertuples()
    ]
    place_labels(
        axis,
        list(labelled["training_gflops"]),
        list(labelled["fid"]),
        names,
        obstacles=list(zip(shown["training_gflops"], shown["fid"], strict=True)),
    )
    return picture


@styled
def sampling_compute(setting: Setting, look: Look) -> Picture | None:
    """Figure 10: FID against sampling compute per image, with the front that nothing measured beats."""
    shown = setting.sweep
    unit = unit_for(shown["sampling_tflops"].max())
    scale = UNITS[unit]
    published, measured = (select(shown, source=source) for source in ("paper", "measured"))
    swept = measured.groupby("model")["sampling_steps"].nunique()
    if published.empty and (swept.empty or swept.max() < 2):
        return None
    ends = pd.concat([published, last_of_each(measured)])
    crowded = is_crowded(ends)
    figure, axis = new_figure(look, 2.9 if len(measured) else 2.2, wide=crowded)
    compute_panel(axis, shown, "sampling_tflops", "fid", scale=scale)
    _draw_front(axis, shown, measured if len(measured) else shown, scale)
    axis.set_xlabel(f"Sampling compute per image ({unit}, log scale)")
    axis.set_ylabel(f"{fid_label(setting.sweep_samples)} ↓")
    _scale_sampling(axis, shown["sampling_tflops"] * scale, with_measured=len(measured) > 0)
    from_zero(axis, extent(shown, "fid"), room=0.2 if measured.empty else 0.1)
    text = caption(shown, published="text on Figure 10", extra=_note(setting, measured))
    picture = Picture(figure=figure, caption=text, data=shown)
    if crowded:
        legend_above(figure, [*size_handles(shown), *patch_handles(shown)])
        return picture
    legend_above(figure, source_handles(shown))
    prefix = prefix_of(shown)
    place_labels(
        axis,
        list(ends["sampling_tflops"] * scale),
        list(ends["fid"]),
        [
            row.model.removeprefix(prefix) + (f", {row.sampling_steps:.0f} steps" if row.source == "paper" else "")
            for row in ends.itertuples()
        ],
        obstacles=list(zip(shown["sampling_tflops"] * scale, shown["fid"], strict=True)),
    )
    return picture


FIGURE9 = PaperFigure(
    name="figure9",
    title="Figure 9: training compute",
    draw=training_compute,
    about="Training compute is Gflops × batch size × training steps × 3.",
)
FIGURE10 = PaperFigure(
    name="figure10",
    title="Figure 10: sampling compute",
    draw=sampling_compute,
    about="Sampling compute is Gflops × sampling steps for one image, guidance not counted.",
)


def _draw_front(axis: Axes, shown: pd.DataFrame, candidates: pd.DataFrame, scale: float) -> None:
    """The candidates that no other beats, as steps to the right end of the points."""
    front = pareto_front(candidates, "sampling_tflops")
    if len(front) > 1:
        xs = np.append(front["sampling_tflops"], shown["sampling_tflops"].max() * 2) * scale
        ys = np.append(front["fid"], front["fid"].iloc[-1])
        axis.step(xs, ys, where="post", color=SOFT, linewidth=points(0.9), linestyle=":", zorder=1)


def _scale_sampling(axis: Axes, computes: pd.Series, *, with_measured: bool) -> None:
    low, high = computes.min(), computes.max()
    margin = 2.5 if high / low < 30 else 1.7
    axis.set_xlim(low / margin, high * (6.0 if with_measured else margin))  # room for names at the ends of curves
    if with_measured:
        thin_ticks(axis)


def _note(setting: Setting, measured: pd.DataFrame) -> str:
    length = measured["training_steps"].max()
    note = "the paper prints two points of its curves" if measured.empty else "dotted: measured Pareto front"
    return note if setting.is_papers or math.isnan(length) else f"{note}; {steps_text(length)} training steps"
