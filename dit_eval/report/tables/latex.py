"""Tables as LaTeX that a venue takes: booktabs, decimals in line, nothing scaled, no line wider than the page.

Only packages that every LaTeX has are used; `siunitx` is none of them, so figures get their decimals in line by the
width of the digits that they lack. Widths are estimated from the letters of `\\footnotesize` in 10 pt: a table of the
width of a column floats there, a wider one over both columns. Long texts break, and columns beyond the width of a page
go into a tabular of their own, below the first and with its first column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dit_eval.report.tables.table import DASH, Column, Row, Table
from dit_eval.report.templating import letter, render, tex

_LETTER = 4.25  # pt, of the mean letter of a text, and of a digit
_GAP = 6.0  # pt, between two columns
_COLUMN, _PAGE = 196.0, 397.0  # pt: a column of `article`, a page of NeurIPS; other venues' are wider
_LEAST_TEXT = 66.0  # pt, of a column whose texts break
_WORD = 13  # letters, behind which a word may break
_LONG = 46  # lines: more do not float on one page
_TIE = r"\rlap{\textsuperscript{$\approx$}}"  # takes no room, so that decimals stay in line
_NUMBER = re.compile(r"[+-]?\d+(?:\.(\d+))?")
_POWER = re.compile(r"(\d+(?:\.\d+)?)e([+-]?)0*(\d+)\b")


@dataclass(frozen=True, kw_only=True)
class _Width:
    """Points that a column takes: at best, and where its texts break."""

    best: float
    least: float


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A tabular: its columns in LaTeX, their headings, the columns themselves, points and lines that it takes."""

    spec: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    width: float
    lines: int


def to_latex(table: Table) -> str:
    """A float of one or two columns, or a long table; needs the packages array, booktabs and longtable."""
    texts = {column.key: _column_texts(table, column) for column in table.columns}
    widths = {column.key: _width(table, column) for column in table.columns}
    same = _same(table, widths)
    blocks = list(_blocks(table, [column for column in table.columns if column not in same], widths))
    notes = sum(math.ceil(len(note) * _LETTER / _PAGE) for note in table.notes)
    is_long = sum(block.lines for block in blocks) + notes > _LONG
    rows = [
        {
            "rule": number > 0 and _is_apart(table.rows[number - 1], row),
            "cells": {c.key: texts[c.key][number] for c in table.columns},
        }
        for number, row in enumerate(table.rows)
    ]
    narrow = len(blocks) == 1 and blocks[0].width <= _COLUMN
    given = {"table": table, "blocks": blocks, "rows": rows, "caption": _caption(table, same)}
    given["environment"] = "longtable" if is_long else "table" if narrow else "table*"
    return render("table.tex.j2", given)


def _same(table: Table, widths: Mapping[str, _Width]) -> list[Column]:
    """Columns with one text in all rows, for the caption, where the page has no room for them."""
    if len(table.rows) < 2 or sum(widths[column.key].least for column in table.columns) <= _PAGE:
        return []
    return [column for column in table.columns[1:] if len({row.cells[column.key] for row in table.rows}) == 1]


def _caption(table: Table, same: Sequence[Column]) -> str:
    """Title and conditions; LaTeX numbers tables itself."""
    sentences = [tex(re.sub(r"^Table \d+\. ", "", table.title)), tex(table.about)]
    shared = ", ".join(f"{tex(column.title)} {_text(table.rows[0].cells[column.key])}" for column in same)
    sentences += [f"In all rows: {shared}"] if same else []
    return " ".join(f"{text.rstrip('.')}." for text in sentences if text)


def _is_apart(before: Row, row: Row) -> bool:
    return before.part != row.part or before.measured != row.measured


def _column_texts(table: Table, column: Column) -> list[str]:
    """The cells of a column."""
    plain = [row.cells[column.key] for row in table.rows]
    texts = [_text(cell) for cell in plain] if column.text else _in_line(plain)
    made = [rf"\textbf{{{text}}}" if (number, column.key) in table.best else text for number, text in enumerate(texts)]
    made = [rf"{text}{_TIE}" if (number, column.key) in table.ties else text for number, text in enumerate(made)]
    if column is not table.columns[0]:
        return made
    return [_first(table, row, text) for row, text in zip(table.rows, made, strict=True)]


def _first(table: Table, row: Row, text: str) -> str:
    """What stands at the head of a row says whether it was measured, and which notes are on it."""
    if row.measured and table.mixed:
        text = rf"\textit{{{text}}} (measured)"
    notes = ",".join(letter(note) for note in sorted(row.notes))
    return rf"{text}\textsuperscript{{{notes}}}" if notes else text


def _text(cell: str) -> str:
    """A text, in which long words may break; a dash is one of print."""
    if cell == DASH:
        return "--"
    words = (r"\allowbreak ".join(map(tex, _pieces(word))) for word in cell.split(" "))
    return _figures(" ".join(words))


def _pieces(word: str) -> list[str]:
    """A word in pieces, between which it may break: behind signs, and where a piece would be too long."""
    if len(word) <= _WORD:
        return [word]
    return re.findall(rf"[^-_/.,]{{1,{_WORD}}}[-_/.,]?|[-_/.,]", word)


def _figures(text: str) -> str:
    """Minus and powers of ten as they are set."""
    text = _POWER.sub(lambda found: rf"${found[1]} \times 10^{{{found[2].strip('+')}{found[3]}}}$", text)
    return re.sub(r"^(\{\})?-(?=[\d.])", "$-$", text)


def _in_line(cells: Sequence[str]) -> list[str]:
    """Numbers whose decimal points, and whose standard errors, stand in one line where the column ends at the right."""
    parts = [cell.partition(" ± ")[::2] for cell in cells]
    found = [_NUMBER.fullmatch(value) for value, _ in parts]
    if any(number is None and value != DASH for number, (value, _) in zip(found, parts, strict=True)):
        return [_text(cell) for cell in cells]  # numbers with units, or words
    most = max((len(number[1] or "") for number in found if number), default=0)
    widest = max((error for _, error in parts), key=len, default="")
    return [
        _text(value) if number is None else _text(value) + _lacking(number[1] or "", most) + _error(error, widest)
        for (value, error), number in zip(parts, found, strict=True)
    ]


def _lacking(decimals: str, most: int) -> str:
    """Room for the decimals that a number lacks."""
    point = "." if most and not decimals else ""
    return _room(point + "0" * (most - len(decimals)))


def _error(error: str, widest: str) -> str:
    """A standard error, or room for one where other rows have it."""
    if error:
        return rf" $\pm$ {error}" + _room(widest[len(error) :])
    return _room(rf" $\pm$ {widest}" if widest else "")


def _room(text: str) -> str:
    return rf"\phantom{{{text}}}" if text else ""


def _blocks(table: Table, columns: Sequence[Column], widths: Mapping[str, _Width]) -> Iterator[_Block]:
    """The columns in as few blocks as the page allows, of much the same width."""
    fewest = len(_shares(columns, widths, _PAGE))
    limit = next(limit for limit in range(0, int(_PAGE) + 8, 8) if len(_shares(columns, widths, limit)) == fewest)
    for share in _shares(columns, widths, min(limit, _PAGE)):
        yield _block(table, share, widths)


def _shares(columns: Sequence[Column], widths: Mapping[str, _Width], limit: float) -> list[list[Column]]:
    """As many columns at a time as there is room for; each time the first one again."""
    first, *others = columns
    shares = [[first]]
    for column in others:
        if len(shares[-1]) > 1 and sum(widths[each.key].least for each in (*shares[-1], column)) > limit:
            shares.append([first])
        shares[-1].append(column)
    return shares


def _block(table: Table, columns: Sequence[Column], widths: Mapping[str, _Width]) -> _Block:
    best = sum(widths[column.key].best for column in columns)
    least = sum(widths[column.key].least for column in columns)
    share = 1.0 if best <= _PAGE else max(0.0, (_PAGE - least) / (best - least)) if best > least else 0.0
    specs, heads = [], []
    lines = [1] * len(table.rows)
    for column in columns:
        width = widths[column.key]
        if share == 1.0 or width.best == width.least:
            specs.append("l" if column.text else "r")
            heads.append(_head(table, column))
            continue
        points = width.least + share * (width.best - width.least) - _GAP
        specs.append(rf">{{\raggedright\arraybackslash}}p{{{points:.0f}pt}}")
        heads.append(tex(column.title))
        needed = (math.ceil(1.1 * len(row.cells[column.key]) * _LETTER / points) for row in table.rows)
        lines = [max(pair) for pair in zip(lines, needed, strict=True)]
    return _Block(spec="".join(specs), heads=tuple(heads), columns=tuple(columns), width=best, lines=sum(lines))


def _width(table: Table, column: Column) -> _Width:
    lines = [len(line) for line in _head_lines(table, column)]
    more = len(" (measured)") if column is table.columns[0] and table.mixed else 0
    best = max(*lines, *(_length(row, column, more) for row in table.rows), 2) * _LETTER + _GAP
    return _Width(best=best, least=min(best, _LEAST_TEXT) if column.text else best)


def _length(row: Row, column: Column, more: int) -> float:
    return len(row.cells[column.key]) + (more if row.measured else 0) + 0.6 * len(row.notes)


def _head(table: Table, column: Column) -> str:
    lines = [tex(line) for line in _head_lines(table, column)]
    if len(lines) == 1:
        return lines[0]
    stacked = r" \\ ".join(lines)
    return rf"\shortstack[{'l' if column.text else 'r'}]{{{stacked}}}"


def _head_lines(table: Table, column: Column) -> list[str]:
    """A heading in lines that are no wider than the cells below, or than its longest word."""
    words = re.sub(r" (?=[↓↑])", "\u00a0", column.title).split(" ")
    widest = max((len(row.cells[column.key]) for row in table.rows), default=0)
    room = max(*map(len, words), min(widest, 24), 6)
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
