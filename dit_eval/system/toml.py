"""TOML, within bounds. Light: the manifest of files is read for `--help`, where not even NumPy is loaded."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from dit_eval.system.text import reason, shown

# For a key of n parts `tomllib` takes memory by n squared. What is once taken of a part is not given back, and none
# begins within another, so that no text takes time by the square of its length.
_PART = r"""(?:(?<!\\)"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|(?<![A-Za-z0-9_-])[A-Za-z0-9_-]++)[ \t]*+"""
_MAX_PARTS = 16
_LONG_KEY = re.compile(rf"{_PART}(?:\.[ \t]*+{_PART}){{{_MAX_PARTS}}}")


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """What a text in TOML says; `path` is for messages.

    Raises
    ------
    ValueError
        If it is none, or has a key of more parts than any file of ours.
    """
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.start()) + 1
        found = shown(long[0] if len(long[0]) <= 80 else f"{long[0][:80]}...")
        raise ValueError(f"{path}, line {line}: a key of more than {_MAX_PARTS} parts ({found}); expected a few.")
    try:
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:  # brackets within brackets; a number of thousands of digits
        raise ValueError(f"{path}: not TOML ({reason(error)}).") from None


def key_parts(dotted: str) -> tuple[str, ...]:
    """The parts of a dotted key; none if it is no key but, say, a line of a text."""
    if _LONG_KEY.search(dotted):
        return ()
    try:
        table: Any = tomllib.loads(f"[{dotted}]")
    except (RecursionError, ValueError):
        return ()
    parts = []
    while isinstance(table, dict) and table:
        (name, table), *_ = table.items()
        parts.append(name)
    return tuple(parts)
