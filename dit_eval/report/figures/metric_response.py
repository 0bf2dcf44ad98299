"""How the metrics respond to damage: the quickstart's figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from dit_eval.report.figures.style import blank_figure
from dit_eval.results.eval_result import EvalResult

# Okabe & Ito's colours and a marker each: told apart by colour-blind readers and in grey.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
_PANELS = (
    ("fid", "FID ↓"),
    ("sfid", "sFID ↓"),
    ("inception_score", "Inception Score ↑"),
    ("precision", "Precision ↑"),
    ("recall", "Recall ↑"),
)


def metric_response_figure(
    curves: Mapping[str, Sequence[EvalResult]], *, levels: Sequence[str], title: str, source: str
) -> Figure:
    """One panel per metric: how it answers to growing damage of the samples; bars are 95 % intervals, if known.

    Parameters
    ----------
    curves : damage name -> results from no damage to the strongest, one per level
    levels : names of the levels, on the horizontal axis
    title, source : above the panels and below them; the source says what the points are
    """
    figure = blank_figure(13.5, 3.4, layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    for axis, (metric, label) in zip(axes, _PANELS, strict=True):
        for (name, results), (colour, marker) in zip(curves.items(), _STYLES, strict=False):
            values = [getattr(result, metric) for result in results]
            axis.plot(range(len(values)), values, color=colour, marker=marker, markersize=5, label=name)
            for place, result in enumerate(results):
                estimate = getattr(result.uncertainty, metric, None)
                if estimate is not None:
                    axis.plot([place, place], [estimate.low, estimate.high], color=colour, linewidth=1.0)
        axis.set_title(label, fontsize=11)
        axis.set_xticks(range(len(levels)), levels, fontsize=8)
        axis.set_xlabel("damage", fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if metric in ("precision", "recall"):
            axis.set_ylim(-0.03, 1.03)
            axis.set_ylabel("share of images", fontsize=9)
        elif metric == "inception_score":
            axis.set_ylim(bottom=1.0)
            axis.set_ylabel("effective classes", fontsize=9)
        else:
            axis.set_ylim(bottom=0.0)
            axis.set_ylabel("squared feature units", fontsize=9)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    figure.suptitle(f"{title}\n", fontsize=12)
    figure.text(0.5, 0.925, source, ha="center", va="top", fontsize=8.5, color="0.35")
    return figure
