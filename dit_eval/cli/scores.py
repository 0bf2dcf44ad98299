"""What `dit-eval evaluate` prints and writes: one result or several, in the format that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Literal, Protocol

from dit_eval.cli.output import File, NotWritten, say, tell, tell_json, terminal

if TYPE_CHECKING:
    from dit_eval.results.eval_result import EvalResult
    from dit_eval.system.style import Style

Format = Literal["table", "markdown", "latex", "csv", "json"]


class Destinations(Protocol):
    """Where results go, as the options of the command say."""

    @property
    def results(self) -> Path: ...
    @property
    def no_results(self) -> bool: ...
    @property
    def json(self) -> str | None: ...
    @property
    def format(self) -> Format: ...


class Told:
    """Results of one command, kept as they come and printed at the end.

    Parameters
    ----------
    several : whether more than one is to come: each is then written at once, so that none is lost if a later one fails
    """

    def __init__(self, to: Destinations, *, several: bool) -> None:
        self._to, self._several = to, several
        self._results: list[EvalResult] = []
        self._warned: set[str] = set()
        self._is_written = True

    def add(self, result: EvalResult) -> None:
        """Say what there is to warn of; of several, write the result and say its first score."""
        where = f"{result.gen.path}: " if self._several else ""
        for warning in result.warnings:
            if warning not in self._warned:  # those about the reference are the same for all
                say(f"warning: {where}{warning}")
                self._warned.add(warning)
        self._results.append(result)
        if not self._several:
            return
        name, score = next(((name, value) for name, value in result.scores.items() if value is not None), ("", 0.0))
        say(f"scored   {result.gen.path}: {name} {score:.4g}")
        try:
            tell("", *self._appended(result))
        except NotWritten:  # it is kept elsewhere, and the others are still to come
            self._is_written = False

    def print(self) -> None:
        """Print the results, then write what is to be written.

        Raises
        ------
        NotWritten
            If something could not be written.
        """
        to = self._to
        style, width = terminal()
        text = results_text(self._results, to.format, style=style, width=width)
        files = [] if self._several else self._appended(self._results[0])
        if to.format != "table":  # nothing but what was asked for
            files = [replace(file, told="") for file in files]
        elif self._several and not to.no_results and self._is_written:
            text += f"appended to {to.results}\n"
        if to.format == "json" and to.json is None:
            tell_json("-", results_json(self._results), "", *files)
        else:
            tell_json(to.json, results_json(self._results), text, *files)
        if not self._is_written:
            raise NotWritten

    def _appended(self, result: EvalResult) -> list[File]:
        from dit_eval.results.lines import append_result

        to = self._to
        appended = File(
            option="--results",
            path=to.results,
            write=lambda path: append_result(path, result),
            text=result.to_json(),
            told="" if self._several else f"appended to {to.results}\n",
        )
        return [] if to.no_results else [appended]


def results_json(results: Sequence[EvalResult]) -> str:
    """One result as an object, several as an array of such objects in the order of their files."""
    if len(results) == 1:
        return results[0].to_json()
    return f"[{', '.join(result.to_json() for result in results)}]"


def results_text(results: Sequence[EvalResult], form: Format, *, style: Style, width: int | None) -> str:
    """Results in a format, with a newline at the end.

    Parameters
    ----------
    width : columns of the terminal; None for a log
    """
    if form == "json":
        return f"{results_json(results)}\n"
    if form == "table" and len(results) == 1:
        from dit_eval.metrics.printed import result_text

        return f"{result_text(results[0], style, width)}\n"
    from dit_eval.report.tables.latex import to_latex
    from dit_eval.report.tables.leaderboard import badge_lines, crop_lines, differences, leaderboard
    from dit_eval.report.tables.significance import RULE
    from dit_eval.report.tables.text import to_text
    from dit_eval.report.tables.write import to_csv, to_markdown

    table = leaderboard(results)
    if form == "table":
        below = [RULE] if table.significance else []
        below += [*differences(results), *crop_lines(results), *badge_lines(results)]
        below = [fill(line, width, subsequent_indent="  ") for line in below] if width else below
        return "\n".join([table.title, "", to_text(table, width=width, style=style), "", *below]) + "\n"
    write = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}[form]
    return write(table)
