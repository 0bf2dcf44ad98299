"""Folders of image files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dit_eval.images.encoded import ImageFiles, image_files
from dit_eval.images.listing import LITTER, MAX_FILE, Listing, why
from dit_eval.images.reader import Reader, Role
from dit_eval.results.settings import Crop
from dit_eval.system.files import Watch
from dit_eval.system.text import shown

if TYPE_CHECKING:
    from dit_eval.images.listing import Load


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Image files below a folder. Links are followed, to files and to folders, but no folder is read twice."""

    path: Path
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    named: bool = True
    digests: None = None
    _watch: Watch = field(default_factory=Watch, repr=False)  # of the files, as each is first read

    def where(self, index: int) -> str:
        return f"{self.path}{os.sep}{shown(self.names[index])}"

    def check_unchanged(self) -> None:
        self._watch.check()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        def load(index: int) -> bytes:
            return read_file(self.path / self.names[index], self.where(index), watch=self._watch)

        yield lambda indices: (partial(load, i) for i in indices)


def list_folder(path: Path) -> FolderSource:
    """Find the image files below a folder.

    Raises
    ------
    ValueError
        If there are none, a link leads in a circle, or something is called an image that is no plain file.
    """
    listing, visited = Listing(path=path, archive=False), set[tuple[int, int]]()
    _walk(path, "", listing, visited)
    names, _, remarks = listing.ordered()
    return FolderSource(path=path, names=names, remarks=remarks)


def _walk(root: Path, below: str, listing: Listing, visited: set[tuple[int, int]]) -> None:
    folder = root / below
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            raise ValueError(
                f"{root}: the link {shown(below)} leads to a folder that is read already; its images would count "
                "twice. Remove the link."
            )
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as scan:
            entries = list(scan)
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            if entry.is_dir():
                _walk(root, name, listing, visited)
            elif listing.wants(name):
                _check_plain(root, name, entry)
                listing.found[name] = None
    except (OSError, RecursionError) as error:
        raise ValueError(f"{root}: {shown(below) or 'the folder'} cannot be read ({why(error)}).") from None


def _check_plain(root: Path, name: str, entry: os.DirEntry[str]) -> None:
    if entry.is_file():
        return
    if entry.is_symlink():
        raise ValueError(f"{root}: {shown(name)}: a link to nothing. Restore the file, or remove the link.")
    raise ValueError(f"{root}: {shown(name)}: not a plain file. Remove it.")


def read_file(path: Path, where: str, *, max_size: int = MAX_FILE, watch: Watch | None = None) -> bytes:
    """The bytes of a plain image file.

    Raises
    ------
    ValueError
        If it cannot be read, is no plain file, is too large for an image, or has changed since `watch` saw it.
    """
    watch = watch or Watch()
    try:
        # What is no plain file is not opened: a pipe would wait for ever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{where}: not a plain file. Remove it.")
        if status.st_size > max_size:
            raise ValueError(f"{where}: {status.st_size:,} bytes; an image file may have {max_size:,}.")
        with open(path, "rb") as file:
            watch.see(path, os.fstat(file.fileno()))
            data = file.read(status.st_size)
            watch.see(path, os.fstat(file.fileno()))
            return data
    except OSError as error:
        raise ValueError(f"{where}: cannot be read ({why(error)}).") from None


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageFiles:
    return image_files(list_folder(path), num_images, crop=crop)


FOLDER = Reader(name="folder", recognises=Path.is_dir, open=_open)
