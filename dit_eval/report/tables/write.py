"""Tables as CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from dit_eval.report.tables.table import DASH, Table
from dit_eval.report.templating import render

# What spreadsheets take for the beginning of a formula: four signs, their wide forms, and spaces that they drop.
_FORMULA = frozenset("=+-@＝＋－＠\t\r\n")
_SIGNED_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def to_markdown(table: Table) -> str:
    """GitHub's Markdown: best values bold, notes below. Of a text, nothing is taken for Markdown, HTML or a link."""
    return render("table.md.j2", {"table": table})


def to_html(table: Table) -> str:
    """A page of its own, which needs nothing beside it."""
    return render("table_page.html.j2", {"table": table})


def to_csv(table: Table) -> str:
    """Numbers in full under names for programs, then the source of each row and whether it was measured.

    Each name is one column; a number's unit, standard error and interval follow it where a row has them. An empty field
    stands for a dash, and a text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    names = [*_names(table)]
    writer.writerow([*names, "source", "measured"])
    for row in table.rows:
        cells = [_field(str(row.values.get(name, row.cells.get(name, DASH)))) for name in names]
        writer.writerow([*cells, no_formula(row.source), "yes" if row.measured else "no"])
    return target.getvalue()


def _names(table: Table) -> Iterator[str]:
    """The columns, and behind each what some row knows beside its number."""
    known = {name for row in table.rows for name in row.values}
    for column in table.columns:
        yield column.key
        beside = (f"{column.key}_{part}" for part in ("sd", "standard_error", "degrees", "low", "high", "unit"))
        yield from (name for name in beside if name in known)


def no_formula(text: str) -> str:
    """A text for a cell of a CSV file; one that a spreadsheet would run has an apostrophe before it. Numbers stay."""
    begins = {text[:1], text.lstrip()[:1]}
    return f"'{text}" if begins & _FORMULA and not _SIGNED_NUMBER.fullmatch(text) else text


def _field(text: str) -> str:
    return "" if text == DASH else no_formula(text)
