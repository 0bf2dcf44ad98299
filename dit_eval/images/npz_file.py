"""Bounded reading of `.npz` files: members, headers, arrays.

What a file says of itself is believed up to the limits below only, and never more than its bytes can hold.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from warnings import catch_warnings, simplefilter

import numpy as np

from dit_eval.system.files import BROKEN_ARCHIVE, check_whole_zip, open_zip
from dit_eval.system.text import shown

_CHUNK = 1 << 22  # bytes of rows read at once
_MAX_DIRECTORY = 1 << 20  # bytes of the zip's directory: thousands of members
_MAX_HEADER = 1 << 14  # bytes of an npy header; NumPy itself reads 10,000 characters
_MAX_RATIO = 1032  # that deflate can reach


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a member says of its array, found good; `size` is that of the npy header in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    size: int


@dataclass(frozen=True, kw_only=True)
class NpzFile:
    """An open `.npz`, of which only what is asked for is read.

    Attributes
    ----------
    members : the arrays that mean something here, by key
    """

    path: Path
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def keys(self) -> list[str]:
        """Names of all members, those that mean nothing here included, as messages may have them."""
        return sorted(shown(info.filename.removesuffix(".npy"))[:40] for info in self.archive.infolist())

    def header(self, member: str | zipfile.ZipInfo) -> Header:
        """Shape, dtype and size of a member's npy header, without touching its data.

        Raises
        ------
        ValueError
            If it cannot be read, is of another kind than arrays of numbers, or promises what the file cannot hold.
        """
        info = self.members[member] if isinstance(member, str) else member
        key = info.filename.removesuffix(".npy")
        header, fortran = self._parsed(info, key)
        if header.dtype.hasobject:
            raise ValueError(
                f"{self.path}: {key} is an object array, which needs pickle and is refused"
                + (
                    " (images of different sizes become one). Needed one uint8 array N x H x W x 3: bring all images "
                    "to one size and save them again."
                    if key == "arr_0"
                    else "; save it as an array of numbers."
                )
            )
        if fortran:
            raise ValueError(f"{self.path}: {key} is stored in Fortran order; save np.ascontiguousarray of it.")
        if any(not 0 <= length < 1 << 40 for length in header.shape):
            raise ValueError(
                f"{self.path}: {key} has a shape that no array has; the file is damaged, or made to do harm."
            )
        self._check_size(info, key, header)
        return header

    def array(self, key: str) -> np.ndarray:
        """The data of a member whose header has been read and found good."""
        info = self.members[key]
        try:
            with self.archive.open(info) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except BROKEN_ARCHIVE as error:
            raise ValueError(_unreadable(self.path, key, error)) from None

    def rows(self, key: str, header: Header, width: int) -> Iterator[np.ndarray]:
        """Rows (n, width) of a member whose header has been found good, some megabytes at a time."""
        size = header.dtype.itemsize * width
        try:
            with self.archive.open(self.members[key]) as file:
                file.read(header.size)
                while data := file.read(max(1, _CHUNK // size) * size):
                    yield np.frombuffer(data, header.dtype).reshape(-1, width)
        except BROKEN_ARCHIVE as error:
            raise ValueError(_unreadable(self.path, key, error)) from None

    def _parsed(self, info: zipfile.ZipInfo, key: str) -> tuple[Header, bool]:
        """The header of a member, and whether its array is stored in Fortran order."""
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{self.path}: {key} is packed by method {info.compress_type}; needed np.savez or np.savez_compressed."
            )
        try:
            with self.archive.open(info) as file:
                head = _header_text(file)
        except BROKEN_ARCHIVE as error:
            raise ValueError(_unreadable(self.path, key, error)) from None
        try:
            shape, fortran, dtype = _parsed_header(head)
        except Exception as error:
            raise ValueError(_unreadable(self.path, key, error)) from None
        return Header(shape=shape, dtype=dtype, size=head.tell()), fortran

    def _check_size(self, info: zipfile.ZipInfo, key: str, header: Header) -> None:
        needed = header.size + header.dtype.itemsize * math.prod(header.shape)  # NumPy's product would wrap around
        if info.file_size != needed:
            raise ValueError(
                f"{self.path}: {key} has {info.file_size:,} bytes where its header promises {needed:,}; the file is "
                "damaged."
            )
        file_size = self.path.stat().st_size
        most = info.compress_size if info.compress_type == zipfile.ZIP_STORED else _MAX_RATIO * info.compress_size
        if not needed <= most or info.compress_size > file_size:
            raise ValueError(
                f"{self.path}: {key} promises {needed:,} bytes, of which {info.compress_size:,} are said to be in the "
                f"file of {file_size:,}; it is truncated, or made to do harm. Copy or download it again."
            )


@contextmanager
def open_npz(path: Path, keys: Collection[str]) -> Iterator[NpzFile]:
    """Open an `.npz` file to read members of these keys; what others put beside them is left alone.

    Raises
    ------
    ValueError
        If it is no whole zip file, or holds one of the keys twice.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(open_zip(path, max_directory=_MAX_DIRECTORY))
        except BROKEN_ARCHIVE as error:
            raise ValueError(_not_a_zip(path, error)) from None
        check_whole_zip(path, archive)
        yield NpzFile(path=path, archive=archive, members=_members(archive, path, keys))


def _header_text(file: IO[bytes]) -> io.BytesIO:
    """The beginning of an npy file, to the end of its header and no further than a limit."""
    prefix = file.read(12)  # magic, version, and the length of the text in 2 bytes or, from version 2 on, 4
    end = int.from_bytes(prefix[8:10], "little") + 10
    if prefix[6:7] != b"\1":
        end = int.from_bytes(prefix[8:12], "little") + 12
    return io.BytesIO(prefix + file.read(min(max(end - 12, 0), _MAX_HEADER)))


def _parsed_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    # NumPy hands the text to Python's parser, which has errors and warnings of every kind for what is no header.
    with catch_warnings():
        simplefilter("ignore")
        version = np.lib.format.read_magic(head)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(head)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(head)
        raise ValueError(f"npy format {version} is not one of images or statistics")


def _members(archive: zipfile.ZipFile, path: Path, keys: Collection[str]) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if not info.filename.endswith(".npy") or key not in keys:
            continue
        if key in members:
            raise ValueError(f"{path}: holds {key} twice; readers would not agree on which counts. Save it again.")
        members[key] = info
    return members


def _not_a_zip(path: Path, error: BaseException) -> str:
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PK\x03\x04") and not isinstance(error, zipfile.BadZipFile):
        return f"{path}: a damaged .npz ({str(error) or type(error).__name__}). Copy or download the file again."
    if magic.startswith(b"PK\x03\x04"):
        return (
            f"{path}: a truncated .npz ({path.stat().st_size:,} bytes): the zip directory at its end is missing. "
            "Copy or download the file again."
        )
    if magic == b"\x93NUMPY":
        return f"{path}: a single .npy array, not an .npz. Save it again with np.savez(path, arr_0=images)."
    return f"{path}: not a zip file (it starts with {magic!r}); needed an .npz written by np.savez."


def _unreadable(path: Path, key: str, error: BaseException) -> str:
    reason = shown(str(error).partition("\n")[0][:200]) or type(error).__name__
    return f"{path}: {key} cannot be read ({reason}). Save the file again with np.savez."


# ---- images, which are read batch by batch


@dataclass(frozen=True, kw_only=True)
class ImageMember:
    """Images inside the zip: where their data lies and what they are.

    Attributes
    ----------
    shape : (N, H, W, 3), of uint8
    start : of the member's bytes in the file, npy header included
    header_size : of the npy header
    """

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    start: int
    header_size: int

    @property
    def stored(self) -> bool:
        """Whether the bytes lie in the file as they are, not compressed."""
        return self.info.compress_type == zipfile.ZIP_STORED

    def batches(self, path: Path, begins: range, end: int) -> Iterator[np.ndarray]:
        """Images uint8 (B, H, W, 3) from each of `begins` on, as many as its step, to before image `end`."""
        return (_read_stored if self.stored else _read_compressed)(path, self, begins, end)


def locate_images(file: NpzFile, key: str, header: Header) -> ImageMember:
    """Where the images of a member lie, whose header has been found good.

    Raises
    ------
    ValueError
        If the entry of the zip is damaged, or the file truncated.
    """
    info, path = file.members[key], file.path
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        local = raw.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ValueError(f"{path}: the zip entry of {key} is damaged.")
    name_size, extra_size = struct.unpack("<HH", local[26:30])
    start = info.header_offset + 30 + name_size + extra_size
    if start + info.compress_size > path.stat().st_size:
        raise ValueError(f"{path}: {key} reaches beyond the end of the file; the file is truncated.")
    return ImageMember(info=info, shape=header.shape, start=start, header_size=header.size)


def _read_stored(path: Path, member: ImageMember, begins: range, end: int) -> Iterator[np.ndarray]:
    stride = int(np.prod(member.shape[1:]))
    first = member.start + member.header_size
    for begin in begins:
        size = min(begins.step, end - begin)
        # A mapping per batch, copied and dropped: one mapping of the whole file would count as resident memory
        # page by page until all of it is.
        mapped = np.memmap(path, np.uint8, "r", first + begin * stride, (size, *member.shape[1:]))
        yield np.array(mapped)


def _read_compressed(path: Path, member: ImageMember, begins: range, end: int) -> Iterator[np.ndarray]:
    stride = int(np.prod(member.shape[1:]))
    with zipfile.ZipFile(path) as archive, archive.open(member.info) as file:
        for begin in begins:
            shape = (min(begins.step, end - begin), *member.shape[1:])
            needed = int(np.prod(shape))
            try:
                if begin == begins.start:  # all before is decompressed and dropped
                    file.seek(member.header_size + begin * stride)
                data = file.read(needed)
            except BROKEN_ARCHIVE as error:
                raise ValueError(f"{path}: arr_0 is damaged near image {begin:,} ({error}).") from None
            if len(data) != needed:
                raise ValueError(f"{path}: arr_0 ends early, near image {begin:,}; the file is truncated.")
            yield np.frombuffer(bytearray(data), np.uint8).reshape(shape)  # a bytearray is writable, as torch wants
