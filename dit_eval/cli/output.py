"""What a command prints and writes, and what happens where it cannot."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dit_eval.system.dist import rank_told
from dit_eval.system.files import atomic_file, why_not_written
from dit_eval.system.progress import write_stderr
from dit_eval.system.style import Style
from dit_eval.system.text import duration, size_text

if TYPE_CHECKING:
    from dit_eval.cost import Cost

USER_ERROR, NOT_WRITTEN = 2, 3
_PLAIN = str.maketrans({"↓": "v", "↑": "^", "±": "+-", "\N{MINUS SIGN}": "-", "×": "x", "·": "-"})


@contextmanager
def any_text(stream: TextIO | None) -> Iterator[None]:
    """Let a stream take any text: what its encoding has no character for becomes a backslash escape."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # it is closed, or full
            stream.reconfigure(errors=before)


class NotWritten(Exception):
    """A result is printed, but could not be written everywhere; the user has been told."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that a result goes into, once it is printed.

    Attributes
    ----------
    option, path : by which the user named it
    write : writes it under a path, or raises an OSError
    text : what it holds, to be shown where it can be written nowhere; "" for pictures
    told : what to print when it is written
    """

    option: str
    path: Path
    write: Callable[[Path], object]
    text: str = ""
    told: str = ""


def tell(text: str, *files: File) -> None:
    """Print a result, then write it into files; where one cannot be written, keep it elsewhere.

    Raises
    ------
    _NotWritten
        At the end, if something could not be written.
    """
    everywhere = _printed(text)
    for file in files:
        try:
            file.write(file.path)
        except OSError as error:
            kept, what = (
                _kept(file),
                f"{file.option} {file.path} could not be written ({why_not_written(file.path, error)})",
            )
            if not (text or kept):
                raise OSError(f"{what}, nor kept elsewhere. Make room and run the same command again.") from None
            say(f"warning: {what}. {kept}")
            everywhere = False
        else:
            everywhere = _printed(file.told) and everywhere
    if not everywhere:
        raise NotWritten


def _printed(text: str) -> bool:
    """Print on stdout, or, if that takes nothing, on stderr; whether it was stdout."""
    if not text:
        return True
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        sys.stdout.write(_encodable(text))
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        give_up_stdout()
        say(f"warning: stdout could not be written ({getattr(error, 'strerror', None) or error}). It was to show:")
        say(text.rstrip("\n"))
        return False
    return True


def _encodable(text: str) -> str:
    """A text with letters in place of arrows and signs, where stdout has no characters for these."""
    try:
        "".join(map(chr, _PLAIN)).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN)
    return text


def flush_stdout() -> None:
    """Write what waits for stdout, so that a full disk is noticed here."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_stdout()
        say(f"warning: stdout could not be written ({error.strerror}).")
        raise NotWritten from None


def give_up_stdout() -> None:
    """Drop what waits to be written, which would fail once more at the end of the process."""
    with suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _kept(file: File) -> str:
    """Write a file into the folder for temporary files, and say where; else show what it holds, if that is a text."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="dit-eval-"))
        with suppress(OSError):
            file.write(folder / file.path.name)
            return f"It is kept as {folder / file.path.name}."
        folder.rmdir()
    except OSError:  # there is no such folder, or it cannot be emptied again
        pass
    return f"It was to hold:\n{file.text.rstrip()}" if file.text else ""


def _files_of_json(path: str | None, text: str) -> list[File]:
    """The file of `--json`, if one is named."""
    if path in (None, "-"):
        return []
    return [File(option="--json", path=Path(path), write=lambda target: _write_text(target, text), text=text)]


def tell_json(path: str | None, json_line: str, text: str, *files: File) -> None:
    """Print a result as text, or as JSON alone with `--json -`, then write it into files."""
    if path != "-":
        tell(text, *_files_of_json(path, f"{json_line}\n"), *files)
        return
    try:
        json_line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # JSON has escapes of its own
        json_line = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in json_line)
    tell(f"{json_line}\n", *(replace(file, told="") for file in files))


def terminal() -> tuple[Style, int | None]:
    """The style of stdout, and its width in columns; None for a log."""
    style = Style.of(sys.stdout)
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return style, shutil.get_terminal_size().columns if is_terminal else None


def header(text: str) -> None:
    """A line on what is about to be done, of one process."""
    if rank_told() == 0:
        say(text)


def format_cost_of_run(what: str, cost: Cost) -> str:
    """Predicted time, memory and disk, and what was tried for it."""
    by = "one process" if cost.processes == 1 else f"{cost.processes} processes"

    def text(seconds: float) -> str:
        return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)

    lines = [f"{what}, in {by}: about {text(cost.total)}"]
    lines += [f"  {phase:<24}{text(seconds):>10}" for phase, seconds in cost.seconds.items()]
    each = [f"{cost.seconds_per_1000:,.1f} s"]
    each += [f"{size_text(cost.memory_per_1000)} of memory"] if cost.memory_per_1000 else []
    each += [f"{size_text(cost.disk_per_1000)} of disk"] if cost.disk_per_1000 else []
    lines.append(f"  1,000 images through the network, in one process: {', '.join(each)}")
    if cost.memory_bytes is not None:
        lines.append(f"  memory of a process at its peak: {size_text(cost.memory_bytes)}")
    if cost.gpu_memory_bytes is not None:
        lines.append(f"  memory of its GPU at its peak: {size_text(cost.gpu_memory_bytes)}")
    if cost.disk_bytes:
        lines.append(f"  disk: {size_text(cost.disk_bytes)}, {size_text(cost.disk_peak_bytes)} while it is packed")
    lines += [f"measured now: {trial}" for trial in cost.trials]
    lines.append(f"not in it: {cost.left_out}")
    return "\n".join(lines) + "\n"


def bring(item: Any, url: str | None = None) -> Path:
    from dit_eval.system.assets import fetch_aloud

    return fetch_aloud(item, url=url)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode())


def say_note(text: str) -> None:
    say(f"note: {text}")


def say(text: str) -> None:
    write_stderr(f"{text}\n")
