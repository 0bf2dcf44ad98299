"""Where the points of a picture lie in it, and what each is: for a page, which names them under the pointer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures.figure import Picture
from dit_eval.report.points import PAPERS_METRICS

_MOST = 600  # marks of a picture; of more, none has a name
_OF_CURVE = 24  # marks of a line without markers, evenly along it
_SCALES = (1.0, 1e-3, 1e3, 1e-6, 1e6)  # of the units that axes have
_HEIGHTS = ("loss", "mse", *(metric.key for metric in PAPERS_METRICS))  # what is drawn upwards
_METRIC_LABELS = {metric.key: metric.label for metric in PAPERS_METRICS}
_ALSO = {"sampling_steps": "sampling steps", "training_steps": "training steps", "cfg_scale": "guidance"}
_LEAST_RADIUS = 4.0  # points, that a finger finds it


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a picture: centre from the top left corner and radius, in points (1/72 inch), and what it is."""

    x: float
    y: float
    radius: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The marks of a picture, from left to right, and its size in points."""

    width: float
    height: float
    marks: Sequence[Mark]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A row of the data, which of its columns is drawn upwards, and whether it has what is drawn along x."""

    row: int
    height: str
    has_x: bool


def marks_of(picture: Picture) -> Marks:
    """The points that are drawn in a picture and stand in its data.

    Parameters
    ----------
    picture : laid out, as `style.styled` leaves it
    """
    width, height = (float(inches) * 72 for inches in picture.figure.get_size_inches())
    found: dict[tuple[float, float], Mark] = {}
    if picture.data is not None:
        for mark in _marks(picture.figure, picture.data):
            found.setdefault((mark.x, mark.y), mark)
    marks = sorted(found.values(), key=lambda mark: (mark.x, mark.y))
    return Marks(width=width, height=height, marks=marks if len(marks) <= _MOST else [])


def _marks(figure: Figure, data: pd.DataFrame) -> Iterator[Mark]:
    to_points = 72 / figure.dpi
    height = float(figure.get_size_inches()[1]) * 72
    numbers = {name: data[name].to_numpy(float) for name in data.select_dtypes("number")}
    for axis in figure.axes:
        low, high = sorted(axis.get_ylim())
        for x, y, radius in _drawn(axis):
            at = _row_at(numbers, x, y)
            if at is None or not low <= y <= high:
                continue
            place = axis.transData.transform((x, y)) * to_points
            yield Mark(
                x=round(float(place[0]), 1),
                y=round(height - float(place[1]), 1),
                radius=round(max(radius, _LEAST_RADIUS), 1),
                text=_text(axis, data.iloc[at.row].to_dict(), at, x, y),
            )


def _drawn(axis: Axes) -> Iterator[tuple[float, float, float]]:
    """Places of markers and bubbles, and some of each curve, with radii in points."""
    for line in axis.lines:
        xy = np.asarray(line.get_xydata(), dtype=float)
        has_marker = line.get_marker() not in ("None", "", None)
        every = 1 if has_marker else max(1, math.ceil(len(xy) / _OF_CURVE))
        radius = float(line.get_markersize()) / 2 if has_marker else 0.0
        yield from ((float(x), float(y), radius) for x, y in xy[::every])
    for bubbles in axis.collections:
        sizes = getattr(bubbles, "get_sizes", lambda: np.empty(0))()
        for (x, y), size in zip(np.asarray(bubbles.get_offsets(), dtype=float), sizes, strict=False):
            yield float(x), float(y), math.sqrt(size) / 2


def _row_at(numbers: dict[str, np.ndarray], x: float, y: float) -> _Found | None:
    """The row of the data that is drawn at a place: of those with this height, the one that has x in some unit."""
    heights = [name for name in _HEIGHTS if name in numbers]
    same = {name: np.isclose(numbers[name], y, rtol=1e-9, atol=0) for name in heights}
    rows = np.flatnonzero(np.any([*same.values()], axis=0)) if same else np.zeros(0, int)
    if not len(rows):
        return None

    def found(row: int, *, has_x: bool) -> _Found:
        return _Found(row=row, height=next(name for name in heights if same[name][row]), has_x=has_x)

    for scale in _SCALES:
        for values in numbers.values():
            fits = rows[np.isclose(values[rows] * scale, x, rtol=1e-9, atol=0)]
            if len(fits):
                return found(int(fits[0]), has_x=True)
    return found(int(rows[0]), has_x=False)


def _text(axis: Axes, row: dict[Any, Any], found: _Found, x: float, y: float) -> str:
    """The model, what its axes say of it, and where it is from."""
    up = _label(axis.get_ylabel(), *_of(axis, "y")) or _METRIC_LABELS.get(found.height, found.height)
    across = _label(axis.get_xlabel(), *_of(axis, "x")) if found.has_x else ""
    facts = [f"{up} {_short(y)}", *([f"{across} {_short(x)}"] if across else [])]
    for key, name in _ALSO.items():
        if _is_known(row.get(key)) and name not in across.lower():
            facts.append(f"{name} {_short(row[key])}")
    where = row.get("origin")
    origin = f" ({where})" if isinstance(where, str) else ""
    return f"{row.get('model') or ''}{origin}: {', '.join(facts)}"


def _of(axis: Axes, which: Literal["x", "y"]) -> list[str]:
    """The labels of the panels that share an axis with this one, which has none of its own."""
    shared: Any = axis.get_shared_x_axes() if which == "x" else axis.get_shared_y_axes()
    return [other.get_xlabel() if which == "x" else other.get_ylabel() for other in shared.get_siblings(axis)]


def _label(*labels: str) -> str:
    first = next((label for label in labels if label), "")
    return re.sub(r"\s*(\(log scale\)|, log scale|\(1: none\)|[↓↑])", "", first)


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e8 else f"{value:.4g}"
