"""Which numbers of a column are better than the others, where it is known how far they vary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dit_eval.report.variance import LEVEL, Mean

if TYPE_CHECKING:
    from dit_eval.report.tables.table import Column, Row

Cell = tuple[int, str]  # number of a row, key of a column
RULE = (
    f"Bold: better than every other number of its column, at {LEVEL:.0%} in Welch's t-test (over seeds, or by standard "
    "errors). ≈: the best, and those that are not told apart from it."
)


def is_known(rows: Iterable[Row], columns: Iterable[Column]) -> bool:
    """Whether some number among which the best is sought says how far it varies."""
    keys = {f"{column.key}_standard_error" for column in columns if column.best is not None}
    return any(row.measured and name in keys for row in rows for name in row.values)


def told_apart(rows: Sequence[Row], columns: Iterable[Column]) -> Iterator[tuple[Cell, bool]]:
    """Cells that are significantly better than all others of their column (True), or among the best (False).

    The columns are those that have a best value. Measured rows are compared within their group. The best is tested
    against each other one, without a correction for their number: where all are equal, the gap between the best two of
    many is smaller than that of any two. A column of which some numbers do not say how far they vary has no bold cell,
    unless none of them says it; then the caller's rule holds.
    """
    for column in columns:
        groups: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            if row.measured and _value(row, column) is not None:
                groups.setdefault(row.group, []).append(number)
        for numbers in groups.values():
            yield from _of_group(rows, column, numbers)


def _of_group(rows: Sequence[Row], column: Column, numbers: Sequence[int]) -> Iterator[tuple[Cell, bool]]:
    sign = 1.0 if column.best == "min" else -1.0
    best, *others = sorted(numbers, key=lambda number: sign * (_value(rows[number], column) or 0.0))
    first = _mean(rows[best], column)
    if not others or first is None:
        return
    means = {number: _mean(rows[number], column) for number in others}
    ties = [number for number, mean in means.items() if mean is not None and not first.is_apart(mean)]
    if ties:
        yield from (((number, column.key), False) for number in (best, *ties))
    elif None not in means.values():
        yield (best, column.key), True


def _value(row: Row, column: Column) -> float | None:
    value = row.values.get(column.key)
    return None if value is None or isinstance(value, str) else value


def _mean(row: Row, column: Column) -> Mean | None:
    value, error = _value(row, column), row.values.get(f"{column.key}_standard_error")
    if value is None or not isinstance(error, int | float):
        return None
    degrees = row.values.get(f"{column.key}_degrees", math.inf)
    return Mean(value=value, error=float(error), degrees=float(degrees))
