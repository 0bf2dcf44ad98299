"""Figures. Each is saved as vector (PDF) and PNG, with labelled axes and the source of its points."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from dit_eval.results.eval_result import EvalResult
from dit_eval.system.files import atomic_file
from dit_eval.system.text import shown

# Okabe & Ito's colours and a marker each: told apart by colour-blind readers and in grey.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
# Ink of the figures of `paper_figures`, and what stands in its place on a dark page.
INK, SOFT, GRID, PAPER = "#1a1a1a", "#5c5c5c", "#dcdcdc", "#ffffff"
_DARK = {INK: "#ececec", SOFT: "#a8adb5", GRID: "#363b44", PAPER: "#171a20", "#882255": "#d4699c", "#0072b2": "#58a6d8"}
_FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine draws the same
_RC: Any = {
    "font.family": _FONT,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "dit-eval",  # names inside an SVG are random without it
    "pdf.fonttype": 42,
}
_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")

_PANELS = (
    ("fid", "FID ↓"),
    ("sfid", "sFID ↓"),
    ("inception_score", "Inception Score ↑"),
    ("precision", "Precision ↑"),
    ("recall", "Recall ↑"),
)


def styled(draw: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
    """A drawing function, in the style of the paper's figures: small type, quiet axes, no background."""

    @functools.wraps(draw)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Returned:
        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapped


def lettering(text: str, *, longest: int = 40) -> str:
    """A text of a file or of a user as a figure may draw it: a line of so many characters, and no mathematics.

    What the font has no sign for becomes U+FFFD. Dollar signs are drawn as they are; matplotlib takes what stands
    between two of them for a formula, and raises where it is none.
    """
    text = shown(text)
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    font = get_font(findfont(_FONT))
    drawn = "".join(sign if font.get_char_index(ord(sign)) else "\ufffd" for sign in text)
    return drawn.replace("$", r"\$")


def new_figure(width: float, height: float, *, columns: int = 1, rows: int = 1) -> Any:
    """A figure of a size in inches, with its axes: one, a row, or rows; without axes if `columns` is 0."""
    figure = plt.figure(figsize=(width, height), layout="constrained")
    if columns == 0:
        return figure
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes[0, 0] if rows == columns == 1 else axes[0] if rows == 1 else axes


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
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(13.5, 3.4), layout="constrained")
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


def sample_grid_figure(
    rows: Mapping[str, np.ndarray], *, columns: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Images in a grid: a row per sample file, or one file's images in a square.

    With several rows a column is one image index: the same noise and label through several models (Figure 7).

    Parameters
    ----------
    rows : row name -> images uint8 (N, H, W, 3); all rows have the same N, sizes may differ
    columns : a name above each column, such as the class
    """
    if len({len(images) for images in rows.values()}) != 1:
        raise ValueError("Rows of a grid need the same number of images.")
    names, stacks = [lettering(name, longest=120) for name in rows], list(rows.values())
    if len(rows) == 1:  # fold the only row into a square
        across = math.ceil(math.sqrt(len(stacks[0])))
        stacks = [stacks[0][i : i + across] for i in range(0, len(stacks[0]), across)]
        names, columns = [""] * len(stacks), None
    across, cell = len(stacks[0]), 0.9
    margin = 0.07 * max(map(len, names)) + 0.1  # inches, for the row names
    top = 0.3 * bool(columns) + 0.35 * bool(title) + 0.05
    width, height = margin + across * cell, top + len(stacks) * cell
    figure = plt.figure(figsize=(width, height))
    for r, images in enumerate(stacks):
        for c, image in enumerate(images):
            left, bottom = (margin + c * cell) / width, 1 - (top + (r + 1) * cell) / height
            axis = figure.add_axes((left, bottom, 0.96 * cell / width, 0.96 * cell / height))
            axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
            axis.set_axis_off()
            if columns and r == 0:
                axis.set_title(lettering(columns[c]), fontsize=8, pad=3)
        middle = 1 - (top + (r + 0.5) * cell) / height
        figure.text((margin - 0.08) / width, middle, names[r], ha="right", va="center", fontsize=9)
    if title:
        figure.text(0.5, 1 - 0.05 / height, lettering(title, longest=400), ha="center", va="top", fontsize=9)
    return figure


def picture_files(path: Path) -> tuple[Path, Path]:
    """The two files of a picture that `path` names, by either ending or none: .png and .pdf."""
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf") else path
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")


def save_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write a picture as PNG and as PDF, `picture_files(path)`, and return both."""
    written = picture_files(path)
    for target in written:
        # Without a date in the PDF the same data gives the same bytes.
        metadata = {"CreationDate": None} if target.suffix == ".pdf" else None
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            figure.savefig(file, format=target.suffix[1:], dpi=160, metadata=metadata)
    plt.close(figure)
    return written


@styled
def render_figure(figure: Figure) -> dict[str, bytes]:
    """The figure as "png" (300 dpi, white), "pdf" and "svg", and close it.

    The same data give the same bytes: no date, no random names. The SVG follows the reader's light or dark page.
    """
    rendered = {}
    for ending, metadata in (("png", None), ("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
        target = io.BytesIO()
        background = "none" if ending == "svg" else PAPER
        figure.savefig(target, format=ending, dpi=300, facecolor=background, metadata=metadata)
        rendered[ending] = target.getvalue()
    plt.close(figure)
    rendered["svg"] = _following_the_page(rendered["svg"].decode()).encode()
    return rendered


def _following_the_page(svg: str) -> str:
    """Add a rule for each ink, so that the picture can be read on a dark page."""
    rules = "".join(
        f'[style*="fill: {light}"]{{fill:{dark}!important}}[style*="stroke: {light}"]{{stroke:{dark}!important}}'
        for light, dark in _DARK.items()
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    start = svg.index(">", svg.index("<svg")) + 1
    return svg[:start] + style + svg[start:]
