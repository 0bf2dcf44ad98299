"""Files that appear whole or not at all, files that must not change, and archives that are opened within bounds."""

from __future__ import annotations

import io
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# What the standard library raises at a damaged archive, or one made to do harm.
BROKEN_ARCHIVE = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


_MAX_END = (1 << 16) + 21  # bytes of the end of a zip, with the longest comment


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name, and replaces an earlier one, only when all is on the disk.

    Until then it is `.NAME.*.part` beside it, and gone if an error comes; only a killed process leaves it.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def open_zip(path: Path, *, max_directory: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip for reading; one of `BROKEN_ARCHIVE` is raised if it is none.

    Parameters
    ----------
    max_directory : bytes that its directory may have. The standard library reads one of any promised size, in one
        piece, and makes an object of some 500 bytes of each of its entries of 46.
    """
    with _Bounded(path, max_directory) as file, zipfile.ZipFile(file) as archive:
        file.limit = None
        yield archive


class Watch:
    """Files as they were when they were first seen, so that what is read of one at several times is of one content.

    A state is told by inode, size, and the times of the last change of the content and of the file itself, of which
    nobody can set back the latter. A file that is not there is a state as well.

    Parameters
    ----------
    paths : files to see at once
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        self._seen: dict[Path, tuple[int, ...] | None] = {}
        for path in paths:
            self.see(Path(path))

    def see(self, path: Path, status: os.stat_result | None = None) -> None:
        """Note the state of a file, now or as an open one has it; of a file seen before, check it.

        Raises
        ------
        ValueError
            If the file has been replaced or written to since it was first seen.
        """
        state = _state(path) if status is None else _told(status)
        if self._seen.setdefault(path, state) != state:
            raise ValueError(
                f"{shown(str(path))}: was replaced or written to while it was in use, so what was read of it may be "
                "of two files. Nothing of it is kept; run it again when nothing writes there."
            )

    def check(self) -> None:
        """See all files again.

        Raises
        ------
        ValueError
            If one of them has been replaced or written to since it was first seen.
        """
        for path in list(self._seen):
            self.see(path)


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        return _told(os.stat(path))
    except OSError:
        return None


def _told(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def shown(name: str) -> str:
    """A name as a message may show it: none of its characters moves the cursor."""
    return name if name.isprintable() else ascii(name)[1:-1]


def check_whole_zip(path: Path, archive: zipfile.ZipFile) -> None:
    """That a zip is all that its file holds: readers see the last of several that were joined, and the rest is lost.

    Raises
    ------
    ValueError
        If another member, or anything but zeros, lies before its first member or behind its end.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        begins = file.read(4)
        file.seek(max(0, size - _MAX_END))
        tail = file.read()
    first = min((info.header_offset for info in archive.infolist()), default=0)
    if first > 0 and begins == b"PK\3\4":
        raise ValueError(
            f"{path}: begins with a member that its directory does not list, as archives joined by cat do; it would "
            "not be read. Pack all files again into one archive."
        )
    record = tail.rfind(b"PK\5\6")
    end = record + 22 + int.from_bytes(tail[record + 20 : record + 22], "little")
    if record >= 0 and tail[end:].strip(b"\0"):
        raise ValueError(
            f"{path}: goes on after its end, at byte {size - len(tail) + end:,}, where readers stop. Copy the archive "
            "again, or pack all files again into one."
        )


class _Bounded(io.BufferedReader):
    """A file of which no more is read at once than a limit, while there is one."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(io.FileIO(path))
        self.limit: int | None = limit

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes, of which {self.limit:,} are allowed")
        return super().read(size)


def check_plain(path: Path, needed: str) -> None:
    """That there is a plain file: reading a pipe or a device may never end.

    Raises
    ------
    FileNotFoundError
        If there is nothing; `needed` says in the message what should be.
    ValueError
        If it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; needed {needed}.")
    if not path.is_file():
        raise ValueError(f"{path}: not a plain file; needed {needed}.")
