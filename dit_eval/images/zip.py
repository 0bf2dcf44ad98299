"""Zip archives of image files."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dit_eval.images.encoded import ImageFiles, image_files
from dit_eval.images.listing import Listing, damaged
from dit_eval.images.reader import Reader, Role
from dit_eval.results.settings import Crop
from dit_eval.system.archives import BROKEN_ARCHIVE, check_whole_zip, open_zip
from dit_eval.system.files import Watch
from dit_eval.system.text import shown

if TYPE_CHECKING:
    from dit_eval.images.listing import Load

_MAX_DIRECTORY = 1 << 28  # bytes of a zip's directory


@dataclass(frozen=True, kw_only=True)
class ZipSource:
    """Image files in a zip."""

    path: Path
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    members: tuple[zipfile.ZipInfo, ...]
    named: bool = True
    digests: None = None
    _watch: Watch

    def check_unchanged(self) -> None:
        self._watch.check()

    def where(self, index: int) -> str:
        return f"{self.path}: {shown(self.names[index])}"

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        self.check_unchanged()  # or members would be looked for where they were
        with _opened(self.path) as archive:

            def load(index: int) -> bytes:
                try:
                    with archive.open(self.members[index]) as file:
                        return file.read()  # no more than the directory says, which has been checked
                except BROKEN_ARCHIVE as error:
                    raise ValueError(f"{self.where(index)}: {damaged(error)}") from None

            yield lambda indices: (partial(load, i) for i in indices)


def list_zip(path: Path) -> ZipSource:
    """Find the image files in a zip.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no images, is damaged, encrypted, or made to do harm.
    """
    listing, watch = Listing(path=path, archive=True), Watch(path)
    with _opened(path) as archive:
        infos = archive.infolist()
        check_whole_zip(path, archive)
    for info in infos:
        name = listing.path_of(info.orig_filename)
        _check_kind(path, info)
        if name is None or info.is_dir():
            continue
        _check_packing(path, info, name)
        if listing.wants(name, info.file_size):
            listing.found[name] = info
    _check_extents(path, infos)
    names, members, remarks = listing.ordered()
    return ZipSource(path=path, names=names, remarks=remarks, members=tuple(members), _watch=watch)


def _check_kind(path: Path, info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "a device or pipe"
        raise ValueError(f"{path}: {shown(info.orig_filename)}: {what}; needed plain files. Pack the images again.")


def _check_packing(path: Path, info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & 1:
        raise ValueError(f"{path}: {shown(name)}: encrypted. Unlock it, or pack the images again without password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{path}: {shown(name)}: packed by method {info.compress_type}; needed stored or deflated members. "
            "Pack the images again; `zip -0` is fastest to read."
        )


def _check_extents(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """That members lie in the file one behind the other."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < 0:
            raise ValueError(f"{path}: {damaged(EOFError('its beginning is missing'))}")
        if info.header_offset < end:
            raise ValueError(
                f"{path}: {shown(info.filename)}: shares its bytes with another member, a zip bomb's trick."
            )
        end = info.header_offset + info.compress_size
    if end > path.stat().st_size:
        raise ValueError(f"{path}: {damaged(EOFError('a member reaches beyond its end'))}")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(open_zip(path, max_directory=_MAX_DIRECTORY))
        except BROKEN_ARCHIVE as error:
            raise ValueError(f"{path}: {damaged(error)}") from None
        yield archive


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageFiles:
    return image_files(list_zip(path), num_images, crop=crop)


ZIP = Reader(name="zip", recognises=lambda path: path.is_file() and path.name.lower().endswith(".zip"), open=_open)
