"""Make the paper's tables and figures from its published numbers, into `paper/`, where they are committed.

    python reports/paper.py                      all of them
    python reports/paper.py table4 figure8       some

`dit-eval report` makes the same with your own results beside them, and a page of it all.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dit_eval.report.page import report_files

HERE = Path(__file__).parent / "paper"

MADE = (
    # The paper's tables; a mark or a column "counted" is ours.
    *("table1", "table2", "table3", "table4", "table5", "table6"),
    # The paper's figures. 7 needs samples and 13 a loss log, of which the paper prints no numbers.
    *("figure2-left", "figure2-right", "figure5", "figure6", "figure8", "figure9", "figure10", "figure12"),
    # Numbers of the text beside our own; model size, sampling and compute; later papers.
    *("stated", "scaling-law", "sampling-pairs", "sampling-front", "sampling-targets", "later-256", "later-512"),
)


def main(wanted: list[str]) -> None:
    unknown = [name for name in wanted if name not in MADE]
    if unknown:
        sys.exit(f"Unknown: {', '.join(unknown)}. Known: {', '.join(MADE)}.")
    for name, content in report_files().items():
        target = HERE / name
        if target.stem in (wanted or MADE) and target.suffix not in (".html", ".svg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
