"""Figure 12: all metrics against Gflops."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import _caption, _compute_panel, _interval, _marker, _pad_y, _size_legend, _style
from dit_eval.report.figures.select import _at_common_training, _common_steps, _extent, _of_block
from dit_eval.report.figures.style import SOFT, new_figure, styled
from dit_eval.report.points import METRICS
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def all_metrics(setting: Setting) -> Figure | None:
    """Figure 12: every metric against Gflops (above) and against training compute (below)."""
    scaling = _of_block(setting.scaling)
    # Metrics other than FID are printed for the final model only, in Table 2.
    final = select(setting.points, source="paper", origin="Table 2", cfg_scale=1.0)
    if scaling.empty:
        return None
    same_length = _at_common_training(scaling)
    figure, rows = new_figure(7.0, 3.7, columns=len(METRICS), rows=2)
    for row, (x, points, label) in enumerate(
        (
            ("gflops", same_length, f"Gflops, at {steps_text(_common_steps(scaling))} training steps"),
            ("training_gflops", scaling, "Training compute (Gflops)"),
        )
    ):
        spread = pd.concat([points, final]) if x == "training_gflops" else points
        for column, (metric, (title, best)) in enumerate(METRICS.items()):
            axis = rows[row][column]
            axis.set_xscale("log")
            shown = points if metric == "fid" or x == "gflops" else spread
            shown = shown[shown[metric].notna() & shown[x].notna()]
            if x == "training_gflops":
                _compute_panel(axis, shown, x, metric, size=4)
            else:
                for point in shown.itertuples():
                    is_measured = point.source == "measured"
                    _marker(axis, point.gflops, getattr(point, metric), *_style(point), measured=is_measured, size=4)
                    _interval(axis, point.gflops, point._asdict(), metric)
            if row == 0:
                name = fid_label(setting.num_samples) if metric == "fid" else title
                axis.set_title(f"{name} {'↓' if best == 'min' else '↑'}", fontsize=8)
            known = spread[x].dropna()
            if len(known):
                axis.set_xlim(known.min() / 3, known.max() * 3)
            if len(shown):
                _pad_y(axis, _extent(shown, metric), 0.3 if len(shown) < 3 else 0.12)
            else:
                nothing = "no number\nprinted" if setting.is_papers else "not\nmeasured"
                axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha="center", va="center",
                          fontsize=7, color=SOFT)  # fmt: skip
                axis.set_yticks([])
            axis.tick_params(labelsize=6.5)
            axis.minorticks_off()
        rows[row][len(METRICS) // 2].set_xlabel(label, fontsize=8)
    _size_legend(figure, scaling)
    extra = "sFID, IS, precision and recall are printed for DiT-XL/2 at 7M steps only" if setting.is_papers else ""
    _caption(figure, pd.concat([scaling, final]), published="Tables 4 and 2", extra=extra)
    return figure
