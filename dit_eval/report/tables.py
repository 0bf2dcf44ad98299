"""The tables of the paper with measured rows beside them, and those of the analysis; as Markdown, LaTeX, CSV and HTML.

Published cells are printed as the paper prints them. Measured rows are marked, and rounded as the column is. Gflops and
parameters are counted when the table is made; what the paper prints for them stands beside the count.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dit_eval.flops.kept import count_named
from dit_eval.paper import load_later, load_notes, load_statements, load_table
from dit_eval.report.law import LEAST_MODELS, Law
from dit_eval.report.points import METRICS, WITNESSES
from dit_eval.report.sampling import (
    UNITS,
    PairVerdict,
    compare_pairs,
    compute_for_target,
    correlation,
    pareto_front,
    targets,
    unit_for,
)
from dit_eval.report.setting import Setting, comparable, select
from dit_eval.report.words import fid_label, steps_text
from dit_eval.results.eval_result import NOT_PUBLISHED, PROTOCOL

DASH = "-"
PAPER_TITLE = "Peebles and Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748v2"
_DECIMALS = {"fid": 2, "sfid": 2, "inception_score": 2, "precision": 2, "recall": 2}
_BLOCKS = {"adaln": "adaLN", "adaln-zero": "adaLN-Zero"}
# Row of a figure's statement -> what our count says of it: model, image size, block.
_COUNTED_STATEMENTS = {
    "gflops-xl2-256": ("DiT-XL/2", 256, None),
    "gflops-xl2-512": ("DiT-XL/2", 512, None),
    "gflops-ldm4": ("LDM-4", None, None),
    "gflops-adm-256": ("ADM-256", None, None),
    "gflops-adm-512": ("ADM-512", None, None),
    "block-in-context": ("DiT-XL/2", 256, "in-context"),
    "block-cross-attention": ("DiT-XL/2", 256, "cross-attention"),
    "block-adaln": ("DiT-XL/2", 256, "adaln"),
    "block-adaln-zero": ("DiT-XL/2", 256, "adaln-zero"),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its key in the rows, its heading, and which of its values is best, "min", "max" or none."""

    key: str
    title: str
    best: str | None = None
    text: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of texts as they are printed, by column key.

    Attributes
    ----------
    source : where its numbers come from
    measured : by the user, not published
    group : best values are sought among the rows of one group, published and measured ones apart
    notes : numbers of the table's notes that are on this row
    """

    cells: dict[str, str]
    source: str
    measured: bool = False
    group: str = ""
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its notes.

    Attributes
    ----------
    name : file name without ending, such as "table2"
    title, about : caption, and a sentence on conditions and sources
    notes : texts, marked a, b, c in their order
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: str = ""
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "best", frozenset(_best_cells(self.rows, self.columns)))

    @property
    def mixed(self) -> bool:
        """Whether measured rows stand beside others, and so need a mark."""
        return len({row.measured for row in self.rows}) > 1

    def general_notes(self) -> list[int]:
        """Numbers of the notes that are on the whole table."""
        on_rows = {number for row in self.rows for number in row.notes}
        return [number for number in range(len(self.notes)) if number not in on_rows]


def paper_tables(points: pd.DataFrame) -> list[Table]:
    """Tables 1 to 6, with the measured points that were made as their rows were.

    Parameters
    ----------
    points : see `data`; the published ones are not needed
    """
    measured = select(points, source="measured")
    measured = measured[measured["fid"].notna()]
    apart = {size: _left_apart(select(measured, image_size=size)) for size in (256, 512, (256, 512))}
    measured = comparable(measured)
    return [
        _table1(),
        _metrics_table(2, "ImageNet 256x256, class-conditional", select(measured, image_size=256), apart[256]),
        _metrics_table(3, "ImageNet 512x512, class-conditional", select(measured, image_size=512), apart[512]),
        _table4(measured, apart[256, 512]),
        _table5(measured),
        _table6(),
    ]


def measured_table(points: pd.DataFrame) -> Table:
    """Every measured result with how it was made, in the order of the file."""
    columns = (
        Column(key="model", title="Model or file", text=True),
        Column(key="image_size", title="Pixels"),
        Column(key="training_steps", title="Training steps"),
        Column(key="sampling", title="Sampling", text=True),
        Column(key="cfg_scale", title="Guidance"),
        Column(key="decoder", title="Decoder", text=True),
        Column(key="seed", title="Seed"),
        Column(key="num_samples", title="N"),
        *_metric_columns(best=False),
        Column(key="fid_infinity", title="FID at infinite N ↓"),
        *_metric_columns(WITNESSES, best=False),
        Column(key="gflops", title="Gflops"),
        Column(key="params_m", title="Params (M)"),
        Column(key="protocol", title="Protocol", text=True),
        Column(key="badge", title="As published", text=True),
    )
    rows = []
    for row in select(points, source="measured").to_dict("records"):
        steps = "" if _missing(row["sampling_steps"]) else f" {row['sampling_steps']:.0f}"
        sampling = DASH if _missing(row["sampler"]) else f"{row['sampler'].upper()}{steps}"
        cells = _metric_cells(row, digits=3) | {
            "model": row["model"] + ("" if row["block"] in (None, "adaln-zero") else f" {row['block']}"),
            "sampling": sampling,
            "cfg_scale": _number(row["cfg_scale"], 2),
            "decoder": row["decoder"] or DASH,
            "fid_infinity": _number(row["fid_infinity"], 3),
            **{key: _small_number(row[key], 3) for key in WITNESSES},
            "gflops": _small_number(row["gflops"], 3),
            "params_m": _small_number(row["params_m"], 2),
            "protocol": row["protocol"] or DASH,
            "badge": _as_published(row),
        }
        cells |= {k: _number(row[k], 0) for k in ("image_size", "training_steps", "seed", "num_samples")}
        rows.append(Row(cells=cells, source=row["origin"], measured=True))
    about = "Numbers of different N, protocol or reference do not compare. Gflops and parameters are counted."
    if any(" ± " in row.cells[key] for row in rows for key in METRICS):
        about += " Behind ±: the standard error over draws of N images."
    columns = tuple(c for c in columns if c.key == "model" or any(row.cells[c.key] != DASH for row in rows))
    return Table(name="measured", title="Measured results", columns=columns, rows=tuple(rows), about=about)


def stated_table(setting: Setting) -> Table:
    """What text and captions of the paper state in numbers, and the same computed here."""
    statements = load_statements()
    computed: dict[str, str] = {}
    for name, (model, image_size, block) in _COUNTED_STATEMENTS.items():
        computed[name] = f"{count_named(model, image_size, block).gflops:.2f}"
    for name, image_size in (("gflops-admu-256", 256), ("gflops-admu-512", 512)):
        base, upsampler = (load_table(6).query(f"model == 'ADM-U' and image_size == {image_size}").iloc[0][k]
                           for k in ("base", "upsampler"))  # fmt: skip
        computed[name] = f"{count_named(base).gflops + count_named(upsampler).gflops:.2f}"
    sampling = {}
    for name, key in (("fig10-l2-compute", "DiT-L/2"), ("fig10-xl2-compute", "DiT-XL/2")):
        sampling[key] = count_named(key, 256).gflops * statements.loc[name, "sampling_steps"] / 1000
        computed[name] = f"{sampling[key]:.2f}"
    computed["fig10-ratio"] = f"{sampling['DiT-L/2'] / sampling['DiT-XL/2']:.2f}"
    published = select(setting.scaling, source="paper", origin="Table 4", block="adaln-zero", training_steps=400_000.0)
    fit = correlation(published["gflops"], published["fid"])
    computed["correlation"] = "" if fit is None else f"{fit[0]:.5f}"
    gflops = {b: count_named("DiT-XL/2", 256, b).gflops for b in ("in-context", "cross-attention")}
    computed["block-overhead"] = f"{100 * (gflops['cross-attention'] / gflops['in-context'] - 1):.1f}"
    printed = load_statements(printed=True)["value"]
    rows = []
    for name, row in statements.iterrows():
        subject = " ".join(part for part in (row["model"], _BLOCKS.get(row["block"], row["block"])) if part)
        details = [subject] if subject else []
        if not math.isnan(row["image_size"]) and row["quantity"] == "Gflops":
            details.append(f"{row['image_size']:.0f} px")
        if not math.isnan(row["training_steps_k"]) and row["quantity"].startswith("FID"):
            details.append(f"{row['training_steps_k']:.0f}K training steps")
        if not math.isnan(row["sampling_steps"]) and row["sampling_steps"] != 250:
            details.append(f"{row['sampling_steps']:.0f} sampling steps")
        if row["cfg_scale"] > 1:
            details.append(f"guidance {row['cfg_scale']:g} on {row['cfg_channels']:.0f} channels")
        unit = f" {row['unit']}" if row["unit"] else ""
        cells = {
            "quantity": row["quantity"],
            "of": ", ".join(details) or DASH,
            "printed": printed[str(name)] + unit,
            "computed": computed.get(str(name), DASH),
            "note": row["note"] or DASH,
        }
        rows.append(Row(cells=cells, source=row["source"].removeprefix("arXiv 2212.09748v2, ")))
    columns = (
        Column(key="quantity", title="Quantity", text=True),
        Column(key="of", title="Of", text=True),
        Column(key="printed", title="Printed"),
        Column(key="computed", title="Computed here"),
        Column(key="note", title="Note", text=True),
    )
    about = "A dash stands where the number needs a training or samples, which a report does not make."
    return Table(name="stated", title="Numbers of text and captions", columns=columns, rows=tuple(rows), about=about)


def later_tables() -> list[Table]:
    """Results of later papers at 256 px and at 512 px, as their sources state them."""
    later = load_later()
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="params_m", title="Params (M)"),
        Column(key="training", title="Training", text=True),
        Column(key="sampling", title="Sampling", text=True),
        Column(key="guidance", title="Guidance", text=True),
        *_metric_columns(),
    )
    made = []
    for image_size in (256, 512):
        notes: list[str] = []
        rows = []
        for row in later[later["image_size"] == image_size].to_dict("records"):
            cells = _metric_cells(row) | {k: row[k] or DASH for k in ("model", "training", "sampling", "guidance")}
            cells["params_m"] = _number(row["params_m"], 0)
            marks: tuple[int, ...] = ()
            if row["note"]:
                text = row["note"][0].upper() + row["note"][1:] + "."
                notes += [] if text in notes else [text]
                marks = (notes.index(text),)
            rows.append(Row(cells=cells, source=row["source"], notes=marks))
        made.append(
            Table(
                name=f"later-{image_size}",
                title=f"Later results, ImageNet {image_size}x{image_size}",
                columns=columns,
                rows=tuple(rows),
                about="As the sources state them, which name the same protocol; not of the DiT paper, not measured "
                "here. A dash: not found in the source.",
                notes=tuple(notes),
            )
        )
    return made


def sampling_tables(setting: Setting) -> list[Table]:
    """Sampling against model compute: pairs of models, the Pareto front, the compute for a target FID."""
    points = setting.sweep
    label = fid_label(setting.sweep_samples)
    unit = unit_for(points["sampling_tflops"].max())
    return [
        _pairs_table(compare_pairs(points), label, unit),
        _front_table(points, label, unit),
        _targets_table(points, label, unit),
    ]


def law_tables(laws: Iterable[Law]) -> list[Table]:
    """Correlation and order of each source of points; then every exception, if there is any."""
    columns = (
        Column(key="question", title="Question", text=True),
        Column(key="where", title="Where", text=True),
        Column(key="result", title="Result"),
        Column(key="of", title="Of", text=True),
    )
    others = (
        Column(key="question", title="Question", text=True),
        Column(key="better", title="Should have the lower FID", text=True),
        Column(key="better_fid", title="FID"),
        Column(key="worse", title="Than", text=True),
        Column(key="worse_fid", title="FID"),
        Column(key="conditions", title="Both", text=True),
    )
    rows: list[Row] = []
    exceptions: list[Row] = []
    for law in laws:
        source, is_measured = f"computed, {law.source} points", law.source == "measured"
        for c in law.correlations:
            cells = {
                "question": "r of ln Gflops and FID",
                "where": f"{steps_text(c.training_steps)} training steps",
                "result": DASH if c.r is None else f"{c.r:.3f}",
                "of": f"{c.models} model{'' if c.models == 1 else 's'}",
            }
            rows.append(Row(cells=cells, source=source, measured=is_measured))
        for question, noun, order in (
            ("Larger size, lower FID", "", law.sizes),
            ("Smaller patch, lower FID", "patch size ", law.patches),
            ("Longer training, lower FID", "training steps ", law.training),
        ):
            for step, part in order.by_step().items():
                count = {"result": f"{part.held}", "of": f"{part.total} pair{'' if part.total == 1 else 's'}"}
                rows.append(
                    Row(
                        cells={"question": question, "where": noun + step, **count}, source=source, measured=is_measured
                    )
                )
            for pair in order.exceptions:
                cells = {
                    "question": question,
                    "better": f"{pair.second}, {steps_text(pair.second_steps)} training steps",
                    "better_fid": f"{pair.second_fid:.2f}",
                    "worse": f"{pair.first}, {steps_text(pair.first_steps)} training steps",
                    "worse_fid": f"{pair.first_fid:.2f}",
                    "conditions": ", ".join(pair.conditions) or DASH,
                }
                exceptions.append(Row(cells=cells, source=source, measured=is_measured))
    about = (
        "Pairs of points that differ in nothing but what is asked; result: how many of them hold. A tie does not. r "
        f"needs {LEAST_MODELS} models; adaLN-Zero models only."
    )
    title = "Quality and compute: correlation and order"
    made = [Table(name="scaling-law", title=title, columns=columns, rows=tuple(rows), about=about)]
    if exceptions:
        title = "Quality and compute: where the order does not hold"
        made.append(Table(name="scaling-law-exceptions", title=title, columns=others, rows=tuple(exceptions)))
    return made


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


def _metric_columns(metrics: Mapping[str, tuple[str, str]] = METRICS, *, best: bool = True) -> tuple[Column, ...]:
    return tuple(
        Column(key=key, title=f"{title} {'↓' if way == 'min' else '↑'}", best=way if best else None)
        for key, (title, way) in metrics.items()
    )


def _metric_cells(row: dict[str, Any], *, digits: int = 0) -> dict[str, str]:
    """Each metric, with its standard error behind ± where the point has one."""
    cells = {}
    for key in METRICS:
        decimals = max(_DECIMALS[key], digits)
        cells[key] = _number(row[key], decimals)
        if not _missing(row.get(f"{key}_error")):
            cells[key] += f" ± {_small_number(row[f'{key}_error'], decimals)}"
    return cells


def _table1() -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="layers", title="Layers N"),
        Column(key="hidden_size", title="Hidden size d"),
        Column(key="heads", title="Heads"),
        Column(key="gflops", title="Gflops (I=32, p=4)"),
        Column(key="counted", title="counted"),
    )
    rows = []
    for row in load_table(1, printed=True).to_dict("records"):
        counted = {"counted": f"{count_named(row['model'] + '/4', 256).gflops:.2f}"}
        rows.append((row["model"], Row(cells=_texts(row, columns, counted), source="paper, Table 1")))
    return _with_notes("table1", "Table 1. DiT configurations", columns, rows, about=_COUNTED)


def _metrics_table(number: int, title: str, measured: pd.DataFrame, apart: str = "") -> Table:
    columns = (Column(key="model", title="Model", text=True), *_metric_columns())
    rows = [
        (row["model"], Row(cells=_texts(row, columns), source=f"paper, Table {number}"))
        for row in load_table(number, printed=True).to_dict("records")
    ]
    kept, about = _fifty_thousand(measured)
    for row in kept.to_dict("records"):
        cells = _metric_cells(row) | {"model": _run_name(row)}
        rows.append(("", Row(cells=cells, source=row["origin"], measured=True)))
    return _with_notes(f"table{number}", f"Table {number}. {title}", columns, rows, about=f"{about} {apart}".strip())


def _table4(measured: pd.DataFrame, apart: str = "") -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="image_size", title="Image Resolution", text=True),
        Column(key="gflops", title="Flops (G)"),
        Column(key="gflops_counted", title="counted"),
        Column(key="params_m", title="Params (M)"),
        Column(key="params_counted", title="counted"),
        Column(key="training_steps_k", title="Training Steps (K)"),
        Column(key="batch_size", title="Batch Size"),
        Column(key="learning_rate", title="Learning Rate"),
        Column(key="block", title="DiT Block", text=True),
        Column(key="fid_50k", title="FID-50K (no guidance) ↓", best="min"),
    )
    rows = []
    for row in load_table(4, printed=True).to_dict("records"):
        count = count_named(row["model"], int(row["image_size"]), row["block"])
        cells = _texts(
            row,
            columns,
            {
                "image_size": f"{row['image_size']}x{row['image_size']}",
                "block": _BLOCKS.get(row["block"], row["block"]),
                "gflops_counted": f"{count.gflops:.2f}",
                "params_counted": f"{count.params_m:.0f}",
            },
        )
        key = f"{row['model']} {row['image_size']} {row['training_steps_k']}K {row['block']}"
        rows.append((key, Row(cells=cells, source="paper, Table 4", group=row["image_size"])))
    unguided = select(measured, cfg_scale=1.0, sampler="ddpm", sampling_steps=250)
    kept, about = _fifty_thousand(unguided[unguided["gflops"].notna()])
    for row in kept.to_dict("records"):
        cells = {
            "model": row["model"],
            "image_size": "{0:.0f}x{0:.0f}".format(row["image_size"]),
            "gflops": DASH,
            "gflops_counted": _small_number(row["gflops"], 2),
            "params_m": DASH,
            "params_counted": _small_number(row["params_m"], 0),
            "training_steps_k": DASH if _missing(row["training_steps"]) else f"{row['training_steps'] / 1000:g}",
            "batch_size": _number(row["batch_size"], 0),
            "learning_rate": DASH,
            "block": _BLOCKS.get(row["block"], row["block"]) or DASH,
            "fid_50k": _number(row["fid"], 2),
        }
        rows.append(("", Row(cells=cells, source=row["origin"], measured=True, group=f"{row['image_size']:.0f}")))
    about = f"{about} {apart}".strip() + f" {_COUNTED} Best values are sought at each resolution."
    return _with_notes("table4", "Table 4. Every DiT model", columns, rows, about=about.strip())


def _table5(measured: pd.DataFrame) -> Table:
    columns = (Column(key="decoder", title="Decoder", text=True), *_metric_columns())
    rows = [
        (row["decoder"], Row(cells=_texts(row, columns), source="paper, Table 5"))
        for row in load_table(5, printed=True).to_dict("records")
    ]
    same = select(measured, model="DiT-XL/2", image_size=256, cfg_scale=1.5, sampler="ddpm", sampling_steps=250)
    kept, about = _fifty_thousand(same[same["decoder"].notna()])
    for row in kept.to_dict("records"):
        rows.append(
            ("", Row(cells=_metric_cells(row) | {"decoder": row["decoder"]}, source=row["origin"], measured=True))
        )
    title = "Table 5. Decoder ablation, ImageNet 256x256, DiT-XL/2-G (cfg=1.5)"
    return _with_notes("table5", title, columns, rows, about=about)


def _table6() -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="image_size", title="Image Resolution", text=True),
        Column(key="base_gflops", title="Base Flops (G)"),
        Column(key="upsampler_gflops", title="Upsampler Flops (G)"),
        Column(key="total_gflops", title="Total Flops (G)"),
        Column(key="counted", title="counted"),
        Column(key="params", title="Params (M), counted"),
    )
    rows = []
    for row in load_table(6, printed=True).to_dict("records"):
        counts = [count_named(row[part]) for part in ("base", "upsampler") if row[part]]
        more = {
            "image_size": f"{row['image_size']}x{row['image_size']}",
            "counted": f"{sum(c.gflops for c in counts):.2f}",
            "params": f"{sum(c.params_m for c in counts):.1f}",
        }
        rows.append((row["model"], Row(cells=_texts(row, columns, more), source="paper, Table 6")))
    return _with_notes("table6", "Table 6. Gflops of diffusion U-Nets (denoising network only)", columns, rows,
                       about=_COUNTED)  # fmt: skip


_COUNTED = (
    'Columns headed "counted" are not of the paper: they were counted when this table was made (multiply-adds and one '
    "for each normalised element; trainable parameters)."
)


def _pairs_table(verdicts: list[PairVerdict], label: str, unit: str) -> Table:
    columns = (
        Column(key="small", title="Smaller model", text=True),
        Column(key="large", title="Larger model", text=True),
        Column(key="small_best", title=f"Smaller, best {label}"),
        Column(key="large_best", title=f"Larger, best {label}"),
        Column(key="reaches", title="Smaller reaches larger", text=True),
        Column(key="ahead_until", title=f"Smaller ahead up to ({unit})"),
        Column(key="overtaken_at", title=f"Larger beats its best from ({unit})"),
        Column(key="saving", title="times less"),
        Column(key="points", title="Points", text=True),
    )
    rows = [
        Row(
            cells={
                "small": v.small,
                "large": v.large,
                "small_best": f"{v.small_best:.2f}",
                "large_best": f"{v.large_best:.2f}",
                "reaches": "yes" if v.reaches else "never",
                "ahead_until": "nowhere" if v.ahead_until is None else _compute(v.ahead_until, unit),
                "overtaken_at": DASH if v.overtaken_at is None else _compute(v.overtaken_at, unit),
                "saving": DASH if v.saving is None else f"{v.saving:.1f}",
                "points": f"{v.small_points} and {v.large_points}",
            },
            source=f"computed, {v.source} points",
            measured=v.source == "measured",
        )
        for v in verdicts
    ]
    about = (
        "Of the points evaluated, nothing interpolated. Sampling compute is Gflops x steps for one image, guidance not "
        "counted. Where a model has one point, the verdict rests on it."
    )
    title = "Sampling against model compute: pairs of models at equal sampling compute"
    return Table(name="sampling-pairs", title=title, columns=columns, rows=tuple(rows), about=about)


def _front_table(points: pd.DataFrame, label: str, unit: str) -> Table:
    columns = (
        Column(key="model", title="Model", text=True),
        Column(key="steps", title="Sampling steps"),
        Column(key="tflops", title=f"{unit} per image"),
        Column(key="fid", title=f"{label} ↓"),
    )
    rows = [
        Row(
            cells={
                "model": row["model"],
                "steps": f"{row['sampling_steps']:.0f}",
                "tflops": _compute(row["sampling_tflops"], unit),
                "fid": f"{row['fid']:.2f}",
            },
            source="paper, text on Figure 10" if row["source"] == "paper" else row["origin"],
            measured=row["source"] == "measured",
        )
        for row in pareto_front(points).to_dict("records")
    ]
    title = "Pareto front: no other point of the same source is cheaper and better"
    return Table(name="sampling-front", title=title, columns=columns, rows=tuple(rows))


def _targets_table(points: pd.DataFrame, label: str, unit: str) -> Table:
    columns = (
        Column(key="target", title=f"Target {label}"),
        Column(key="model", title="Model", text=True),
        Column(key="tflops", title=f"{unit} per image"),
        Column(key="steps", title="Sampling steps"),
        Column(key="fid", title=f"{label} there"),
        Column(key="best_fid", title=f"Best {label}"),
        Column(key="points", title="Points"),
    )
    rows = []
    for source, target in ((s, t) for s in ("paper", "measured") for t in targets(select(points, source=s))):
        for row in compute_for_target(select(points, source=source), target).to_dict("records"):
            reached = not math.isnan(row["tflops"])
            rows.append(
                Row(
                    cells={
                        "target": f"{target:.2f}",
                        "model": row["model"],
                        "tflops": _compute(row["tflops"], unit) if reached else "not reached",
                        "steps": _number(row["sampling_steps"], 0),
                        "fid": _number(row["fid"], 2),
                        "best_fid": f"{row['best_fid']:.2f}",
                        "points": f"{row['points']}",
                    },
                    source=f"computed, {row['source']} points",
                    measured=row["source"] == "measured",
                )
            )
    title = "Sampling compute for a target FID: the best of each model as target"
    return Table(name="sampling-targets", title=title, columns=columns, rows=tuple(rows))


def _with_notes(
    name: str, title: str, columns: tuple[Column, ...], rows: Iterable[tuple[str, Row]], *, about: str = ""
) -> Table:
    """Give each row (with its key in the notes) the marks of its notes, numbered in the order of the rows."""
    rows = list(rows)
    mine = load_notes()
    mine = mine[mine["elements"].map(lambda elements: name in elements.split())]
    order: list[str] = []
    marked = []
    for key, row in rows:
        texts = [note.text for note in mine.itertuples() if key and key in note.rows.split("|")]
        order += [text for text in texts if text not in order]
        marked.append(
            Row(
                cells=row.cells,
                source=row.source,
                measured=row.measured,
                group=row.group,
                notes=tuple(order.index(text) for text in texts),
            )
        )
    order += [note.text for note in mine.itertuples() if not note.rows]
    return Table(name=name, title=title, columns=columns, rows=tuple(marked), about=about, notes=tuple(order))


def _texts(row: dict[str, str], columns: Iterable[Column], more: dict[str, str] | None = None) -> dict[str, str]:
    """The printed cells of a published row; a dash where the paper prints one."""
    cells = row | (more or {})
    return {column.key: cells[column.key] or DASH for column in columns}


def _fifty_thousand(measured: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The points with the paper's N, and a sentence on those left out."""
    kept = measured[measured["num_samples"] == 50_000]
    out = len(measured) - len(kept)
    if not out:
        return kept, ""
    one = out == 1
    return (
        kept,
        f"{out} measured result{'' if one else 's'} of other than 50,000 samples {'is' if one else 'are'} left out.",
    )


def _as_published(row: dict[str, Any]) -> str:
    """The parts of a badge that are as published; what is not stands in the protocol and in N, beside it."""
    if not str(row["protocol"]).startswith(PROTOCOL):
        return DASH
    return "not known" if _missing(row["badge"]) else str(row["badge"]).partition(NOT_PUBLISHED)[0]


def _left_apart(measured: pd.DataFrame) -> str:
    """A sentence on results of ADM's network that are not as published, which tables of the paper do not take."""
    out = sum(str(protocol).startswith(PROTOCOL) and protocol != PROTOCOL for protocol in measured["protocol"])
    if not out:
        return ""
    return (
        f"{out} measured result{' is' if out == 1 else 's are'} not known to be of the published protocol, weights and "
        "reference; see the measured results."
    )


def _run_name(row: dict[str, Any]) -> str:
    """A measured run as the paper would name it: DiT-XL/2-G (cfg=1.50), with what differs from its protocol."""
    name = str(row["model"])
    if not _missing(row["cfg_scale"]) and row["cfg_scale"] != 1.0:
        name += f"-G (cfg={row['cfg_scale']:.2f})"
    if row["block"] not in (None, "adaln-zero"):
        name += f", {_BLOCKS.get(row['block'], row['block'])}"
    if row["decoder"] not in (None, "ft-EMA"):
        name += f", {row['decoder']} decoder"
    if not _missing(row["training_steps"]):
        name += f", {row['training_steps'] / 1000:g}K training steps"
    if not _missing(row["sampling_steps"]) and (row["sampler"] != "ddpm" or row["sampling_steps"] != 250):
        name += f", {row['sampler'].upper()} {row['sampling_steps']:.0f} steps"
    return name


def _best_cells(rows: tuple[Row, ...], columns: tuple[Column, ...]) -> Iterable[tuple[int, str]]:
    for column in columns:
        if column.best is None:
            continue
        values: dict[tuple[bool, str], list[tuple[float, int]]] = {}  # published rows keep their own best
        for index, row in enumerate(rows):
            if row.cells[column.key] != DASH:
                values.setdefault((row.measured, row.group), []).append(
                    (float(row.cells[column.key].split(" ± ")[0]), index)
                )
        for group in values.values():
            best = (min if column.best == "min" else max)(value for value, _ in group)
            yield from ((index, column.key) for value, index in group if value == best and len(group) > 1)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, decimals: int) -> str:
    return DASH if _missing(value) else f"{value:.{decimals}f}"


def _small_number(value: Any, decimals: int) -> str:
    """As `_number`, with two digits that say something where it would have fewer."""
    if _missing(value) or value <= 0 or round(value, decimals) >= 10 ** (1 - decimals):
        return _number(value, decimals)
    return _number(value, 1 - math.floor(math.log10(value)))


def _compute(tflops: float, unit: str) -> str:
    return f"{tflops * UNITS[unit]:.3g}"


def _letter(number: int) -> str:
    return chr(ord("a") + number)


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
