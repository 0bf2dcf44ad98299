"""Compare the help of every command with the files in ``help/``; with ``--write``, write them anew.

    python tests/goldens/make_help.py --write

The files are there to be read in a change: what `--help` prints is the first that a user sees of an option.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dit_eval.cli.app import COMMANDS, follow

FOLDER = Path(__file__).parent / "help"


def texts() -> dict[str, str]:
    """What `--help` prints, by the name of its file."""
    return {f"{'-'.join(['dit-eval', *name.split()])}.txt": follow(name.split()).help() for name in ("", *COMMANDS)}


def main() -> None:
    found = texts()
    kept = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.txt")}
    for name in sorted({name for name in {**kept, **found} if kept.get(name) != found.get(name)}):
        sys.stdout.write(f"{name}\n")
        if "--write" not in sys.argv:
            continue
        if name in found:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / name).write_text(found[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()


if __name__ == "__main__":
    main()
