"""Names beside points, without overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dit_eval.report.figures.style import PAPER, lettering


def place_labels(
    axis: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    names: Sequence[str],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
    reach: Sequence[float] = (),
) -> None:
    """Write a name beside each point, where it covers no point, no other name and no edge.

    Tries eight places around the point, near ones first, and takes the first that is free, else the least covered.

    Parameters
    ----------
    obstacles : more points to keep clear of
    reach : least distance of each name from the middle of its point, in points; 6 if not given
    """
    figure = figure_of(axis)
    figure.draw_without_rendering()  # fixes the layout, so that sizes in pixels are known
    taken = _in_the_way(axis, [*zip(xs, ys, strict=True), *obstacles])
    for number, (x, y, name) in enumerate(zip(xs, ys, map(lettering, names), strict=True)):
        near = reach[number] if reach else 6.0
        places = [
            (away * dx, away * dy, ha, va) for away in (near, near + 4.0, near + 9.0) for dx, dy, ha, va in _AROUND
        ]
        text = _least_covered(axis, name, (x, y), places, taken)
        taken.append(_room_of(text, figure))


def _in_the_way(axis: Axes, points: Sequence[tuple[float, float]]) -> list[Bbox]:
    """What a name should not cover, in pixels: points, curves, the legend, other texts."""
    radius = 3.0 * figure_of(axis).dpi / 72
    marks = axis.transData.transform(np.array(points, dtype=float))
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in marks]
    taken += [box for line in axis.lines for box in _along(line)]
    legend = axis.get_legend()
    taken += [legend.get_window_extent()] if legend is not None else []
    return taken + [text.get_window_extent() for text in axis.texts if text.get_text()]


def _least_covered(
    axis: Axes,
    name: str,
    point: tuple[float, float],
    places: Sequence[tuple[float, float, str, str]],
    taken: Sequence[Bbox],
) -> Text:
    """The name at the first place that is free, else at the one where it covers least."""
    figure, frame = figure_of(axis), axis.get_window_extent()
    kept, least = None, np.inf
    for x, y, ha, va in places:
        text = axis.annotate(name, point, (x, y), textcoords="offset points", fontsize=7, ha=ha, va=va)
        text.set_in_layout(False)
        text.set_path_effects([HALO])
        box = _room_of(text, figure)
        covered = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
        if kept is not None and covered >= least:
            text.remove()
            continue
        if kept is not None:
            kept.remove()
        kept, least = text, covered
        if covered == 0.0:
            break
    if kept is None:
        raise ValueError("Expected places for a name, got none.")
    return kept


def _room_of(text: Text, figure: Figure) -> Bbox:
    """The box of a text in pixels, with a margin."""
    pixel = figure.dpi / 72
    return text.get_window_extent().padded(2.0 * pixel, 0.6 * pixel)


def figure_of(axis: Axes) -> Figure:
    figure = axis.get_figure(root=True)
    if figure is None:
        raise ValueError("These axes belong to no figure.")
    return figure


def _along(line: Line2D) -> list[Bbox]:
    """Small boxes along a drawn curve, in pixels."""
    data = np.asarray(line.get_xydata())
    if line.get_linestyle() == "None" or line.axes is None or len(data) < 2:
        return []
    corners = line.axes.transData.transform(data)
    places = [a + (b - a) * t for a, b in pairwise(corners) for t in np.linspace(0, 1, 12)]
    return [Bbox.from_extents(x - 1.0, y - 1.0, x + 1.0, y + 1.0) for x, y in places]


HALO = withStroke(linewidth=2.0, foreground=PAPER)  # keeps a name readable where a line passes behind it
_AROUND = (
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    return box.width * box.height - _overlap(box, frame)
