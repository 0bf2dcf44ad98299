"""How figures look: their widths, type and inks, and how they become files (PDF, SVG, PNG).

Sizes in points, `points(5)`, are those of print; a look for slides enlarges all of them alike.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dit_eval.report.figures.figure import Picture
from dit_eval.report.words import PATCHES, SIZES
from dit_eval.system.files import atomic_file
from dit_eval.system.text import shown

# Each ink of the figures on white, and what stands in its place on a dark page.
INK, SOFT, GRID, PALE, PAPER = "#1a1a1a", "#5c5c5c", "#dcdcdc", "#b4b4b4", "#ffffff"
# One colour has one meaning. Model size and patch size are two ramps that go from light to dark with Gflops, blue and
# brown, so that colour-blind readers and grey prints keep both orders.
SIZE_COLOURS = dict(zip(SIZES, ("#6bb8e8", "#2e8bc9", "#1c5a9e", "#0a2550"), strict=True))
PATCH_COLOURS = dict(zip(PATCHES, ("#e8b04a", "#db8a1f", "#b9610f", "#84390b", "#451a05"), strict=True))
BLOCK_COLOURS = {"in-context": "#c264b4", "cross-attention": "#3e9a5c", "adaln": "#7a7a00", "adaln-zero": "#5b2a86"}
SAMPLER_COLOURS = {"ddpm": "#2e3138", "ddim": "#b02589", "ode-euler": "#269962", "ode-heun": "#1897dc",
                   "ode-dopri5": "#562fbb", "sde-euler": "#e45a13", "sde-heun": "#5c230a"}  # fmt: skip
_SAMPLERS_ON_DARK = ("#57636b", "#df69ad", "#c2f0d7", "#bad9f7", "#6b61d8", "#f48d73", "#cd7917")
OTHER_COLOUR = "#7f7f7f"  # a network that is no DiT of the paper
DARK = {
    **{INK: "#ececec", SOFT: "#a8adb5", GRID: "#363b44", PALE: "#5a606b", PAPER: "#171a20", OTHER_COLOUR: "#989898"},
    **dict(zip(SIZE_COLOURS.values(), ("#2e6c9e", "#3f97d6", "#86c3f0", "#d6ecff"), strict=True)),
    **dict(zip(PATCH_COLOURS.values(), ("#7a4f14", "#a86a17", "#d98a2b", "#f5b56b", "#ffe3c2"), strict=True)),
    **dict(zip(BLOCK_COLOURS.values(), ("#d98acd", "#57b878", "#b5b53a", "#a77be0"), strict=True)),
    **dict(zip(SAMPLER_COLOURS.values(), _SAMPLERS_ON_DARK, strict=True)),
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What figures are made for, and how tables mark their best.

    Attributes
    ----------
    column, full : widths of a figure, in inches
    text, small : point sizes of axis labels, and of ticks, names and legends
    serif : Times-like letters in place of sans-serif ones
    significance : print a number bold only where it is significantly better than all others, and mark those that are
        not told apart from the best, in columns that say how far their numbers vary; otherwise whatever is best
    """

    column: float
    full: float
    text: float = 8.0
    small: float = 7.0
    serif: bool = False
    significance: bool = True

    @property
    def scale(self) -> float:
        """How much larger than in print marks, lines and heights are."""
        return self.text / 8.0

    def settings(self) -> Any:
        """What matplotlib has to know of it."""
        lettering = _SERIF if self.serif else _SANS
        sizes = {name: value * self.scale for name, value in _LENGTHS.items()}
        return {**_RC, **lettering, **sizes, **dict.fromkeys(_TEXTS, self.text), **dict.fromkeys(_SMALL, self.small)}


# A column and the width of the text of a two-column article; the page's own; half a slide and a slide of 13.3 inches.
LOOKS = {
    "page": Look(column=3.5, full=7.0),
    "paper": Look(column=3.25, full=6.75),
    "slides": Look(column=6.2, full=12.4, text=16.0, small=14.0),
}
PAGE = LOOKS["page"]

# Fonts come with matplotlib, so that every machine draws the same.
_SANS = {"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
_SERIF = {"font.family": "STIXGeneral", "mathtext.fontset": "stix"}
_TEXTS = ("font.size", "axes.labelsize", "axes.titlesize")
_SMALL = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")
_LENGTHS = {
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
}
_RC: Any = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.labelspacing": 0.35,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "dit-eval",  # names inside an SVG are random without it
    "pdf.fonttype": 42,
}
_Given = TypeVar("_Given", contravariant=True)


class Drawing(Protocol[_Given]):
    """Makes a picture of what it is given, in a look; None if there is nothing to draw."""

    def __call__(self, given: _Given, /, look: Look = PAGE) -> Picture | None: ...


def styled(draw: Callable[[_Given, Look], Picture | None]) -> Drawing[_Given]:
    """A drawing function, in a look; its picture is laid out."""

    @functools.wraps(draw)
    def wrapped(given: _Given, /, look: Look = PAGE) -> Picture | None:
        with matplotlib.rc_context(look.settings()):
            picture = draw(given, look)
            if picture is not None:
                settle(picture.figure)
            return picture

    return wrapped


def points(length: float) -> float:
    """A length that is so many points in print, in the look that is being drawn."""
    return float(length * matplotlib.rcParams["font.size"] / 8.0)


def small() -> float:
    """The point size of names and legends in the look that is being drawn."""
    return float(matplotlib.rcParams["legend.fontsize"])


def settle(figure: Figure) -> None:
    """Lay the figure out, once: what is written into it later moves nothing, and no format lays it out again.

    With a layout engine, be it the one that does nothing, matplotlib draws each format twice.
    """
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(figure)
        with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)


def lettering(text: str, *, longest: int = 40) -> str:
    """A text of a file or of a user as a figure may draw it: a line of so many characters, and no mathematics.

    What the font has no sign for becomes U+FFFD. Dollar signs are drawn as they are; matplotlib takes what stands
    between two of them for a formula, and raises where it is none.
    """
    text = shown(text)
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    font = get_font(findfont(FontProperties(family=matplotlib.rcParams["font.family"])))
    drawn = "".join(sign if font.get_char_index(ord(sign)) else "\ufffd" for sign in text)
    return drawn.replace("$", r"\$")


def blank_figure(width: float, height: float, *, layout: Literal["constrained"] | None = None) -> Figure:
    """A figure of a size in inches, drawn by Agg whatever the program uses: pyplot and its choice are left alone."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def new_figure(
    look: Look, height: float, *, wide: bool = False, columns: int = 1, rows: int = 1, sharey: bool = False
) -> Any:
    """A figure of a column's width or, if `wide`, the whole one, with its axes: one, a row, or rows.

    Parameters
    ----------
    height : in inches of print
    columns : of axes; no axes are made if it is 0
    """
    figure = blank_figure(look.full if wide else look.column, height * look.scale, layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.04 * look.scale, h_pad=0.04 * look.scale)
    if columns == 0:
        return figure
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, axes[0, 0] if rows == columns == 1 else axes[0] if rows == 1 else axes


def picture_files(path: Path) -> tuple[Path, Path]:
    """The two files of a picture that `path` names, by either ending or none: .png and .pdf."""
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf") else path
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")


def save_figure(figure: Figure, path: Path, *, dpi: int = 160) -> tuple[Path, Path]:
    """Write a picture as PNG, of so many dots an inch, and as PDF, `picture_files(path)`, and return both."""
    written = picture_files(path)
    for target in written:
        # Without a date in the PDF the same data gives the same bytes.
        metadata = {"CreationDate": None} if target.suffix == ".pdf" else None
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file, matplotlib.rc_context(PAGE.settings()):
            figure.savefig(file, format=target.suffix[1:], dpi=dpi, facecolor=PAPER, metadata=metadata)
    return written


def render_figure(figure: Figure, look: Look = PAGE) -> dict[str, bytes]:
    """The figure as "png" (300 dpi, white), "pdf" and "svg".

    The same data give the same bytes: no date, no random names. The SVG follows the reader's light or dark page.
    """
    rendered = {}
    with matplotlib.rc_context(look.settings()):
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
        for light, dark in DARK.items()
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    start = svg.index(">", svg.index("<svg")) + 1
    return svg[:start] + style + svg[start:]
