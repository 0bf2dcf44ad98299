"""Figure 12: all metrics against Gflops."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import caption, compute_panel, interval, marker_of, pad_y, size_legend, style_of
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.select import at_common_training, common_steps, extent, of_block
from dit_eval.report.figures.style import SOFT, new_figure, styled
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import better_arrow, fid_label, steps_text


@styled
def all_metrics(setting: Setting) -> Figure | None:
    """Figure 12: every metric against Gflops (above) and against training compute (below)."""
    scaling = of_block(setting.scaling)
    if scaling.empty:
        return None
    # Metrics other than FID are printed for the final model only, in Table 2.
    final = select(setting.points, source="paper", origin="Table 2", cfg_scale=1.0)
    figure, rows = new_figure(7.0, 3.7, columns=len(PAPERS_METRICS), rows=2)
    for axis, metric in zip(rows[0], PAPERS_METRICS, strict=True):
        name = fid_label(setting.num_samples) if metric.key == "fid" else metric.label
        axis.set_title(f"{name} {better_arrow(metric.better)}", fontsize=8)
    same_length = at_common_training(scaling)
    _gflops_row(rows[0], same_length, setting)
    _middle(rows[0]).set_xlabel(f"Gflops, at {steps_text(common_steps(scaling))} training steps", fontsize=8)
    _training_row(rows[1], scaling, pd.concat([scaling, final]), setting)
    _middle(rows[1]).set_xlabel("Training compute (Gflops)", fontsize=8)
    size_legend(figure, scaling)
    extra = "sFID, IS, precision and recall are printed for DiT-XL/2 at 7M steps only" if setting.is_papers else ""
    caption(figure, pd.concat([scaling, final]), published="Tables 4 and 2", extra=extra)
    return figure


FIGURE12 = PaperFigure(
    name="figure12",
    title="Figure 12: every metric against compute",
    draw=all_metrics,
    about="Above against model Gflops, below against training compute.",
)


def _gflops_row(axes: Sequence[Axes], points: pd.DataFrame, setting: Setting) -> None:
    for axis, key in zip(axes, (metric.key for metric in PAPERS_METRICS), strict=True):
        axis.set_xscale("log")
        shown = points[points[key].notna() & points["gflops"].notna()]
        for point in shown.itertuples():
            is_measured = point.source == "measured"
            marker_of(axis, point.gflops, getattr(point, key), *style_of(point), measured=is_measured, size=4)
            interval(axis, point.gflops, point._asdict(), key)
        _scale(axis, points["gflops"], shown, key, setting)


def _training_row(axes: Sequence[Axes], scaling: pd.DataFrame, spread: pd.DataFrame, setting: Setting) -> None:
    """Points of Table 4 for FID, and with them those of Table 2, in `spread`, for the other metrics."""
    for axis, key in zip(axes, (metric.key for metric in PAPERS_METRICS), strict=True):
        points = scaling if key == "fid" else spread
        shown = points[points[key].notna() & points["training_gflops"].notna()]
        compute_panel(axis, shown, "training_gflops", key, size=4)
        _scale(axis, spread["training_gflops"], shown, key, setting)


def _scale(axis: Axes, computes: pd.Series, shown: pd.DataFrame, metric: str, setting: Setting) -> None:
    """One range of compute for a row of panels; of the metric, what its panel shows."""
    known = computes.dropna()
    if len(known):
        axis.set_xlim(known.min() / 3, known.max() * 3)
    if len(shown):
        pad_y(axis, extent(shown, metric), 0.3 if len(shown) < 3 else 0.12)
    else:
        nothing = "no number\nprinted" if setting.is_papers else "not\nmeasured"
        axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha="center", va="center", fontsize=7, color=SOFT)
        axis.set_yticks([])
    axis.tick_params(labelsize=6.5)
    axis.minorticks_off()


def _middle(axes: Sequence[Axes]) -> Axes:
    return axes[len(axes) // 2]
