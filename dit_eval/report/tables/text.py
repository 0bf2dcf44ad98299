"""Tables as plain text, for terminals and logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dit_eval.report.tables.table import Column, Table
from dit_eval.system.style import PLAIN, Style

_LEAST_NAME = 16  # columns of a terminal that the first column keeps


def to_text(table: Table, *, width: int | None = None, style: Style = PLAIN) -> str:
    """The columns in line, standard errors below their numbers, published rows below a rule.

    Parameters
    ----------
    width : columns of the terminal: long names are shortened, and columns that have no room stand below the others;
        None for a log, where lines are as long as they must be
    """
    blocks = ["\n".join(_block(table, columns, width, style)) for columns in _shares(table, width)]
    return "\n\n".join(blocks)


def _shares(table: Table, width: int | None) -> Iterator[list[Column]]:
    """The columns beside the first, as many at a time as there is room for."""
    share: list[Column] = []
    for column in table.columns[1:]:
        if width and share and _LEAST_NAME + sum(2 + _width(table, each) for each in (*share, column)) > width:
            yield share
            share = []
        share.append(column)
    yield share


def _width(table: Table, column: Column) -> int:
    parts = [part for number in range(len(table.rows)) for part in _parts(table, number, column)]
    return max(len(column.title), *map(len, parts))


def _parts(table: Table, number: int, column: Column) -> tuple[str, str]:
    """The value of a row, marked where it is not told apart from the best, and its standard error."""
    value, _, error = table.rows[number].cells[column.key].partition(" ± ")
    tie = "≈" if (number, column.key) in table.ties else ""
    return f"{tie}{value}", f"±{error}" if error else ""


def _block(table: Table, columns: Sequence[Column], width: int | None, style: Style) -> Iterator[str]:
    first = table.columns[0]
    widths = [_width(table, column) for column in columns]
    name = max(len(first.title), *(len(row.cells[first.key]) for row in table.rows))
    if width:
        name = max(_LEAST_NAME, min(name, width - sum(2 + each for each in widths)))

    def line(head: str, cells: Sequence[str]) -> str:
        return f"{head}{''.join(f'  {cell}' for cell in cells)}".rstrip()

    yield style.dim(line(f"{first.title:<{name}}", [f"{c.title:>{w}}" for c, w in zip(columns, widths, strict=True)]))
    for number, row in enumerate(table.rows):
        if number and row.measured != table.rows[number - 1].measured:
            yield style.dim(line("-" * name, ["-" * each for each in widths]))
        cells, errors = [], []
        for column, room in zip(columns, widths, strict=True):
            value, error = _parts(table, number, column)
            padded = f"{value:>{room}}"
            cells.append(style.bold(padded) if (number, column.key) in table.best and row.measured else padded)
            errors.append(style.dim(f"{error:>{room}}"))
        head = f"{_short(row.cells[first.key], name):<{name}}"
        yield line(head if row.measured else style.dim(head), cells)
        if any(_parts(table, number, column)[1] for column in columns):
            yield line(" " * name, errors)


def _short(text: str, room: int) -> str:
    """A text that fits: what is cut out of its middle becomes three dots."""
    if len(text) <= room:
        return text
    begin = (room - 3) // 2
    return f"{text[:begin]}...{text[begin + 3 - room :]}"
