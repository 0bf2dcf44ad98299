"""How far a command is, on stderr: a line that is drawn again and again on a terminal, lines at intervals in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

from dit_eval.system.text import duration, size_text

_OFTEN, _SELDOM = 0.1, 30.0  # seconds between two lines, on a terminal and in a log
_BAR = 20  # characters


class OnProgress(Protocol):
    """Called with what is being done, how much of it is done, and how much it is (None while unknown).

    Of an evaluation: first "ref" and "gen", where images pass through the network, with 0 images done. Then "checksums"
    in bytes; "ref" and "gen" in images, at once with all of them where a cache has their features; "metrics", without
    numbers.
    """

    def __call__(self, role: str, done: int, total: int | None, /) -> None: ...


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Note how long a phase took, unless it failed."""
    begin = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - begin


class Progress:
    """All phases of a piece of work: one line, one time left.

    Images of all phases count together, as far as their numbers are known; phases in bytes count alone.

    Parameters
    ----------
    unit : of the phases, such as "images"
    names : phase, as it is reported, to what to call it
    in_bytes : phases that count bytes
    time_left : tell the time left, as the pace so far has it
    stream : stderr by default
    clock : seconds
    """

    def __init__(
        self,
        unit: str = "images",
        *,
        names: Mapping[str, str] | None = None,
        in_bytes: tuple[str, ...] = ("checksums",),
        time_left: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit, self._names, self._in_bytes, self._time_left = unit, names or {}, in_bytes, time_left
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream is not None and self._stream.isatty()
        self._clock, self._lock = clock, threading.RLock()
        self._phases: dict[str, _Phase] = {}
        self._phase = ""
        self._told_at: float | None = None
        self._line = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._clear()
            self._line = ""

    def note(self, text: str) -> None:
        """A line of its own, that stays."""
        with self._lock:
            self._clear()
            self._write(f"{text}\n")
            if self._line:
                self._write(self._line)

    def update(self, phase: str, done: int, total: int | None, remark: str = "") -> None:
        """Report a phase: how much is done of how much, `total` None where nobody knows.

        A phase of which nothing is done yet counts in the total from then on. What a phase has done at its first
        report, of an earlier run or a cache, counts as no work of this run.
        """
        with self._lock:
            now, known = self._clock(), self._phases.get(phase)
            if known is None:
                self._phases[phase] = known = _Phase(done=0, total=total, seen_at=None)
            ended = done == total and done > known.done
            known.report(done, total, now)
            if not self._terminal and not done and total is not None:
                return
            changed, self._phase = phase != self._phase, phase
            if ended or changed or self._is_due(now):
                self._told_at = now
                self._tell(phase, remark)

    def _is_due(self, now: float) -> bool:
        return self._told_at is None or now - self._told_at >= (_OFTEN if self._terminal else _SELDOM)

    def _tell(self, phase: str, remark: str) -> None:
        text = self._text(phase, remark, bar=self._terminal)
        if self._terminal:
            self._clear()
            self._line = text[: self._columns() - 1]
            self._write(self._line)
        else:
            self._write(text + "\n")

    def _text(self, phase: str, remark: str, *, bar: bool) -> str:
        own, in_bytes = self._phases[phase], phase in self._in_bytes
        together = [own] if in_bytes else self._counted()
        done = sum(each.done for each in together)
        total = None if any(each.total is None for each in together) else sum(each.total or 0 for each in together)
        name = self._names.get(phase, phase)
        if own.total is None and not own.done:
            return f"{name} {remark}".rstrip()
        amounts = self._amounts(done, total, in_bytes=in_bytes)
        text = ", ".join(part for part in (*amounts, *self._pace(together, done, total, in_bytes), remark) if part)
        if bar and total:
            filled = _BAR * done // total
            return f"{name} [{'#' * filled}{'.' * (_BAR - filled)}] {text}"
        return f"{name}: {text}"

    def _amounts(self, done: int, total: int | None, *, in_bytes: bool) -> tuple[str, str]:
        """The share that is done, empty while nobody knows the whole; how much is done of how much."""
        share = f"{done / total:.0%}" if total else ""
        if in_bytes:
            return share, f"{size_text(done)}{f' of {size_text(total)}' if total else ''}"
        return share, f"{done:,}{f' of {total:,}' if total else ''} {self._unit}"

    def _pace(self, together: Sequence[_Phase], done: int, total: int | None, in_bytes: bool) -> list[str]:
        """Rate and time left, as far as work was seen."""
        worked, spent = sum(each.worked for each in together), sum(each.seconds for each in together)
        if not (worked and spent):
            return []
        rate = worked / spent
        said = [f"{size_text(round(rate))}/s" if in_bytes else f"{_short(rate)} {self._unit}/s"]
        left = 0.0 if total is None or not self._time_left else (total - done) / rate
        return said + ([f"about {duration(left)} left"] if left >= 1 else [])

    def _counted(self) -> list[_Phase]:
        """Phases that count together; one that has no numbers, such as "metrics", does not."""
        return [
            each
            for phase, each in self._phases.items()
            if phase not in self._in_bytes and (each.total is not None or each.done)
        ]

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _clear(self) -> None:
        if self._line:
            self._write("\r" + " " * len(self._line) + "\r")

    def _write(self, text: str) -> None:
        write_stderr(text, self._stream)


@dataclass
class _Phase:
    """What is done of a phase, and what of it was seen being done, in how many seconds."""

    done: int
    total: int | None
    seen_at: float | None  # the latest report of work
    worked: int = 0
    seconds: float = 0.0

    def report(self, done: int, total: int | None, now: float) -> None:
        if done > self.done:
            if self.seen_at is not None:
                self.worked += done - self.done
                self.seconds += now - self.seen_at
            self.seen_at = now
        self.done, self.total = done, total


def write_stderr(text: str, stream: TextIO | None = None) -> None:
    """Write to stderr at once; where that is closed or full, there is nobody to tell."""
    stream = sys.stderr if stream is None else stream
    if stream is not None:
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            pass


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
