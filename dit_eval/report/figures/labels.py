"""Names beside points, without overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from dit_eval.report.figures.style import INK, PAPER, SOFT, lettering, points, settle, small


def place_labels(
    axis: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    names: Sequence[str],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
    reach: Sequence[float] = (),
    colours: Sequence[str] = (),
) -> None:
    """Write a name beside each point, where it covers no point, curve or other name and stays within the panel.

    Tries places around the point, near ones first; a name that is far from its point is joined to it by a thin line.
    A name that fits nowhere is left out: the figure's data have it.

    Parameters
    ----------
    obstacles : more points to keep clear of
    reach : least distance of each name from the middle of its point, in points; 6 if not given
    colours : of the names; ink if not given
    """
    figure = figure_of(axis)
    settle(figure)  # from here on, sizes in pixels are known
    taken = _in_the_way(axis, [*zip(xs, ys, strict=True), *obstacles])
    # Points with much around them choose first.
    middles = axis.transData.transform(np.array([xs, ys], dtype=float).T)
    distances = np.linalg.norm(middles[:, None] - middles[None], axis=-1)
    crowd = (distances < points(30.0) * figure.dpi / 72).sum(axis=1)
    room = _Room(frame=axis.get_window_extent(), marks=middles, pixel=figure.dpi / 72)
    for number in np.argsort(-crowd, kind="stable"):
        near = reach[number] if reach else points(6.0)
        text = axis.annotate(lettering(names[number]), (xs[number], ys[number]), (0, 0), textcoords="offset points",
                             fontsize=small(), color=colours[number] if colours else INK,
                             path_effects=[halo()])  # fmt: skip
        text.set_in_layout(False)
        offset = _free_offset(text, number, near, taken, room)
        if offset is None:
            text.remove()
            continue
        _move(text, offset)
        if np.linalg.norm(offset) > near + points(8.0):
            _join(axis, text, offset, near)
        taken = np.vstack([taken, _with_margin(text.get_window_extent(), room.pixel)])


def figure_of(axis: Axes) -> Figure:
    figure = axis.get_figure(root=True)
    if figure is None:
        raise ValueError("These axes belong to no figure.")
    return figure


def halo() -> withStroke:
    """Keeps a name readable where a line passes behind it."""
    return withStroke(linewidth=points(2.0), foreground=PAPER)


def _in_the_way(axis: Axes, marks: Sequence[tuple[float, float]]) -> np.ndarray:
    """What a name should not cover: points, curves, the legend, other texts; x0, y0, x1, y1 of each, in pixels."""
    radius = points(3.0) * figure_of(axis).dpi / 72
    middles = axis.transData.transform(np.array(marks, dtype=float))
    taken = [np.hstack([middles - radius, middles + radius])]
    taken += [along for line in axis.lines if len(along := _along(line))]
    legend = axis.get_legend()
    boxes = [legend.get_window_extent()] if legend is not None else []
    boxes += [text.get_window_extent() for text in axis.texts if text.get_text()]
    return np.vstack([*taken, *(box.extents for box in boxes)])


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What does not change while names are placed: the panel, the points that have names, in pixels; pixels a point."""

    frame: Bbox
    marks: np.ndarray
    pixel: float


def _free_offset(text: Annotation, number: int, near: float, taken: np.ndarray, room: _Room) -> np.ndarray | None:
    """How far from its point a name has a free place, in points; None if there is none.

    The first place where no other point is nearer to the name than its own; or else the first that is free.

    Parameters
    ----------
    number : of the point
    near : least distance from it, in points
    taken : see `_in_the_way`
    """
    margin = _with_margin(text.get_window_extent(), room.pixel)
    size = margin[2:] - margin[:2]
    away = near + points(1) * np.array([0.0, 3.0, 7.0, 12.0, 18.0, 25.0, 33.0])
    offsets = (away[:, None, None] * _AROUND[None]).reshape(-1, 2)  # near ones first
    low = room.marks[number] + offsets * room.pixel + (np.sign(offsets) - 1) / 2 * size
    high = low + size
    within = np.all(low >= room.frame.min, axis=1) & np.all(high <= room.frame.max, axis=1)
    apart = (low[:, None] >= taken[None, :, 2:]) | (high[:, None] <= taken[None, :, :2])
    free = within & np.all(np.any(apart, axis=2), axis=1)
    gaps = np.maximum(low[:, None] - room.marks[None], room.marks[None] - high[:, None]).clip(0)
    distances = np.linalg.norm(gaps, axis=2)
    clear = free & (distances[:, number] <= distances.min(axis=1))
    for good in (clear, free):
        if good.any():
            return np.asarray(offsets[int(good.argmax())])
    return None


def _move(text: Annotation, offset: np.ndarray) -> None:
    """Put a name at a distance from its point, on the side that the distance leads to."""
    x, y = np.sign(offset).astype(int) + 1
    text.set(position=tuple(offset), ha=("right", "center", "left")[x], va=("top", "center", "bottom")[y])


def _with_margin(box: Bbox, pixel: float) -> np.ndarray:
    """A name's box in pixels, with the room around it that stays free."""
    return np.asarray(box.padded(points(1.5) * pixel, points(0.4) * pixel).extents)


def _join(axis: Axes, text: Annotation, offset: np.ndarray, near: float) -> None:
    """A thin line from a name to its point."""
    arrow = {"arrowstyle": "-", "color": SOFT, "linewidth": points(0.5), "shrinkA": 0, "shrinkB": 0.7 * near}
    line = axis.annotate("", text.xy, tuple(offset), textcoords="offset points", arrowprops=arrow)
    line.set(zorder=text.get_zorder() - 0.1, in_layout=False)


def _along(line: Line2D) -> np.ndarray:
    """Small boxes along a drawn curve, in pixels."""
    data = np.asarray(line.get_xydata())
    if line.get_linestyle() == "None" or line.axes is None or len(data) < 2:
        return np.empty((0, 4))
    corners = line.axes.transData.transform(data)
    share = np.linspace(0, 1, 24)[:, None]
    places = np.vstack([a + (b - a) * share for a, b in pairwise(corners)])
    return np.hstack([places - 1.0, places + 1.0])


# Directions in which a name may lie.
_DIAGONAL = [(x * a, y * b) for a, b in ((0.7, 0.7), (0.95, 0.35), (0.35, 0.95)) for x in (1, -1) for y in (1, -1)]
_AROUND = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), *_DIAGONAL], dtype=float)
