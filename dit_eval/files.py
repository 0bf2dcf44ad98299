"""Files that appear whole or not at all, and archives that are opened within bounds.

One rule holds for what commands write, wherever they write it (`check_ending`, `check_folder_name`, `refuse_existing`):

- The ending of a file's name says its format. Another ending is refused before any work; none is added or exchanged.
- `--out` is never written over. Commands that may take long (sample, train, encode, study, quickstart) go on with what
  is theirs and refuse the rest; the others (stats, grid, report) refuse, or replace it with `--force`.
- What accompanies a result is replaced: `--json`, and `--grid` of sample and classes. `--results` grows by a line.
"""

from __future__ import annotations

import io
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# What the standard library raises at a damaged archive, or one made to do harm.
BROKEN_ARCHIVE = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


# Endings of what one may expect where a folder is made: a page or picture, images, weights, an archive.
_OF_FILES = {
    *(".html", ".pdf", ".png", ".svg", ".jpg", ".jpeg", ".md", ".tex", ".npz"),
    *(".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".zip", ".tar", ".gz"),
}


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


def check_ending(path: Path, *endings: str) -> None:
    """That the ending of a file to write is one of those (".png") that say what it will hold.

    A device or pipe, such as /dev/stdout, has none and passes.

    Raises
    ------
    ValueError
        With a name that would do.
    """
    if path.suffix not in endings and (path.is_file() or not path.exists()):
        good = path.with_suffix(endings[0]).name if path.name else f"NAME{endings[0]}"
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(endings)}, such as {good}.")


def check_folder_name(path: Path) -> None:
    """That a folder to write has no file's name, and is no file.

    Raises
    ------
    ValueError
        If the name ends like a file's (report.html), unless a folder of that name is there; or if a file is there.
    """
    if path.is_file():
        raise ValueError(f"{path}: is a file; expected a folder.")
    if path.suffix in _OF_FILES and not path.is_dir():
        raise ValueError(f"{path}: expected the name of a folder, such as {path.with_suffix('').name}.")


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse to write over files, unless that is wanted.

    Raises
    ------
    FileExistsError
        With the first of those that are there, and how many more are.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(f"{there[0]}{more} exists already. Choose another --out, or write over it with --force.")
