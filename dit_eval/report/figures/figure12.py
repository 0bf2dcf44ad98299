"""Figure 12: all metrics against Gflops."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from dit_eval.metrics.metric import Metric
from dit_eval.report.figures.draw import (
    caption,
    compute_panel,
    from_zero,
    interval,
    legend_above,
    marker_of,
    patch_handles,
    size_handles,
    source_handles,
    style_of,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.select import at_common_training, common_steps, extent, gflops_unit, of_block
from dit_eval.report.figures.style import Look, new_figure, styled
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import better_arrow, fid_label, steps_text


@styled
def all_metrics(setting: Setting, look: Look) -> Picture | None:
    """Figure 12: every metric against Gflops (above) and against training compute (below)."""
    scaling = of_block(setting.scaling)
    metrics = [metric for metric in PAPERS_METRICS if _is_shown(scaling, metric.key)]
    if not metrics:
        return None  # Figures 8 and 9 show the paper's FIDs; of its other metrics it prints one model's
    # Metrics other than FID are printed for the final model only, in Table 2.
    final = select(setting.points, source="paper", origin="Table 2", cfg_scale=1.0)
    shown = pd.concat([scaling, final])
    trained = select(scaling[scaling["training_gflops"].notna()], source="measured")
    above_alone = any(trained[metric.key].isna().all() for metric in metrics)
    figure = new_figure(look, 2.0 if above_alone else 3.7, wide=True, columns=0)
    rows = figure.subplots(1 if above_alone else 2, len(metrics), squeeze=False)
    for axis, metric in zip(rows[0], metrics, strict=True):
        name = fid_label(setting.num_samples) if metric.key == "fid" else metric.label
        axis.set_title(f"{name} {better_arrow(metric.better)}")
    unit, scale = gflops_unit(scaling)
    _gflops_row(rows[0], metrics, at_common_training(scaling), scale)
    _middle(rows[0]).set_xlabel(f"{unit} of the model, at {steps_text(common_steps(scaling))} training steps")
    if not above_alone:
        _training_row(rows[1], metrics, scaling, shown)
        _middle(rows[1]).set_xlabel("Training compute (Gflops)")
    legend_above(figure, [*size_handles(shown), *patch_handles(shown), *source_handles(shown)])
    extra = "Of metrics other than FID the paper prints those of DiT-XL/2 at 7M steps only" if setting.is_papers else ""
    return Picture(figure=figure, caption=caption(shown, published="Tables 4 and 2", extra=extra), data=shown)


FIGURE12 = PaperFigure(
    name="figure12",
    title="Figure 12: every metric against compute",
    draw=all_metrics,
    about="Above against model Gflops, below against training compute.",
    missing="Figure 12 (every metric against compute) needs results of several models: --results. Of metrics other "
    "than FID the paper prints those of DiT-XL/2 only.",
)


def _is_shown(scaling: pd.DataFrame, key: str) -> bool:
    """Whether a metric was measured twice or more, at the common training length too."""
    every, common = (select(found, source="measured") for found in (scaling, at_common_training(scaling)))
    return bool(every[key].notna().sum() > 1 and common[key].notna().any())


def _gflops_row(axes: Sequence[Axes], metrics: Sequence[Metric], points: pd.DataFrame, scale: float) -> None:
    for axis, key in zip(axes, (metric.key for metric in metrics), strict=True):
        axis.set_xscale("log")
        shown = points[points[key].notna() & points["gflops"].notna()]
        for point in shown.itertuples():
            is_measured = point.source == "measured"
            marker_of(axis, point.gflops * scale, getattr(point, key), *style_of(point), measured=is_measured, size=4)
            interval(axis, point.gflops * scale, point._asdict(), key)
        _scale(axis, points["gflops"] * scale, shown, key)


def _training_row(axes: Sequence[Axes], metrics: Sequence[Metric], scaling: pd.DataFrame, spread: pd.DataFrame) -> None:
    """Points of Table 4 for FID, and with them those of Table 2, in `spread`, for the other metrics."""
    for axis, key in zip(axes, (metric.key for metric in metrics), strict=True):
        points = scaling if key == "fid" else spread
        shown = points[points[key].notna() & points["training_gflops"].notna()]
        compute_panel(axis, shown, "training_gflops", key, size=3.5)
        _scale(axis, spread["training_gflops"], shown, key)


def _scale(axis: Axes, computes: pd.Series, shown: pd.DataFrame, metric: str) -> None:
    """One range of compute for a row of panels; of the metric, what its panel shows."""
    known = computes.dropna()
    if len(known):
        axis.set_xlim(known.min() / 3, known.max() * 3)
    from_zero(axis, extent(shown, metric))
    axis.minorticks_off()


def _middle(axes: Sequence[Axes]) -> Axes:
    return axes[len(axes) // 2]
