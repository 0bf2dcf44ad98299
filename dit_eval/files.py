"""Files that appear whole or not at all, names that any text may become, and archives that are opened within bounds."""

from __future__ import annotations

import hashlib
import io
import os
import re
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

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Names that Windows keeps for devices, and what the end of a slug that was made looks like.
_TAKEN = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]|(.*-)?[0-9a-f]{16}")
_LONGEST_SLUG = 40


def slug(text: str) -> str:
    """A text as a part of file names, ids and links: a-z, 0-9 and hyphens, at most 57 characters, never none.

    A short text of nothing else is its own slug. Any other gives its words and 16 digits of its SHA-256, so that two
    texts have two slugs, also where upper and lower case are one.

    Examples
    --------
    >>> slug("adm-2021"), slug("x/../../evil")
    ('adm-2021', 'x-evil-314e3fe9b95b5a23')
    """
    if len(text) <= _LONGEST_SLUG and _SLUG.fullmatch(text) and not _TAKEN.fullmatch(text):
        return text
    words = re.sub(r"[^a-z0-9]+", "-", text.lower())[:_LONGEST_SLUG].strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{words}-{digest}" if words else digest


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
