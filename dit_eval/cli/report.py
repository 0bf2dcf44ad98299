"""`dit-eval report`."""

from __future__ import annotations

import argparse
import sys

from dit_eval.cli.options import _check_destination
from dit_eval.cli.output import _header, _say


def _report(arguments: argparse.Namespace) -> None:
    _check_destination("--out", arguments.out, folder=True)
    _header(f"report: into {arguments.out}")
    from dit_eval.report.page import write_report

    page = write_report(
        out=arguments.out,
        results=arguments.results,
        losses=arguments.losses,
        force=arguments.force,
        on_bad_line=(lambda line: _say(f"warning: left out {line}")) if arguments.skip_bad_lines else None,
        on_step=_say,
    )
    sys.stdout.write(f"{page}\n")
