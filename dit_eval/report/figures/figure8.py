"""Figure 8: FID against Gflops."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import caption, interval, marker_of, style_of, thin_ticks
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.labels import HALO, place_labels
from dit_eval.report.figures.select import at_common_training, of_block, prefix_of
from dit_eval.report.figures.style import SOFT, new_figure, styled
from dit_eval.report.sampling import correlation
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def fid_against_gflops(setting: Setting) -> Figure | None:
    """Figure 8: FID against Gflops at the same training length, with the correlation of log Gflops and FID."""
    points = at_common_training(of_block(setting.scaling))
    if len(points) < 3:
        return None
    figure, axis = new_figure(3.5, 3.1)
    axis.set_xscale("log")
    lines = []
    for source, style in (("paper", "--"), ("measured", "-")):
        own = select(points, source=source)
        fit = correlation(own["gflops"], own["fid"]) if len(own) > 2 else None
        if fit is None:
            continue
        r, slope, intercept = fit
        x = np.array([own["gflops"].min() / 1.4, own["gflops"].max() * 1.4])
        axis.plot(x, intercept + slope * np.log(x), style, color=SOFT, linewidth=1.0, zorder=1)
        lines.append(f"r = {r:.2f} ({source}, {own['model'].nunique()} models)")
    for row in points.itertuples():
        marker_of(axis, row.gflops, row.fid, *style_of(row), measured=row.source == "measured", size=6)
        interval(axis, row.gflops, row._asdict(), "fid")
    axis.text(
        0.97, 0.97, "\n".join(lines), transform=axis.transAxes, ha="right", va="top", fontsize=8, path_effects=[HALO]
    )
    axis.set_xlabel("Gflops of the model (log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlim(points["gflops"].min() / 2, points["gflops"].max() * 3)
    top = 0.1 * (points["fid"].max() - points["fid"].min()) if setting.is_papers else 0.15 * points["fid"].max()
    axis.set_ylim(0, points["fid"].max() + (top or 1.0))
    thin_ticks(axis)
    caption(figure, points, published="Table 4", extra=f"{steps_text(points['training_steps'].iloc[0])} training steps")
    named = points.drop_duplicates("model")
    place_labels(
        axis,
        list(named["gflops"]),
        list(named["fid"]),
        [m.removeprefix(prefix_of(points)) for m in named["model"]],
        obstacles=list(zip(points["gflops"], points["fid"], strict=True)),
    )
    return figure


FIGURE8 = PaperFigure(
    name="figure8",
    title="Figure 8: FID against Gflops",
    draw=fid_against_gflops,
    about="r is the correlation of FID with the logarithm of Gflops, computed from the points that are drawn.",
    claim="FID falls nearly linearly with the logarithm of Gflops.",
)
