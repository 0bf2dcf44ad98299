"""Tables as CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import TYPE_CHECKING

from dit_eval.report.tables.table import DASH, Column, _letter

if TYPE_CHECKING:
    from dit_eval.report.tables.table import Table


def to_markdown(table: Table) -> str:
    """GitHub's Markdown: best values bold, notes below. Of a text, nothing is taken for Markdown, HTML or a link."""
    lines = [f"**{_markdown(table.title)}**", ""]
    lines.append("| " + " | ".join(_markdown(c.title) for c in table.columns) + " |")
    lines.append("|" + "|".join(":--" if c.text else "--:" for c in table.columns) + "|")
    for index, row in enumerate(table.rows):
        cells = []
        for place, column in enumerate(table.columns):
            text = _markdown(row.cells[column.key])
            text = f"**{text}**" if (index, column.key) in table.best else text
            if place == 0:
                text = f"*{text}* (measured)" if row.measured and table.mixed else text
                text += f"<sup>{','.join(_letter(n) for n in sorted(row.notes))}</sup>" if row.notes else ""
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", _markdown(table.about)] if table.about else []
    general = set(table.general_notes())
    for number, note in enumerate(table.notes):
        text = _markdown(note)
        lines += ["", text if number in general else f"<sup>{_letter(number)}</sup> {text}"]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """A table environment; needs the packages booktabs and graphicx."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}[htbp]",
        "\\centering",
        f"\\caption{{{_tex(table.title)}. {_tex(table.about)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        "\\begin{tabular}{" + "".join("l" if c.text else "r" for c in table.columns) + "}",
        "\\toprule",
        " & ".join(_tex(c.title) for c in table.columns) + " \\\\",
        "\\midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and row.measured and not table.rows[index - 1].measured:
            lines.append("\\midrule")
        cells = []
        for place, column in enumerate(table.columns):
            text = _tex(row.cells[column.key])
            text = f"\\textbf{{{text}}}" if (index, column.key) in table.best else text
            if place == 0:
                text = f"\\textit{{{text}}} (measured)" if row.measured and table.mixed else text
                marks = ",".join(_letter(n) for n in sorted(row.notes))
                text += f"\\textsuperscript{{{marks}}}" if marks else ""
            cells.append(text)
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}"]
    general = set(table.general_notes())
    notes = [
        _tex(note) if number in general else f"\\textsuperscript{{{_letter(number)}}}~{_tex(note)}"
        for number, note in enumerate(table.notes)
    ]
    if notes:
        lines += ["", "\\medskip", "\\begin{minipage}{\\linewidth}\\footnotesize"]
        lines += ["\n\n".join(notes), "\\end{minipage}"]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """The same columns, then the source of each row and whether it was measured; an empty field for a dash.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    # A number and its standard error are two columns.
    errors = [c.key for c in table.columns if not c.text and any(" ± " in row.cells[c.key] for row in table.rows)]
    titles = ([c.title, f"{c.title} standard error"] if c.key in errors else [c.title] for c in table.columns)
    writer.writerow([*(title for pair in titles for title in pair), "Source", "Measured"])
    for row in table.rows:
        cells = []
        for column in table.columns:
            number, _, error = row.cells[column.key].partition(" ± ") if column.key in errors else (
                row.cells[column.key], "", "")  # fmt: skip
            cells += ["" if number == DASH else no_formula(number), *([error] if column.key in errors else [])]
        writer.writerow([*cells, no_formula(row.source), "yes" if row.measured else "no"])
    return target.getvalue()


def no_formula(text: str) -> str:
    """A text for a cell of a CSV file; one that a spreadsheet would run has an apostrophe before it. Numbers stay."""
    begins = {text[:1], text.lstrip()[:1]}
    return f"'{text}" if begins & _FORMULA and not _SIGNED_NUMBER.fullmatch(text) else text


def to_html(table: Table) -> str:
    """A table element whose headings are buttons, for a script that sorts, and its notes as a list."""
    head = "".join(
        f'<th scope="col" class="{"text" if c.text else "number"}"><button type="button">{html.escape(c.title)}'
        "</button></th>"
        for c in (*table.columns, Column(key="source", title="Source", text=True))
    )
    body = []
    for index, row in enumerate(table.rows):
        cells = []
        for place, column in enumerate(table.columns):
            text = html.escape(row.cells[column.key])
            text = f"<strong>{text}</strong>" if (index, column.key) in table.best else text
            if place == 0:
                links = (f'<a href="#{table.name}-{_letter(n)}">{_letter(n)}</a>' for n in sorted(row.notes))
                marks = f"<sup>{','.join(links)}</sup>" if row.notes else ""
                tag = ' <span class="tag">measured</span>' if row.measured and table.mixed else ""
                cells.append(f'<th scope="row" class="text">{text}{marks}{tag}</th>')
            else:
                cells.append(f'<td class="{"text" if column.text else "number"}">{text}</td>')
        cells.append(f'<td class="source">{html.escape(row.source)}</td>')
        start = '<tr class="measured">' if row.measured and table.mixed else "<tr>"
        body.append(f"{start}{''.join(cells)}</tr>")
    general = set(table.general_notes())
    notes = "".join(
        f"<li>{html.escape(note)}</li>"
        if number in general
        else f'<li id="{table.name}-{_letter(number)}"><sup>{_letter(number)}</sup> {html.escape(note)}</li>'
        for number, note in enumerate(table.notes)
    )
    return (
        f'<div class="scroll"><table class="sortable" id="{table.name}">'
        f"<caption><span>{html.escape(table.title)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table></div>\n"
        f'<p class="about">{html.escape(table.about)}</p>' + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


# What spreadsheets take for the beginning of a formula: four signs, their wide forms, and spaces that they drop.
_FORMULA = frozenset("=+-@＝＋－＠\t\r\n")
_SIGNED_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# What means something inside a line of GitHub's Markdown; of addresses that it makes links of, a sign that they need.
_MARKS = re.compile(r"[\\`*_\[\]<>&|~@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def _markdown(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", text)


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
}


def _tex(text: str) -> str:
    """Text for LaTeX; characters outside ASCII that it does not know become "?".

    A row may begin with it: a bracket or a star there would belong to the command that ended the row before.
    """
    escaped = ("{}" if text.lstrip()[:1] in ("[", "*") else "") + "".join(_TEX.get(c, c) for c in text)
    return escaped.encode("ascii", "replace").decode()
