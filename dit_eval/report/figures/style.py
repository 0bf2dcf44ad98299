"""Figures. Each is saved as vector (PDF) and PNG, with labelled axes and the source of its points."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from dit_eval.system.files import atomic_file
from dit_eval.system.text import shown

# Ink of the figures, and what stands in its place on a dark page.
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


def blank_figure(width: float, height: float, *, layout: Literal["constrained"] | None = None) -> Figure:
    """A figure of a size in inches, drawn by Agg whatever the program uses: pyplot and its choice are left alone."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float, *, columns: int = 1, rows: int = 1) -> Any:
    """A figure of a size in inches, with its axes: one, a row, or rows; without axes if `columns` is 0."""
    figure = blank_figure(width, height, layout="constrained")
    if columns == 0:
        return figure
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, axes[0, 0] if rows == columns == 1 else axes[0] if rows == 1 else axes


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
    return written


@styled
def render_figure(figure: Figure) -> dict[str, bytes]:
    """The figure as "png" (300 dpi, white), "pdf" and "svg".

    The same data give the same bytes: no date, no random names. The SVG follows the reader's light or dark page.
    """
    rendered = {}
    for ending, metadata in (("png", None), ("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
        target = io.BytesIO()
        background = "none" if ending == "svg" else PAPER
        figure.savefig(target, format=ending, dpi=300, facecolor=background, metadata=metadata)
        rendered[ending] = target.getvalue()
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
