"""The paper's published numbers, as data. Nothing here is measured; see README.md beside this file for the columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

_FOLDER = Path(__file__).parent

GFLOPS_DECIMALS = {1: 1, 4: 2, 6: 0}  # digits printed after the point in the Gflops columns of each table


def load_table(number: int) -> pandas.DataFrame:
    """A table of the paper (Peebles and Xie, arXiv 2212.09748v2), one row for each printed row, in its order.

    Returns
    -------
    pandas.DataFrame
        Numbers as numbers, NaN where the paper prints a dash; `source` and `note` are text, empty if there is no note.

    Raises
    ------
    ValueError
        If there is no such table here.
    """
    import pandas

    path = _FOLDER / f"table{number}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem.removeprefix("table") for p in _FOLDER.glob("table*.csv")))
        raise ValueError(f"There is no table {number} here; known: {known}.")
    text = {name: str for name in ("model", "block", "base", "upsampler", "source", "note")}
    frame = pandas.read_csv(path, keep_default_na=False, na_values={}, dtype=str)
    return frame.apply(lambda column: column if column.name in text else pandas.to_numeric(column))
