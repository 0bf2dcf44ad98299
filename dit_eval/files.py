"""Files that appear whole or not at all, and archives that are opened within bounds."""

from __future__ import annotations

import io
import os
import re
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# What the standard library raises at a damaged archive, or one made to do harm.
BROKEN_ARCHIVE = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name, and replaces an earlier one, only when all is on the disk.

    Until then it is `.NAME.*.part` beside it, and gone if an error comes; only a killed process leaves it. A link stays
    a link, to the new file. A pipe or device is written into as it is.
    """
    if is_stream(path):
        with open(path, "ab") as file:
            yield file
        return
    path = _followed(path)
    partial = _partial(path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_target(path: Path, *, append: bool = False) -> None:
    """That a file can be written under this name, found by trying: made or replaced, or, with `append`, added to.

    Missing folders count as made; whoever writes makes them. Everything is left as it is.

    Raises
    ------
    OSError
        With what is in the way.
    """
    target = _followed(path)
    try:
        if is_stream(path):  # to open it may wait for a reader
            return
        if target.is_dir():
            raise OSError("it is a folder")
        if path.is_symlink() and not target.parent.is_dir():  # of a disk that is not mounted, perhaps
            raise OSError(f"it is a link to {target}, and there is no folder {target.parent}")
        if append and target.exists():
            open(target, "ab").close()
            return
        _try(_partial(target))
    except OSError as error:
        raise OSError(f"{path} cannot be written: {_obstacle(target.parent, error)}") from None


def check_folder(path: Path) -> None:
    """That files can be written in a folder, found by trying; a missing one counts as made. All is left as it is.

    Raises
    ------
    OSError
        With what is in the way.
    """
    try:
        _try(_partial(path / "trial"))
    except OSError as error:
        raise OSError(f"{path} cannot be written: {_obstacle(path, error)}") from None


def why_not_written(path: Path, error: OSError) -> str:
    """The reason, in words, that writing a file has failed for."""
    return error.strerror or str(error) if path.parent.is_dir() else _obstacle(path.parent, error)


def is_stream(path: Path) -> bool:
    """Whether there is something else than a file or folder: a pipe, a device, or an open file as `/dev/stdout`."""
    opened = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return path.exists() and not path.is_dir() and (opened or not path.is_file())


def displayable(text: object) -> str:
    r"""A path or other text as any file and terminal can take it, on one line.

    File names may hold bytes that are no UTF-8, and characters that move the cursor. They become backslash escapes, the
    byte E9 `\xe9`; `named` goes the other way.
    """
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in str(text))


def named(text: str) -> str:
    """The path that `displayable` made this text of, if there was anything to escape in it."""

    def meant(escape: re.Match[str]) -> str:
        code = int(escape[1] or escape[2] or escape[3], 16)
        return chr(code + 0xDC00 if escape[1] and code > 127 else code)  # as `os.fsdecode` has bytes that are no text

    return re.sub(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U(000[0-9a-f]{5}|0010[0-9a-f]{4})", meant, text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


def _followed(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _try(trial: Path) -> None:
    """Write a byte into a new file, and remove it, with the folders that were made for it."""
    missing = [folder for folder in trial.parents if not folder.exists()]
    try:
        for again in (True, True, False):
            trial.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(trial, "xb") as file:
                    file.write(b"\0")
                    file.flush()
                    os.fsync(file.fileno())
                break
            except FileNotFoundError:  # another process, which has tried the same, has just removed the folder
                if not again:
                    raise
    finally:
        with suppress(OSError):  # where no folder is, or a folder holds something by now
            trial.unlink(missing_ok=True)
            for folder in missing:
                folder.rmdir()


def _obstacle(folder: Path, error: OSError) -> str:
    """Why nothing can be written in a folder, in words."""
    if error.errno is None:
        return str(error)
    there = next((part for part in (folder, *folder.parents) if os.path.lexists(part)), folder)
    if not there.is_dir():
        return f"{there} is {'a link to nothing' if there.is_symlink() else 'a file, not a folder'}"
    return f"no file can be made in {there.absolute()} ({error.strerror})"


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
