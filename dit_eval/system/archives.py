"""Zips that are opened within bounds, and what the standard library raises at damaged archives."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What the standard library raises at a damaged archive, or one made to do harm.
BROKEN_ARCHIVE = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
_MAX_END = (1 << 16) + 21  # bytes of the end of a zip, with the longest comment


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
