"""Results as JSON lines: appended whole, read with the number of a bad line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dit_eval.results.eval_result import EvalResult
from dit_eval.system.files import append_line
from dit_eval.system.reading import lines_of

if TYPE_CHECKING:
    from dit_eval.results.parse import Parsed


def append_result(path: str | os.PathLike[str], result: EvalResult) -> None:
    """Add a result as one line, whatever other processes add; a line that a crash left unfinished is closed first.

    Raises
    ------
    OSError
        If it cannot be written, or locked; the file is then as before.
    """
    append_line(Path(path), result.to_json().encode() + b"\n")


def read_results(path: str | os.PathLike[str], *, on_bad_line: Callable[[str], None] | None = None) -> list[EvalResult]:
    """All results of a JSON-lines file, in order; see `read_lines` for lines that are none."""
    return [result for _, result in read_lines(path, EvalResult.from_json, on_bad_line=on_bad_line)]


def read_lines(
    path: str | os.PathLike[str], parse: Callable[[str], Parsed], *, on_bad_line: Callable[[str], None] | None = None
) -> list[tuple[int, Parsed]]:
    """Each line of a JSON-lines file as `parse` understands it, with its number, from 1; empty lines are nothing.

    Parameters
    ----------
    parse : raises a ValueError for a line that it does not understand
    on_bad_line : called with a message for a half-written or foreign line, which is then left out; without it
        such lines are an error

    Raises
    ------
    ValueError
        If lines are not understood and `on_bad_line` is None; the message gives the numbers
        of the first ten.
    """
    parsed, bad = [], []
    # Split at the newline byte alone: a text may hold other characters that Python takes for the end of a line.
    for number, line in enumerate(lines_of(Path(path), "a file of JSON lines"), start=1):
        if not line.strip():
            continue
        try:
            parsed.append((number, parse(line.removesuffix(b"\n").decode("utf-8"))))
        except ValueError as error:
            bad.append(f"{path}, line {number}: {error}")
    if bad and on_bad_line is None:
        more = [f"... and {len(bad) - 10:,} more lines"] if len(bad) > 10 else []
        raise ValueError("\n".join([*bad[:10], *more]))
    for message in bad:
        if on_bad_line is not None:
            on_bad_line(message)
    return parsed
