"""How words of a result are set off on a terminal; in a log, and where NO_COLOR asks for it, they are plain."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "good": "32", "doubt": "33"}


@dataclass(frozen=True)
class Style:
    """Colours and weights of a text; without them, texts stay as they are."""

    coloured: bool = False

    @classmethod
    def of(cls, stream: TextIO | None) -> Style:
        """The style that a stream can show: colours on a terminal only, and none with NO_COLOR (https://no-color.org)."""
        is_terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        return cls(is_terminal and not os.environ.get("NO_COLOR"))

    def bold(self, text: str) -> str:
        return self._set("bold", text)

    def dim(self, text: str) -> str:
        return self._set("dim", text)

    def good(self, text: str) -> str:
        return self._set("good", text)

    def doubt(self, text: str) -> str:
        return self._set("doubt", text)

    def _set(self, how: str, text: str) -> str:
        return f"\x1b[{_CODES[how]}m{text}\x1b[0m" if self.coloured and text else text


PLAIN = Style()
