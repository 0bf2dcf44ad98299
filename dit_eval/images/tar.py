"""Tar archives of image files, read as a stream and never unpacked.

A plain tar may hold plain tars, as ImageNet's training set has one for each class: what is in `n01440764.tar` has the
path `n01440764/...`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dit_eval.images.encoded import ImageFiles, image_files
from dit_eval.images.listing import Listing, damaged, is_jpeg
from dit_eval.images.reader import Reader, Role
from dit_eval.results.settings import Crop
from dit_eval.system.archives import BROKEN_ARCHIVE
from dit_eval.system.files import Watch
from dit_eval.system.text import shown

if TYPE_CHECKING:
    from dit_eval.images.listing import Load

_MAX_EXTENSION = 1 << 16  # bytes of a tar's long name or pax header
# A gzip may give up to a thousand times its size. Image files hardly shrink, and blank ones by less than this.
_MAX_RATIO, _FREE = 200, 1 << 26
_WINDOW = 1 << 29  # bytes of image files held at once where a compressed tar is not in order
_BLOCK = 512  # of a tar
_TAR = ".tar"
ENDINGS = (_TAR, ".tar.gz", ".tgz")
_STEP = 1 << 20  # bytes passed over at once


@dataclass(frozen=True, kw_only=True)
class TarSource:
    """Image files in a tar, plain or compressed by gzip.

    A plain tar is read at any place. A compressed one can only be read from its start: in one pass if its members are
    in order, else in as many as it takes with half a gigabyte of files held at a time.

    Attributes
    ----------
    extents : offset and size of each file, in the tar without compression
    compressed : by gzip
    left_out : files that are no images
    is_shard : whether such a file is called as an image beside it, but for the ending: 0.jpg and 0.cls, as in shards of
        WebDataset
    """

    path: Path
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    extents: tuple[tuple[int, int], ...]
    compressed: bool
    left_out: int = 0
    is_shard: bool = False
    named: bool = True
    digests: tuple[tuple[str, bool], ...] | None
    _watch: Watch

    def where(self, index: int) -> str:
        return f"{self.path}: {shown(self.names[index])}"

    @property
    def is_in_order(self) -> bool:
        """Whether one pass reads all; a plain tar is read at any place."""
        return not self.compressed or list(self.extents) == sorted(self.extents)

    def check_unchanged(self) -> None:
        self._watch.check()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        self.check_unchanged()  # or members would be looked for where they were
        if self.compressed:
            yield self._from_stream
            return
        with open(self.path, "rb", buffering=0) as file:
            yield lambda indices: (partial(self._load, file.fileno(), i) for i in indices)

    def loads(self, indices: Sequence[int]) -> Iterator[Load]:
        """What loads each file; of a plain tar it opens the tar each time, so that thousands need not be open."""
        yield from self._from_stream(indices) if self.compressed else (partial(self._load_alone, i) for i in indices)

    def _load_alone(self, index: int) -> bytes:
        try:
            with open(self.path, "rb", buffering=0) as file:
                return self._load(file.fileno(), index)
        except OSError as error:
            raise ValueError(f"{self.where(index)}: {damaged(error)}") from None

    def _load(self, file: int, index: int) -> bytes:
        offset, size = self.extents[index]
        try:
            data = os.pread(file, size, offset)
        except OSError as error:
            raise ValueError(f"{self.where(index)}: {damaged(error)}") from None
        if len(data) != size:
            raise ValueError(f"{self.where(index)}: {damaged(EOFError('it ends early'))}")
        return data

    def _from_stream(self, indices: Sequence[int]) -> Iterator[Load]:
        with open(self.path, "rb") as file:
            stream = _Stream(self.path, file, compressed=True)
            for window in self._windows(indices):
                files = {}
                for index in sorted(window, key=lambda i: self.extents[i]):
                    offset, size = self.extents[index]
                    if offset < stream.position:
                        stream = _Stream(self.path, file, compressed=True)
                    stream.pass_to(offset)
                    files[index] = stream.read(size)
                yield from (partial(files.pop, i) for i in window)

    def _windows(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Files that are held at once: one, as long as they come in order; else up to a limit."""
        window: list[int] = []
        held = 0
        extents = [self.extents[i] for i in indices]
        sizes = 0 if extents == sorted(extents) else _WINDOW
        for index in indices:
            size = self.extents[index][1]
            if window and held + size > sizes:
                yield window
                window, held = [], 0
            window.append(index)
            held += size
        if window:
            yield window


def list_tar(path: Path) -> TarSource:
    """Find the image files in a tar, plain or compressed by gzip; of the latter all is read, and checked.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no images, is damaged or truncated, or made to do harm.
    """
    listing, watch = Listing(path=path, archive=True), Watch(path)
    with open(path, "rb") as file:
        compressed = _is_gzip(path, file.read(6))
        stream = _Stream(path, file, compressed=compressed)
        for outer, begin, length in _tar_files(stream, listing):
            inner = not compressed and outer.lower().endswith(_TAR)
            for name, offset, size in (
                _inner_files(stream, listing, outer, length) if inner else [(outer, begin, length)]
            ):
                if listing.wants(name, size):
                    # All of a compressed tar goes by here; its checksums need no pass of their own.
                    listing.found[name] = offset, size, _digest(stream, size) if compressed else None
        stream.finish()
    names, entries, remarks = listing.ordered()
    extents = tuple((offset, size) for offset, size, _ in entries)
    if compressed and list(extents) != sorted(extents):
        remarks += (
            f"{path}: compressed, and not in order: it takes a pass for every {_WINDOW >> 20} MiB of images. "
            "A .tar, or one made with tar --sort=name, takes one.",
        )
    keys = {name.rpartition(".")[0] for name in names}
    return TarSource(
        path=path,
        names=names,
        remarks=remarks,
        extents=extents,
        compressed=compressed,
        left_out=len(listing.left_out),
        is_shard=any(name.rpartition(".")[0] in keys for name in listing.left_out),
        digests=tuple(digest for _, _, digest in entries) if compressed else None,
        _watch=watch,
    )


def _is_gzip(path: Path, magic: bytes) -> bool:
    for begin, kind in ((b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if magic.startswith(begin):
            raise ValueError(f"{path}: compressed by {kind}; needed .tar or .tar.gz. PNG files do not get smaller.")
    return magic.startswith(b"\x1f\x8b")


def _digest(stream: _Stream, size: int) -> tuple[str, bool]:
    data = stream.read(size)
    return hashlib.sha256(data).hexdigest(), is_jpeg(data)


class _Stream:
    """The bytes of a tar from its start on, uncompressed; short reads and bombs are errors."""

    def __init__(self, path: Path, file: IO[bytes], *, compressed: bool) -> None:
        file.seek(0)
        self._path, self._raw, self._compressed = path, file, compressed
        self._file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=file, mode="rb") if compressed else file
        self._size = os.fstat(file.fileno()).st_size
        self.position = 0

    def read(self, size: int) -> bytes:
        """So many bytes, no fewer."""
        data = self._some(size)
        if len(data) != size:
            raise ValueError(f"{self._path}: ends within a member, or unfinished; it is truncated. Copy it again.")
        return data

    def pass_to(self, position: int) -> None:
        """Go on at a later place."""
        if not self._compressed:
            if position > self._size:
                raise ValueError(f"{self._path}: ends within a member; it is truncated. Copy it again.")
            self._file.seek(position)
            self.position = position
        while self.position < position:
            self.read(min(_STEP, position - self.position))

    def finish(self) -> None:
        """Read what follows the end, which may be padding alone; of gzip, this compares the checksum."""
        end = self.position
        while data := self._some(_STEP):
            if data.strip(b"\0") or self.position > end + _FREE:
                raise ValueError(
                    f"{self._path}: goes on after its end, at byte {end:,}, where other programs stop: archives joined "
                    "by cat, say. Unpack it by `tar --ignore-zeros`, and pack all images into one archive."
                )

    def _some(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except BROKEN_ARCHIVE as error:
            raise ValueError(f"{self._path}: {damaged(error)}") from None
        self.position += len(data)
        if self._compressed and self.position > _FREE + _MAX_RATIO * self._raw.tell():
            raise ValueError(
                f"{self._path}: expands to more than {_MAX_RATIO} times its size, which image files never do. "
                "Such archives are refused."
            )
        return data


class _Part:
    """The bytes of a member that is a tar itself, by their places in the whole."""

    def __init__(self, stream: _Stream, *, name: str, size: int) -> None:
        self._stream, self._name, self._end = stream, name, stream.position + size

    @property
    def position(self) -> int:
        return self._stream.position

    def read(self, size: int) -> bytes:
        self._check(self.position + size)
        return self._stream.read(size)

    def pass_to(self, position: int) -> None:
        self._check(position)
        self._stream.pass_to(position)

    def _check(self, position: int) -> None:
        if position > self._end:
            raise ValueError(
                f"{self._name}: ends within a member; it is truncated. Copy or download the archive again."
            )


def _inner_files(stream: _Stream, listing: Listing, outer: str, size: int) -> Iterator[tuple[str, int, int]]:
    """As `_tar_files`, of a tar of `size` bytes that is called `outer` and begins here."""
    part = _Part(stream, name=f"{listing.path}: {shown(outer)}", size=size)
    folder = outer[: -len(_TAR)]
    for name, offset, length in _tar_files(part, listing):
        yield f"{folder}/{name}", offset, length


def _tar_files(stream: _Stream | _Part, listing: Listing) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file, before its bytes are passed over.

    Reads what tar, GNU tar, bsdtar and Python write: ustar, GNU long names, pax paths and sizes. The standard library's
    reader takes a header of any promised size into memory, and some of its releases loop on negative ones.
    """
    path, extension = listing.path, _Extension()
    while (block := stream.read(_BLOCK)).strip(b"\0"):
        at = stream.position - _BLOCK
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise ValueError(f"{path}: no tar header at byte {at:,}, where one is needed; it is damaged, or no tar.")
        kind = block[156:157]
        if kind in _EXTENSIONS:
            extension.read(stream, path, block, at)
            continue
        name, size = extension.name_and_size(block)
        extension = _Extension()
        if size < 0:
            raise ValueError(f"{path}: {shown(name)}: no size that can be; it is damaged, or made to do harm.")
        kept = listing.path_of(name)
        _check_kind(path, name, kind)
        begin = stream.position
        if kind == _FOLDER:  # whose size is no size of data
            continue
        if kept is not None and not name.endswith("/"):
            yield kept, begin, size
        stream.pass_to(begin + _padded(size))


_EXTENSIONS = (b"L", b"K", b"x", b"g")  # GNU long names of files and of links, pax records of a member and of all
_FOLDER = b"5"


class _Extension:
    """What headers of their own say of the member behind them."""

    def __init__(self) -> None:
        self._long_name: bytes | None = None
        self._pax: dict[bytes, bytes] = {}

    def read(self, stream: _Stream | _Part, path: Path, block: bytes, at: int) -> None:
        """Take in the header `block`, which lies at byte `at`, with the data behind it."""
        size, kind = _number(block[124:136]), block[156:157]
        if not 0 <= size <= _MAX_EXTENSION:
            raise ValueError(f"{path}: a header of {size:,} bytes at byte {at:,}; at most {_MAX_EXTENSION:,}.")
        data = stream.read(_padded(size))[:size]
        if kind == b"L":
            self._long_name = data.rstrip(b"\0")
        elif kind in (b"x", b"g"):
            fields = _pax_fields(data, path, at)
            if any(key.startswith(b"GNU.sparse") for key in fields):
                raise ValueError(f"{path}: a sparse file at byte {at:,}; pack the images again without --sparse.")
            if kind == b"x":
                self._pax = fields

    def name_and_size(self, block: bytes) -> tuple[str, int]:
        """Of the member with the header `block`; a size of -1 is none."""
        raw, size = block[:100].split(b"\0")[0], _number(block[124:136])
        if block[257:263] == b"ustar\0" and block[345]:
            raw = block[345:500].split(b"\0")[0] + b"/" + raw
        raw = self._pax.get(b"path", self._long_name if self._long_name is not None else raw)
        if (text := self._pax.get(b"size")) is not None:
            size = int(text) if re.fullmatch(rb"[0-9]{1,15}", text) else -1
        return raw.decode("utf-8", "surrogateescape"), size


def _check_kind(path: Path, name: str, kind: bytes) -> None:
    if kind not in (b"0", b"\0", b"7", _FOLDER):
        what = {b"1": "a hard link", b"2": "a symbolic link"}.get(kind, "a device, a pipe or another special file")
        hint = {b"1": " with --hard-dereference", b"2": " with --dereference"}.get(kind, "")
        raise ValueError(f"{path}: {shown(name)}: {what}; needed plain files. Pack the images again{hint}.")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _number(text: bytes) -> int:
    """A number of a tar header: octal digits, or base 256; -1 if it is none."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else -1


def _pax_fields(data: bytes, path: Path, at: int) -> dict[bytes, bytes]:
    """Records of a pax header: the length of the record, a space, key=value, a newline."""
    fields, begin = {}, 0
    while begin < len(data):
        length = re.compile(rb"([0-9]{1,6}) ").match(data, begin)
        end = begin + int(length[1]) if length else 0
        key, equals, value = data[length.end() if length else 0 : end].partition(b"=")
        if length is None or not length.end() < end <= len(data) or not equals or not value.endswith(b"\n"):
            raise ValueError(f"{path}: the pax header at byte {at:,} cannot be read; it is damaged.")
        fields[key] = value[:-1]
        begin = end
    return fields


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageFiles:
    return image_files(list_tar(path), num_images, crop=crop)


TAR = Reader(
    name="tar",
    recognises=lambda path: path.is_file() and path.name.lower().endswith(ENDINGS),
    open=_open,
)
