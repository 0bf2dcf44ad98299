"""Images inside an `.npz` file, read batch by batch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_eval.system.archives import BROKEN_ARCHIVE
from dit_eval.system.reading import Header, NpzFile

_CHUNK = 1 << 22  # bytes per read when images are checked


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

    def check(self, path: Path) -> None:
        """Read all of the images, and compare them with the zip's own checksum.

        Raises
        ------
        ValueError
            If they are not those that were written.
        """
        try:
            with zipfile.ZipFile(path) as archive, archive.open(self.info) as file:
                while file.read(_CHUNK):
                    pass
        except BROKEN_ARCHIVE as error:
            raise ValueError(f"{path}: the images are damaged ({error}).") from None

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
