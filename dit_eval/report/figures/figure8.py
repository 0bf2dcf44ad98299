"""Figure 8: FID against Gflops."""

from __future__ import annotations

import numpy as np

from dit_eval.report.figures.draw import (
    caption,
    from_zero,
    interval,
    legend_above,
    marker_of,
    source_handles,
    style_of,
    thin_ticks,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.labels import halo, place_labels
from dit_eval.report.figures.select import at_common_training, extent, gflops_unit, of_block, prefix_of
from dit_eval.report.figures.style import SOFT, Look, new_figure, points, small, styled
from dit_eval.report.sampling import correlation
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text, true_minus


@styled
def fid_against_gflops(setting: Setting, look: Look) -> Picture | None:
    """Figure 8: FID against Gflops at the same training length, with the correlation of log Gflops and FID."""
    shown = at_common_training(of_block(setting.scaling))
    if len(shown) < 3:
        return None
    figure, axis = new_figure(look, 2.9)
    axis.set_xscale("log")
    unit, scale = gflops_unit(shown)
    lines = []
    for source, style in (("paper", "--"), ("measured", "-")):
        own = select(shown, source=source)
        fit = correlation(own["gflops"], own["fid"]) if len(own) > 2 else None
        if fit is None:
            continue
        r, slope, intercept = fit
        x = np.array([own["gflops"].min() / 1.4, own["gflops"].max() * 1.4])
        y = intercept + slope * np.log(x)
        axis.plot(x * scale, y, style, color=SOFT, linewidth=points(1.0), zorder=1)
        lines.append(true_minus(f"r = {r:.2f} ({source}, {own['model'].nunique()} models)"))
    for row in shown.itertuples():
        marker_of(axis, row.gflops * scale, row.fid, *style_of(row), measured=row.source == "measured", size=5.5)
        interval(axis, row.gflops * scale, row._asdict(), "fid")
    axis.text(
        *(0.98, 0.98, "\n".join(lines)), transform=axis.transAxes, ha="right", va="top", fontsize=small(),
        path_effects=[halo()],
    )  # fmt: skip
    axis.set_xlabel(f"{unit} of the model (log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlim(shown["gflops"].min() * scale / 2, shown["gflops"].max() * scale * 3)
    from_zero(axis, extent(shown, "fid"), room=0.12)
    thin_ticks(axis)
    legend_above(figure, source_handles(shown))
    named = shown.drop_duplicates("model")
    place_labels(
        axis,
        list(named["gflops"] * scale),
        list(named["fid"]),
        [m.removeprefix(prefix_of(shown)) for m in named["model"]],
        obstacles=list(zip(shown["gflops"] * scale, shown["fid"], strict=True)),
    )
    length = f"{steps_text(shown['training_steps'].iloc[0])} training steps"
    return Picture(figure=figure, caption=caption(shown, published="Table 4", extra=length), data=shown)


FIGURE8 = PaperFigure(
    name="figure8",
    title="Figure 8: FID against Gflops",
    draw=fid_against_gflops,
    about="r is the correlation of FID with the logarithm of Gflops, computed from the points that are drawn.",
    claim="FID falls nearly linearly with the logarithm of Gflops.",
)
