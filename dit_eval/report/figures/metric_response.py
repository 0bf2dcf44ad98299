"""How the metrics respond to damage: the quickstart's figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import handle, legend_above
from dit_eval.report.figures.style import INK, PAGE, new_figure, points, settle
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.words import better_arrow
from dit_eval.results.eval_result import EvalResult

# Okabe & Ito's colours and a marker each: told apart by colour-blind readers and in grey, and of no other meaning.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))


def metric_response_figure(
    curves: Mapping[str, Sequence[EvalResult]], *, levels: Sequence[str], damaged: str
) -> Figure:
    """One panel per metric: how it answers to growing damage of the samples; bars are 95 % intervals, if known.

    Parameters
    ----------
    curves : damage name -> results from no damage to the strongest, one per level
    levels : names of the levels, on the horizontal axis
    damaged : what the damage is done to and whose features are compared, below the panels
    """
    with matplotlib.rc_context(PAGE.settings()):
        figure, axes = new_figure(PAGE, 2.4, wide=True, columns=len(PAPERS_METRICS))
        for axis, metric in zip(axes, PAPERS_METRICS, strict=True):
            for results, (colour, marker) in zip(curves.values(), _STYLES, strict=False):
                values = [getattr(result, metric.key) for result in results]
                axis.plot(range(len(values)), values, color=colour, marker=marker, markersize=points(4), clip_on=False)
                for place, result in enumerate(results):
                    estimate = getattr(result.uncertainty, metric.key, None)
                    if estimate is not None:
                        axis.plot([place, place], [estimate.low, estimate.high], color=INK, linewidth=points(0.9))
            axis.set_title(f"{metric.label} {better_arrow(metric.better)}")
            axis.set_xticks(range(len(levels)), levels, rotation=45, ha="right", rotation_mode="anchor")
            axis.set_ylim(bottom=0)
        names = zip(curves, _STYLES, strict=False)
        legend_above(figure, [handle(*style, name, measured=True, line="-") for name, style in names])
        figure.supxlabel(damaged, fontsize=matplotlib.rcParams["axes.labelsize"])
        settle(figure)
    return figure
