"""`dit-eval report`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import header, say
from dit_eval.cli.shared import check_destination, is_folder

Style = Annotated[
    Literal["page", "paper", "slides"],
    Option("what the figures are for; paper: 3.25 inches, or 6.75 for wide ones, and 7 to 8 points"),
]
Serif = Annotated[bool, Option("letter the figures as LaTeX's Times does")]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the paper's tables and figures into a folder, as files and as one page, index.html.

    Example: dit-eval report --results results.jsonl --out report

    Your own results and losses stand beside the paper's.
    """

    results: Annotated[
        Path | None,
        Option("results.jsonl of `dit-eval evaluate` (default: the paper alone)", metavar="FILE", group=EVERYDAY),
    ] = None
    losses: Annotated[
        tuple[Path, ...],
        Option(
            'folders or log.jsonl of `dit-eval train`; or other loss logs: lines as {"model": .., "step": .., '
            '"loss": ..}, where "model" may be left out',
            metavar="RUN",
            several="words",
            group=EVERYDAY,
        ),
    ] = ()
    out: Annotated[Path, Option("the folder to write", metavar="DIR", group=EVERYDAY, check=is_folder)] = Path("report")
    force: Annotated[bool, Option("write over an earlier report", group=EVERYDAY)] = False
    style: Style = "page"
    serif: Serif = False
    no_significance: Annotated[
        bool, Option("bold: the best of a column, whether or not it is significantly better than the next")
    ] = False
    skip_bad_lines: Annotated[bool, Option("leave out lines that are no result, with a warning, and go on")] = False


def report(arguments: Report) -> None:
    check_destination("--out", arguments.out, folder=True)
    header(f"report: into {arguments.out}")
    from dit_eval.report.figures.style import LOOKS
    from dit_eval.report.page import write_report

    page = write_report(
        out=arguments.out,
        results=arguments.results,
        losses=arguments.losses,
        look=replace(LOOKS[arguments.style], serif=arguments.serif, significance=not arguments.no_significance),
        force=arguments.force,
        on_bad_line=(lambda line: say(f"warning: left out {line}")) if arguments.skip_bad_lines else None,
        on_step=say,
    )
    sys.stdout.write(f"{page}\n")
