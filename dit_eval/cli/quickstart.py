"""`dit-eval quickstart`."""

from __future__ import annotations

import argparse
import sys

from dit_eval.cli.options import _check_destination
from dit_eval.cli.output import _header, _say


def _quickstart(arguments: argparse.Namespace) -> None:
    _check_destination("--out", arguments.out, folder=True)
    _header(f"quickstart: into {arguments.out}")
    from dit_eval.quickstart import quickstart

    sys.stdout.write(quickstart(arguments.out, study=not arguments.no_study, on_step=_say))
