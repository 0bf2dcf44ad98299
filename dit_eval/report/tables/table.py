"""What a table is: columns, rows, notes, best cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from dit_eval.metrics.metric import Metric
from dit_eval.paper import load_notes
from dit_eval.report.points import PAPERS_METRICS
from dit_eval.report.sampling import UNITS
from dit_eval.report.tables.significance import RULE, Cell, is_known, told_apart
from dit_eval.report.words import better_arrow, steps_text
from dit_eval.results.eval_result import PROTOCOL

DASH = "-"
PAPER_TITLE = "Peebles and Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748v2"
_METRIC_DECIMALS = 2  # of every metric that the paper prints
BLOCKS = {"adaln": "adaLN", "adaln-zero": "adaLN-Zero"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its key in the rows, its heading, and which of its values is best, "min", "max" or none.

    Attributes
    ----------
    setting : says how something was made; a page need not show it where all rows say the same
    """

    key: str
    title: str
    best: str | None = None
    text: bool = False
    setting: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of texts as they are printed, by column key.

    Attributes
    ----------
    source : where its numbers come from
    measured : by the user, not published
    values : numbers in full, by column key, where the text is rounded or holds more than the number; what stands
        beside a number goes by its key and what it is, such as "fid_standard_error"
    part : rows of one part stand between two rules in print
    group : best values are sought among the rows of one group, published and measured ones apart
    notes : numbers of the table's notes that are on this row
    result : number of the user's result that it shows
    """

    cells: dict[str, str]
    source: str
    measured: bool = False
    values: Mapping[str, float | str] = field(default_factory=dict)
    part: str = ""
    group: str = ""
    notes: tuple[int, ...] = ()
    result: int | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its notes.

    Attributes
    ----------
    name : file name without ending, such as "table2"
    title, about : caption, and a sentence on conditions and sources
    notes : texts, marked a, b, c in their order
    significance : whether a measured number is bold only where it is significantly better than all others, in columns
        that say how far their numbers vary
    best, ties : cells to print bold, and those that are not told apart from the best
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: str = ""
    notes: tuple[str, ...] = ()
    significance: bool = False
    best: frozenset[Cell] = field(init=False)
    ties: frozenset[Cell] = field(init=False)

    def __post_init__(self) -> None:
        best, ties = {*_best_cells(self.rows, self.columns)}, set[Cell]()
        if self.significance:
            known = [column for column in self.columns if is_known(self.rows, [column])]
            keys = {column.key for column in known}
            best = {cell for cell in best if cell[1] not in keys or not self.rows[cell[0]].measured}
            found = dict(told_apart(self.rows, known))
            best |= {cell for cell, alone in found.items() if alone}
            ties |= {cell for cell, alone in found.items() if not alone}
        object.__setattr__(self, "best", frozenset(best))
        object.__setattr__(self, "ties", frozenset(ties))

    @property
    def mixed(self) -> bool:
        """Whether measured rows stand beside others, and so need a mark."""
        return len({row.measured for row in self.rows}) > 1

    def judged(self) -> Table:
        """The same with `significance`, which it says below; itself where no number says how far it varies."""
        if not is_known(self.rows, self.columns):
            return self
        spread = about_spread(self.rows)
        said = [self.about, "" if spread in self.about else spread, RULE]
        return replace(self, significance=True, about=" ".join(text for text in said if text))

    def general_notes(self) -> list[int]:
        """Numbers of the notes that are on the whole table."""
        on_rows = {number for row in self.rows for number in row.notes}
        return [number for number in range(len(self.notes)) if number not in on_rows]


def metric_columns(metrics: Iterable[Metric] = PAPERS_METRICS, *, best: bool = True) -> tuple[Column, ...]:
    extreme = {"lower": "min", "higher": "max"}
    return tuple(
        Column(key=m.key, title=f"{m.label} {better_arrow(m.better)}", best=extreme[m.better] if best else None)
        for m in metrics
    )


def metric_cells(row: dict[str, Any], *, decimals: int = _METRIC_DECIMALS) -> dict[str, str]:
    """Each metric of the paper, with what stands behind ± where the point has it."""
    keys = [metric.key for metric in PAPERS_METRICS]
    return {key: with_spread(number_text(row[key], decimals), row, key, decimals) for key in keys}


def run_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """What a measured point is of: model, training, sampling, guidance."""
    block = "" if row["block"] in (None, "adaln-zero") else f" {BLOCKS.get(row['block'], row['block'])}"
    return {
        "model": f"{row['model']}{block}" or DASH,
        "training_steps": DASH if missing(row["training_steps"]) else steps_text(row["training_steps"]),
        "sampling": sampling_cells(row, with_evaluations=False)["sampling"],
        "cfg_scale": number_text(row["cfg_scale"], 2),
    }


def with_spread(text: str, row: Mapping[str, Any], key: str, decimals: int) -> str:
    """A number with its standard deviation over seeds, or else its standard error, behind ±; alone without both."""
    spread = row.get(f"{key}_sd")
    spread = row.get(f"{key}_error") if missing(spread) else spread
    return text if missing(spread) else f"{text} ± {small_number(spread, decimals)}"


def about_spread(rows: Iterable[Row]) -> str:
    """What stands behind ± in these rows; empty if nothing does."""
    rows = [*rows]
    of_seeds = any(name.endswith("_sd") for row in rows for name in row.values)
    of_images = any(" ± " in cell for row in rows for cell in row.cells.values()) and any(
        name.endswith("_standard_error") and f"{name.removesuffix('_standard_error')}_sd" not in row.values
        for row in rows
        for name in row.values
    )
    said = []
    if of_seeds:
        said.append("Of a × b seeds (a trainings, each sampled with b): the mean ± the standard deviation.")
    if of_images:
        said.append(f"Behind ±{' of one seed' if of_seeds else ''}: the standard error over draws of N images.")
    return " ".join(said)


def metric_values(row: dict[str, Any], metrics: Iterable[Metric] = PAPERS_METRICS) -> dict[str, float | str]:
    """The same in full, with standard error, interval and spread over seeds where the point has them."""
    parts = {
        "": "",
        "_error": "_standard_error",
        "_low": "_low",
        "_high": "_high",
        "_sd": "_sd",
        "_degrees": "_degrees",
    }
    keys = {f"{metric.key}{mine}": f"{metric.key}{shown}" for metric in metrics for mine, shown in parts.items()}
    return {shown: row[key] for key, shown in keys.items() if not missing(row.get(key))}


def with_notes(
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
        marked.append(replace(row, notes=tuple(order.index(text) for text in texts)))
    order += [note.text for note in mine.itertuples() if not note.rows]
    return Table(name=name, title=title, columns=columns, rows=tuple(marked), about=about, notes=tuple(order))


def row_texts(row: dict[str, str], columns: Iterable[Column], more: dict[str, str] | None = None) -> dict[str, str]:
    """The printed cells of a published row; a dash where the paper prints one."""
    cells = row | (more or {})
    return {column.key: cells[column.key] or DASH for column in columns}


def left_apart(measured: pd.DataFrame) -> str:
    """A sentence on results of ADM's network that are not as published, which tables of the paper do not take."""
    out = sum(str(protocol).startswith(PROTOCOL) and protocol != PROTOCOL for protocol in measured["protocol"])
    if not out:
        return ""
    return (
        f"{out} measured result{' is' if out == 1 else 's are'} not known to be of the published protocol, weights and "
        "reference; see the measured results."
    )


def _best_cells(rows: tuple[Row, ...], columns: tuple[Column, ...]) -> Iterable[tuple[int, str]]:
    for column in (column for column in columns if column.best is not None):
        values: dict[tuple[bool, str], list[tuple[float, int]]] = {}  # published rows keep their own best
        for index, row in enumerate(rows):
            if row.cells[column.key] != DASH:
                values.setdefault((row.measured, row.group), []).append(
                    (float(row.cells[column.key].split(" ± ")[0]), index)
                )
        for group in values.values():
            best = (min if column.best == "min" else max)(value for value, _ in group)
            yield from ((index, column.key) for value, index in group if value == best and len(group) > 1)


def sampling_cells(row: Mapping[str, Any], *, with_evaluations: bool) -> dict[str, str]:
    """How images were drawn: sampler and steps; evaluations of the network, if asked for; what the weights learned."""
    steps = "" if missing(row["sampling_steps"]) else f" {row['sampling_steps']:.0f}"
    name, comma, guidance = (row["sampler"] or "").partition(",")
    nfe = row["sampling_steps"] if missing(row["evaluations"]) else row["evaluations"]
    return {
        "sampling": DASH if missing(row["sampler"]) else f"{name.upper()}{steps}{comma}{guidance}",
        "nfe": DASH if missing(nfe) or not with_evaluations else f"{nfe:.4g}",
        "objective": row["objective"] or DASH,
    }


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number_text(value: Any, decimals: int) -> str:
    return DASH if missing(value) else f"{value:.{decimals}f}"


def small_number(value: Any, decimals: int) -> str:
    """As `number_text`, with two digits that say something where it would have fewer."""
    if missing(value) or value <= 0 or round(value, decimals) >= 10 ** (1 - decimals):
        return number_text(value, decimals)
    return number_text(value, 1 - math.floor(math.log10(value)))


def compute_cell(tflops: float, unit: str) -> str:
    return f"{tflops * UNITS[unit]:.3g}"
