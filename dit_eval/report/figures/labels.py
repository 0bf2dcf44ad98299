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


def _place_labels(
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
    figure = _figure_of(axis)
    figure.draw_without_rendering()  # fixes the layout, so that sizes in pixels are known
    pixel = figure.dpi / 72
    marks = axis.transData.transform(np.array([*zip(xs, ys, strict=True), *obstacles], dtype=float))
    radius = 3.0 * pixel
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in marks]
    legend = axis.get_legend()
    taken += [box for line in axis.lines for box in _along(line)]
    taken += [legend.get_window_extent()] if legend is not None else []
    taken += [text.get_window_extent() for text in axis.texts if text.get_text()]
    frame = axis.get_window_extent()
    for number, (x, y, name) in enumerate(zip(xs, ys, map(lettering, names), strict=True)):
        near = reach[number] if reach else 6.0
        best: tuple[float, Text] | None = None
        for away in (near, near + 4.0, near + 9.0):
            for dx, dy, ha, va in _AROUND:
                text = axis.annotate(
                    name, (x, y), (away * dx, away * dy), textcoords="offset points", fontsize=7, ha=ha, va=va
                )
                text.set_in_layout(False)
                text.set_path_effects([_HALO])
                box = text.get_window_extent().padded(2.0 * pixel, 0.6 * pixel)
                covered = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
                if best is None or covered < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = (covered, text)
                else:
                    text.remove()
                if covered == 0.0:
                    break
            if best is not None and best[0] == 0.0:
                break
        if best is not None:
            taken.append(best[1].get_window_extent().padded(2.0 * pixel, 0.6 * pixel))


def _figure_of(axis: Axes) -> Figure:
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


_HALO = withStroke(linewidth=2.0, foreground=PAPER)  # keeps a name readable where a line passes behind it
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
