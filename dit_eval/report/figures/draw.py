"""Markers, bubbles, intervals, series, legends, captions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerLine2D
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from dit_eval.report.figures.labels import halo
from dit_eval.report.figures.select import prefix_of
from dit_eval.report.figures.style import (
    BLOCK_COLOURS,
    INK,
    OTHER_COLOUR,
    PAPER,
    PATCH_COLOURS,
    SIZE_COLOURS,
    SOFT,
    lettering,
    points,
    small,
)
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.sampling import compute_text
from dit_eval.report.setting import select
from dit_eval.report.words import PATCHES, SIZES

PATCH_MARKERS = {16: "P", 8: "s", 4: "^", 2: "o", 1: "v"}
PATCH_DASHES: dict[int, Any] = {16: (0, (1, 4)), 8: ":", 4: "--", 2: "-", 1: (0, (6, 1.5, 1, 1.5))}
BLOCK_MARKERS = {"in-context": "s", "cross-attention": "^", "adaln": "D", "adaln-zero": "o"}
BLOCK_STYLES = {block: (BLOCK_COLOURS[block], marker) for block, marker in BLOCK_MARKERS.items()}
_OTHER = (OTHER_COLOUR, "D")


def style_of(row: Any) -> tuple[str, str]:
    """Colour and marker of a point: size and patch of a DiT."""
    if row.size in SIZE_COLOURS and row.patch in PATCH_MARKERS:
        return SIZE_COLOURS[row.size], PATCH_MARKERS[int(row.patch)]
    return _OTHER


def common_style(own: pd.DataFrame) -> tuple[str, str]:
    """The style of points of one model."""
    return style_of(next(own[["size", "patch"]].itertuples()))


def gflops_text(gflops: float) -> str:
    return f"{gflops:.1f} Gflops" if gflops >= 1 else compute_text(gflops / 1000)


def params_text(params_m: float) -> str:
    return f"{params_m:.0f} M" if params_m >= 10 else f"{params_m:.2g} M"


def block_name(block: str) -> str:
    return {"adaln": "adaLN", "adaln-zero": "adaLN-Zero"}.get(block, block)


def marker_of(axis: Axes, x: Any, y: Any, colour: str, marker: str, *, measured: bool, size: float) -> None:
    """A mark at a place or at several: filled if measured, open if published."""
    axis.plot(
        np.atleast_1d(x),
        np.atleast_1d(y),
        marker=marker,
        markersize=points(size),
        markerfacecolor=colour if measured else PAPER,
        markeredgecolor=INK if measured else colour,
        markeredgewidth=points(0.6 if measured else 1.4),
        linestyle="none",
        zorder=4 if measured else 3,
    )


def bubble_marks(gflops: float, *, largest: float) -> tuple[float, float]:
    """Diameter and width of the rim of a bubble, in points; the area within the rim's outer edge is as the Gflops.

    Parameters
    ----------
    largest : Gflops of the bubble that is as large as a bubble gets
    """
    outer = points(_WIDEST_BUBBLE) * math.sqrt(gflops / largest)
    rim = min(points(1.1), outer / 4)
    return outer - rim, rim  # matplotlib draws half of a rim outside of its circle


def bubble(axis: Axes, x: float, row: Mapping[Any, Any], colour: str, *, largest: float) -> None:
    """A model at its FID, its area as its Gflops."""
    diameter, rim = bubble_marks(row["gflops"], largest=largest)
    is_measured = row["source"] == "measured"
    axis.scatter(
        [x],
        [row["fid"]],
        s=diameter**2,
        facecolor=colour if is_measured else "none",
        edgecolor=INK if is_measured else colour,
        linewidth=rim,
        zorder=3,
    )
    interval(axis, x, row, "fid")


def bubble_legend(figure: Figure, *, largest: float) -> None:
    """Below the panel: which area is how many Gflops."""
    exponent = math.floor(math.log10(largest))
    handles = []
    for value in (10.0**e for e in range(exponent - 2, exponent + 1)):
        diameter, rim = bubble_marks(value, largest=largest)
        mark = Line2D([], [], linestyle="none", marker="o", markersize=diameter, label=compute_text(value / 1000))
        mark.set(markerfacecolor="none", markeredgecolor=SOFT, markeredgewidth=rim)
        handles.append(mark)
    widest, letters = max(map(_across, handles)), small()
    figure.legend(
        handles=handles,
        handler_map={Line2D: _AtItsName()},
        loc="outside lower center",
        ncols=len(handles),
        handlelength=widest / letters,
        handleheight=1.4 * widest / letters,
        columnspacing=0.5,
        borderpad=0.0,
    )


def interval(axis: Axes, place: float, row: Mapping[Any, Any], metric: str, *, across: bool = False) -> None:
    """A bar through the marker of a point: over seeds its standard deviation to both sides, else its 95 % interval.

    `across` if the metric is along x. A point that has neither has no bar.
    """
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    if not math.isnan(sd := row.get(f"{metric}_sd", math.nan)):
        low, high = row[metric] - sd, row[metric] + sd
    if not (math.isnan(low) or math.isnan(high)):
        ends, places = [low, high], [place, place]
        axis.plot(*((ends, places) if across else (places, ends)), color=INK, linewidth=points(0.9), zorder=5)


def intervals(axis: Axes, own: pd.DataFrame, x: str, y: str, *, scale: float = 1.0) -> None:
    """The bars of points, each through its marker."""
    # Of the hundred columns these alone: pandas takes its time for each.
    for row in own.filter([x, y, f"{y}_low", f"{y}_high", f"{y}_sd"]).to_dict("records"):
        interval(axis, row[x] * scale, row, y)


def series(
    axis: Axes,
    own: pd.DataFrame,
    x: str,
    y: str,
    style: tuple[str, str],
    *,
    scale: float = 1.0,
    size: float = 5.0,
) -> None:
    """A model's points in its colour and marker; measured ones are joined by a line, one line for each seed."""
    colour, marker = style
    own = own[own[x].notna() & own[y].notna()].sort_values(x, kind="stable")
    for _, line in select(own, source="measured").groupby(["model", "block", "seed"], sort=True, dropna=False):
        axis.plot(line[x] * scale, line[y], color=colour, zorder=2)
    for source, marks in own.groupby("source", sort=False):
        is_measured = source == "measured"
        marker_of(axis, marks[x] * scale, marks[y], colour, marker, measured=is_measured, size=size)
    intervals(axis, own, x, y, scale=scale)


def compute_panel(axis: Axes, shown: pd.DataFrame, x: str, y: str, *, scale: float = 1.0, size: float = 5.5) -> None:
    """Series of all models against a compute."""
    axis.set_xscale("log")
    for _, own in shown.groupby("model", sort=False):
        series(axis, own, x, y, common_style(own), scale=scale, size=size)


def from_zero(axis: Axes, values: Iterable[float], *, room: float = 0.1) -> None:
    """The range of a metric: from 0 in every figure, so that heights compare, with some room above."""
    axis.set_ylim(0, (1 + room) * max(values) or 1.0)


def thin_ticks(axis: Axes) -> None:
    """On a log axis of few decades, name 2 and 5 between them instead of everything."""
    low, high = axis.get_xlim()
    if high / low < 100:
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))


def handle(colour: str, marker: str, label: str, *, measured: bool = False, line: Any = "none") -> Line2D:
    """An entry of a legend: a marker, filled or open as `marker_of` draws it, a line, or both."""
    label = lettering(label)
    label = f" {label}" if label.startswith("_") else label  # matplotlib leaves such a name out of legends
    drawn = Line2D([], [], color=colour, linestyle=line, marker=marker, markersize=points(5), label=label)
    drawn.set(
        markerfacecolor=colour if measured else PAPER,
        markeredgecolor=INK if measured else colour,
        markeredgewidth=points(0.6 if measured else 1.2),
    )
    return drawn


def swatch(colour: str, label: str) -> Line2D:
    """An entry of a legend that names a colour, and nothing else."""
    drawn = handle(colour, "", label, line="-")
    drawn.set(linewidth=points(4), solid_capstyle="butt")
    return drawn


def add_legend(axis: Axes, handles: Sequence[Line2D], *, loc: Any, ncols: int = 1) -> None:
    """A legend within a panel."""
    legend = axis.legend(handles=list(handles), loc=loc, ncols=ncols)
    legend.set_in_layout(False)  # one that is larger than its panel leaves the panel its room
    for text in legend.get_texts():
        text.set_path_effects([halo()])


def legend_above(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend above all panels, in as many rows as it takes; nothing without entries."""
    if not handles:
        return
    letters = [len(str(handle.get_label())) + 5.5 for handle in handles]  # with room for the mark
    across = figure.get_figwidth() * 72 / (0.6 * small())
    ncols = len(handles) if sum(letters) < across else max(1, int(across / max(letters)))
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=ncols,
        handlelength=1.3,
        columnspacing=1.2,
        borderpad=0.1,
    )


def is_crowded(labelled: pd.DataFrame) -> bool:
    """Whether the measured curves of a panel are too many for a name at each, and a legend can tell them apart."""
    return len(labelled) > 8 and set(labelled["source"]) == {"measured"} and bool(labelled["size"].notna().all())


def source_handles(shown: pd.DataFrame) -> list[Line2D]:
    """Open and filled, for a figure that has both."""
    if len(set(shown["source"])) < 2:
        return []
    return [handle(SOFT, "o", "paper"), handle(SOFT, "o", "measured", measured=True)]


def size_handles(shown: pd.DataFrame) -> list[Line2D]:
    """The colours of the sizes."""
    return [swatch(SIZE_COLOURS[s], f"{prefix_of(shown)}{s}") for s in SIZES if s in set(shown["size"])]


def patch_handles(shown: pd.DataFrame, *, coloured: bool = False) -> list[Line2D]:
    """The markers of the patch sizes, and their colours where figures have them."""
    there = [p for p in PATCHES if p in set(shown["patch"])]
    if coloured:
        return [swatch(PATCH_COLOURS[p], f"patch {p}") for p in there]
    measured = "paper" not in set(shown["source"])
    return [handle(SOFT, PATCH_MARKERS[p], f"patch {p}", measured=measured) for p in there]


def caption(shown: pd.DataFrame, *, published: str, extra: str = "") -> str:
    """Where points come from, and what their marks mean."""
    sources = set(shown["source"])
    parts = []
    if "paper" in sources:
        parts.append(f"Open: paper ({published})")
    if "measured" in sources:
        parts.append("Filled: measured")
    if shown[[f"{metric.key}_low" for metric in PAPERS_METRICS]].notna().any(axis=None):
        parts.append("Bars: 95 % intervals")
    if shown["seeds"].notna().any():
        parts.append("Points of several seeds: their mean, with bars of the standard deviation of the results")
    return sentences(*parts, extra)


def sentences(*parts: str) -> str:
    """Phrases as sentences."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def _across(mark: Line2D) -> float:
    return float(mark.get_markersize() + mark.get_markeredgewidth())


class _AtItsName(HandlerLine2D):
    """Puts the mark of an entry beside its name: at the right end of its room, in the middle of the letters."""

    def get_xdata(self, legend: Any, xdescent: float, ydescent: float, width: float, height: float,
                  fontsize: float) -> tuple[Any, Any]:  # fmt: skip
        return [width - xdescent] * 2, [width - xdescent]

    def create_artists(self, legend: Any, orig_handle: Any, *place: Any) -> list[Artist]:
        xdescent, ydescent, width, height, fontsize, trans = place
        room = width - _across(orig_handle) / 2
        (mark,) = super().create_artists(legend, orig_handle, xdescent, ydescent, room, height, fontsize, trans)
        assert isinstance(mark, Line2D)
        mark.set_ydata([0.35 * fontsize] * len(np.asarray(mark.get_xdata())))
        return [mark]


_WIDEST_BUBBLE = 30.0  # points
