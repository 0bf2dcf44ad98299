"""Make `metric_response.png` and `.pdf`: what each metric sees in damaged digits (the quickstart's figure)."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from dit_eval.quickstart import quickstart

HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        quickstart(Path(folder), on_step=lambda line: sys.stderr.write(line + "\n"))
        for ending in ("png", "pdf"):
            shutil.copyfile(Path(folder, f"metrics.{ending}"), HERE / f"metric_response.{ending}")
            sys.stdout.write(f"{HERE / f'metric_response.{ending}'}\n")


if __name__ == "__main__":
    main()
