"""Markers, intervals, series, legends, captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from dit_eval.report.figures.labels import HALO
from dit_eval.report.figures.select import prefix_of
from dit_eval.report.figures.style import INK, PAPER, SOFT, lettering
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.sampling import compute_text
from dit_eval.report.setting import select
from dit_eval.report.words import PATCHES, SIZES

# Colours that colour-blind readers tell apart (Okabe & Ito; Tol's wine), from light to dark with model size.
SIZE_COLOURS = {"S": "#E69F00", "B": "#56B4E9", "L": "#009E73", "XL": "#882255"}
PATCH_COLOURS = {16: "#CC79A7", 8: "#E69F00", 4: "#009E73", 2: "#0072B2", 1: "#882255"}
PATCH_MARKERS = {16: "P", 8: "s", 4: "^", 2: "o", 1: "v"}
PATCH_DASHES: dict[int, Any] = {16: (0, (1, 4)), 8: ":", 4: "--", 2: "-", 1: (0, (6, 1.5, 1, 1.5))}
BLOCK_STYLES = {
    "in-context": ("#E69F00", "s"),
    "cross-attention": ("#56B4E9", "^"),
    "adaln": ("#009E73", "D"),
    "adaln-zero": ("#882255", "o"),
}
_OTHER = ("#7A7A7A", "D")  # a network that is no DiT of the paper
_CAPTION = 6.8  # point size of the line below a figure


def style_of(row: Any) -> tuple[str, str]:
    """Colour and marker of a point: size and patch of a DiT."""
    if row.size in SIZE_COLOURS and row.patch in PATCH_MARKERS:
        return SIZE_COLOURS[row.size], PATCH_MARKERS[int(row.patch)]
    return _OTHER


def gflops_text(gflops: float) -> str:
    return f"{gflops:.1f} Gflops" if gflops >= 1 else compute_text(gflops / 1000)


def params_text(params_m: float) -> str:
    return f"{params_m:.0f} M" if params_m >= 10 else f"{params_m:.2g} M"


def block_name(block: str) -> str:
    return {"adaln": "adaLN", "adaln-zero": "adaLN-Zero"}.get(block, block)


def marker_of(axis: Axes, x: float, y: float, colour: str, marker: str, *, measured: bool, size: float) -> None:
    """Filled if measured, open if published."""
    axis.plot(
        [x],
        [y],
        marker=marker,
        markersize=size,
        markerfacecolor=colour if measured else PAPER,
        markeredgecolor=INK if measured else colour,
        markeredgewidth=0.6 if measured else 1.4,
        linestyle="none",
        zorder=4 if measured else 3,
    )


def interval(axis: Axes, place: float, row: Mapping[Any, Any], metric: str, *, across: bool = False) -> None:
    """The 95 % interval of a point that has one, as a bar through its marker; `across` if the metric is along x."""
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    if not (math.isnan(low) or math.isnan(high)):
        ends, places = [low, high], [place, place]
        axis.plot(*((ends, places) if across else (places, ends)), color=INK, linewidth=0.9, zorder=5)


def series(
    axis: Axes,
    points: pd.DataFrame,
    x: str,
    y: str,
    style: tuple[str, str],
    *,
    scale: float = 1.0,
    size: float = 5.0,
) -> None:
    """A model's points in its colour and marker; measured ones are joined by a line, one line for each seed."""
    colour, marker = style
    points = points[points[x].notna() & points[y].notna()].sort_values(x, kind="stable")
    measured = select(points, source="measured")
    for _, own in measured.groupby(["model", "block", "seed"], sort=True, dropna=False):
        axis.plot(own[x] * scale, own[y], color=colour, linewidth=1.3, zorder=2)
    for row in points.to_dict("records"):
        is_measured = row["source"] == "measured"
        marker_of(axis, row[x] * scale, row[y], colour, marker, measured=is_measured, size=size)
        interval(axis, row[x] * scale, row, y)


def compute_panel(axis: Axes, points: pd.DataFrame, x: str, y: str, *, size: float = 5.5) -> None:
    axis.set_xscale("log")
    for _, own in points.groupby("model", sort=False):
        series(axis, own, x, y, style_of(next(own.itertuples())), size=size)


def pad_y(axis: Axes, values: Iterable[float], share: float, *, bottom: float | None = None) -> None:
    low, high = min(values), max(values)
    room = share * (high - low) or 0.1 * abs(high) or 1.0
    axis.set_ylim(low - room if bottom is None else bottom, high + room)


def thin_ticks(axis: Axes) -> None:
    """On a log axis of few decades, name 2 and 5 between them instead of everything."""
    low, high = axis.get_xlim()
    if high / low < 100:
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))


def handle(
    colour: str, marker: str, label: str, *, face: str | None = None, line: Any = "none", size: float = 6
) -> Line2D:
    label = lettering(label)
    label = f" {label}" if label.startswith("_") else label  # matplotlib leaves such a name out of legends
    drawn = Line2D([], [], color=colour, linestyle=line, marker=marker, markersize=size, label=label)
    drawn.set_markerfacecolor(face or colour)
    return drawn


def add_legend(axis: Axes, handles: Sequence[Line2D], *, loc: Any, ncols: int = 1) -> None:
    legend = axis.legend(
        handles=list(handles), loc=loc, ncols=ncols, fontsize=7, frameon=False, handletextpad=0.4, labelspacing=0.35
    )
    legend.set_in_layout(False)  # one that is larger than its panel leaves the panel its room
    for text in legend.get_texts():
        text.set_path_effects([HALO])


def is_crowded(labelled: pd.DataFrame) -> bool:
    """Whether the measured curves of a panel are too many for a name at each, and a legend can tell them apart."""
    return len(labelled) > 8 and set(labelled["source"]) == {"measured"} and bool(labelled["size"].notna().all())


def size_legend(figure: Figure, points: pd.DataFrame, *, patch_colours: bool = False) -> None:
    """Colours of the sizes and markers of the patch sizes, above the panels; in Figure 6 these have colours too."""
    handles = [handle(SIZE_COLOURS[s], "o", f"{prefix_of(points)}{s}") for s in SIZES if s in set(points["size"])]
    for p in PATCHES:
        if p in set(points["patch"]) and patch_colours:
            handles.append(handle(PATCH_COLOURS[p], PATCH_MARKERS[p], f"patch {p}", line="-"))
        elif p in set(points["patch"]):
            handles.append(handle(SOFT, PATCH_MARKERS[p], f"patch {p}", face=PAPER))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7, frameon=False, handletextpad=0.3,
        columnspacing=1.4,
    )  # fmt: skip


def caption(figure: Figure, points: pd.DataFrame, *, published: str, extra: str = "") -> None:
    """Below the figure: where its points come from."""
    sources = set(points["source"])
    parts = []
    if "paper" in sources:
        parts.append(f"open: paper ({published})")
    if "measured" in sources:
        parts.append("filled: measured")
    if points[[f"{metric.key}_low" for metric in PAPERS_METRICS]].notna().any(axis=None):
        parts.append("bars: 95 % intervals")
    footer(figure, "; ".join([*parts, *([extra] if extra else [])]))


def footer(figure: Figure, text: str) -> None:
    width = int(figure.get_figwidth() * 72 / (0.6 * _CAPTION))
    figure.supxlabel(textwrap.fill(lettering(text, longest=400), width), fontsize=_CAPTION, color=SOFT, x=0.5)
