"""The paper's published numbers, as data. Nothing here is measured; see README.md beside this file for the columns."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

_FOLDER = Path(__file__).parent
_TEXT = {
    *("model", "block", "base", "upsampler", "decoder", "source", "note"),
    *("name", "quantity", "unit", "elements", "rows", "text", "training", "sampling", "guidance"),
}

# The metrics of Tables 2, 3 and 5: columns of the files, and attributes of a result.
PRINTED_METRICS = ("fid", "sfid", "inception_score", "precision", "recall")
GFLOPS_DECIMALS = {1: 1, 4: 2, 6: 0}  # digits printed after the point in the Gflops columns of each table


def load_table(number: int, *, printed: bool = False) -> pandas.DataFrame:
    """A table of the paper (Peebles and Xie, arXiv 2212.09748v2), one row for each printed row, in its order.

    Parameters
    ----------
    printed : give every number as the text that is printed, with all its digits, "" for a dash

    Returns
    -------
    pandas.DataFrame
        Numbers as numbers, NaN where the paper prints a dash; `source` and `note` are text, empty if there is no note.

    Raises
    ------
    ValueError
        If there is no such table here.
    """
    if not (_FOLDER / f"table{number}.csv").is_file():
        known = ", ".join(sorted(p.stem.removeprefix("table") for p in _FOLDER.glob("table*.csv")))
        raise ValueError(f"There is no table {number} here; known: {known}.")
    return _load(f"table{number}", printed=printed)


def load_statements(*, printed: bool = False) -> pandas.DataFrame:
    """Numbers that the paper's text and captions state, and the few that its repository adds; indexed by `name`."""
    return _load("statements", printed=printed).set_index("name")


def load_notes() -> pandas.DataFrame:
    """What a reader of the paper's numbers should know: inconsistencies, and conditions that differ between rows.

    `elements` names the tables and figures concerned, apart by spaces ("table2 figure2-right"), and `rows` their rows,
    apart by "|"; without rows the note is on the whole element. A row of Table 4 is named as
    "DiT-XL/2 256 400K adaln-zero", one of another table by its first column.
    """
    return _load("notes")


def load_later() -> pandas.DataFrame:
    """Results of later papers under the same protocol, as their sources state them; never mixed with the paper's."""
    return _load("later")


def printed_rows(name: str) -> list[dict[str, str]]:
    """The rows of a file such as "table2", every number as it is printed, "" for a dash; loads no pandas."""
    with open(_FOLDER / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _load(name: str, *, printed: bool = False) -> pandas.DataFrame:
    import pandas

    frame = pandas.read_csv(_FOLDER / f"{name}.csv", keep_default_na=False, na_values={}, dtype=str)
    if printed:
        return frame
    return frame.apply(lambda column: column if column.name in _TEXT else pandas.to_numeric(column))
