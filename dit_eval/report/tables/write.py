"""Tables as CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import re

from dit_eval.report.tables.table import DASH, Table
from dit_eval.report.templating import render

# What spreadsheets take for the beginning of a formula: four signs, their wide forms, and spaces that they drop.
_FORMULA = frozenset("=+-@＝＋－＠\t\r\n")
_SIGNED_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def to_markdown(table: Table) -> str:
    """GitHub's Markdown: best values bold, notes below. Of a text, nothing is taken for Markdown, HTML or a link."""
    return render("table.md.j2", {"table": table})


def to_latex(table: Table) -> str:
    """A table environment; needs the packages booktabs and graphicx."""
    return render("table.tex.j2", {"table": table})


def to_html(table: Table) -> str:
    """A table element whose headings are buttons, for a script that sorts, and its notes as a list."""
    return render("table.html.j2", {"table": table})


def to_csv(table: Table) -> str:
    """The same columns, then the source of each row and whether it was measured; an empty field for a dash.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    # A number and its standard error are two columns.
    errors = {c.key for c in table.columns if not c.text and any(" ± " in row.cells[c.key] for row in table.rows)}
    titles: list[str] = []
    for column in table.columns:
        titles += [column.title, f"{column.title} standard error"] if column.key in errors else [column.title]
    writer.writerow([*titles, "Source", "Measured"])
    for row in table.rows:
        cells: list[str] = []
        for column in table.columns:
            text = row.cells[column.key]
            cells += _number_and_error(text) if column.key in errors else [_field(text)]
        writer.writerow([*cells, no_formula(row.source), "yes" if row.measured else "no"])
    return target.getvalue()


def no_formula(text: str) -> str:
    """A text for a cell of a CSV file; one that a spreadsheet would run has an apostrophe before it. Numbers stay."""
    begins = {text[:1], text.lstrip()[:1]}
    return f"'{text}" if begins & _FORMULA and not _SIGNED_NUMBER.fullmatch(text) else text


def _field(text: str) -> str:
    return "" if text == DASH else no_formula(text)


def _number_and_error(text: str) -> list[str]:
    number, _, error = text.partition(" ± ")
    return [_field(number), error]
