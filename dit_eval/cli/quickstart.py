"""`dit-eval quickstart`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import header, say
from dit_eval.cli.shared import check_destination, is_folder


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Draw digits from a DiT; score them beside real, blurred, noisy and class-collapsed ones; then a small study.

    Example: dit-eval quickstart

    The study trains four small DiTs and shows what more compute buys.
    """

    out: Annotated[Path, Option("the folder to write", metavar="DIR", group=EVERYDAY, check=is_folder)] = Path(
        "quickstart"
    )
    no_study: Annotated[bool, Option("leave out the scaling study, the longest part", group=EVERYDAY)] = False


def quickstart(arguments: Quickstart) -> None:
    check_destination("--out", arguments.out, folder=True)
    header(f"quickstart: into {arguments.out}")
    from dit_eval.quickstart import quickstart

    sys.stdout.write(quickstart(arguments.out, study=not arguments.no_study, on_step=say))
