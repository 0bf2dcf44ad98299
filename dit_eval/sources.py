"""Where the files of an image set lie: in a folder, a zip or a tar, listed in one order and read as bytes.

Nothing is unpacked to disk, and no name is ever used to write. Archives come from anywhere, so what a member claims of
itself is believed only up to the limits below, and whatever has no business in a set of images (links, devices, paths
that lead out, a name twice) ends the run with its name rather than change the number of images without a word.

All three list the same files in the same order, so that the same images give the same results:

- by path, folder by folder, numbers in names by their value: `2.png` before `10.png`, as the sampler counted them;
- left out without a word: what begins with a dot, `__MACOSX`, `Thumbs.db`, `desktop.ini`;
- left out and told: files that are no images, such as `args.json`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from dit_eval.system.files import BROKEN_ARCHIVE, Watch, check_whole_zip, open_zip
from dit_eval.system.text import shown

# Kinds of images that people keep; of these, ENCODED_SUFFIXES are scored.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ENCODED_SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_FILE = 1 << 26  # bytes of an image file: more than 4096 x 4096 px, RGB, without compression
_OTHER_IMAGES = {*IMAGE_SUFFIXES, ".avif", ".gif", ".heic", ".jp2", ".jxl"} - set(ENCODED_SUFFIXES)
_ARCHIVE_SUFFIXES = {".7z", ".bz2", ".gz", ".npz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}
_LITTER = {"__macosx", "desktop.ini", "thumbs.db"}
_MAX_MEMBERS = 2_000_000  # of an archive; ImageNet's training set has 1.28 million
_MAX_DIRECTORY = 1 << 28  # bytes of a zip's directory
_MAX_EXTENSION = 1 << 16  # bytes of a tar's long name or pax header
_MAX_NAME = 4096
# A gzip may give up to a thousand times its size. Image files hardly shrink, and blank ones by less than this.
_MAX_RATIO, _FREE = 200, 1 << 26
_WINDOW = 1 << 29  # bytes of image files held at once where a compressed tar is not in order
_BLOCK = 512  # of a tar
_STEP = 1 << 20  # bytes passed over at once

Load = Callable[[], bytes]


class Source(Protocol):
    """Image files in their order.

    Attributes
    ----------
    path : of the folder or archive
    names : of the images in it, in order
    digests : SHA-256 of each file and whether it is a JPEG, where listing has read them anyway
    remarks : what a user should know
    """

    @property
    def path(self) -> Path | str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def digests(self) -> tuple[tuple[str, bool], ...] | None: ...

    @property
    def remarks(self) -> tuple[str, ...]: ...

    def where(self, index: int) -> str:
        """What a message calls a file."""
        ...

    def check_unchanged(self) -> None:
        """That what has been read is still there as it was; ValueError if not."""
        ...

    def reading(self) -> AbstractContextManager[Callable[[Sequence[int]], Iterator[Load]]]:
        """A context with a function from indices to what loads each file, in that order; loading may be in threads."""
        ...


def is_jpeg(data: bytes) -> bool:
    """Whether a file begins as a JPEG does, whatever its name says."""
    return data.startswith(b"\xff\xd8\xff")


def in_order(name: str) -> tuple[Any, ...]:
    """Sort key of a path: folder by folder, numbers by value, then by the characters themselves."""
    # Digits compare by length, then as text: no number is too long.
    parts = (re.split(r"([0-9]+)", part) for part in name.split("/"))
    keys = [[(len(t.lstrip("0")), t.lstrip("0")) if k % 2 else t for k, t in enumerate(part)] for part in parts]
    return keys, name


@dataclass(kw_only=True)
class _Listing:
    """Names gathered one by one, and what each image file is read by; refuses what no image set has."""

    path: Path
    archive: bool
    found: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    members: int = 0

    def path_of(self, name: str) -> str | None:
        """A member's name without empty parts; None for what is left out without a word."""
        self.members += 1
        if self.members > _MAX_MEMBERS:
            raise ValueError(f"{self.path}: more than {_MAX_MEMBERS:,} members. Pass a part of them at a time.")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
            raise ValueError(
                f"{self.path}: a member is called '{shown(name)}', a path that leads out of the archive, or that other "
                "systems would read so. Such archives are refused; pack the images again."
            )
        if len(name) > _MAX_NAME:
            raise ValueError(f"{self.path}: a member's name of {len(name):,} characters; at most {_MAX_NAME:,}.")
        if any(part.startswith(".") or part.lower() in _LITTER for part in parts):
            return None
        return "/".join(parts)

    def wants(self, name: str, size: int = 0) -> bool:
        """Whether a file is an image of the set, to be put in `found`."""
        suffix = Path(name).suffix.lower()
        where = f"{self.path}: {shown(name)}"
        if suffix in ENCODED_SUFFIXES:
            if name in self.found:
                raise ValueError(f"{where}: two members have this name. Pack the images again, each under its own.")
            if size > MAX_FILE:
                raise ValueError(f"{where}: {size:,} bytes; an image file may have {MAX_FILE:,}.")
            return True
        if suffix in _OTHER_IMAGES:
            raise ValueError(f"{where}: a {suffix} file; needed PNG (or JPEG). Save the images as PNG.")
        if self.archive and suffix in _ARCHIVE_SUFFIXES:
            raise ValueError(f"{where}: an archive in the archive, which is not opened. Pack the images themselves.")
        self.left_out.append(name)
        return False

    def ordered(self) -> tuple[tuple[str, ...], list[Any], tuple[str, ...]]:
        """Names of the images, in order, what each is read by, and a remark on what is left out."""
        if not self.found:
            others = ", ".join(map(shown, sorted(self.left_out)[:5]))
            hint = f" It holds: {others}." if others else " It is empty."
            if "arr_0.npy" in self.left_out:
                hint += " With arr_0 it is an .npz; give it that name."
            raise ValueError(f"{self.path}: no images there; needed PNG files.{hint}")
        names = sorted(self.found, key=in_order)
        remarks = []
        if self.left_out:
            some = ", ".join(map(shown, sorted(self.left_out)[:3])) + (", ..." if len(self.left_out) > 3 else "")
            remarks.append(f"{self.path}: left out {len(self.left_out):,} file(s) that are no images: {some}.")
        return tuple(names), [self.found[name] for name in names], tuple(remarks)


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Image files below a folder. Links are followed, to files and to folders, but no folder is read twice."""

    path: Path
    names: tuple[str, ...]
    remarks: tuple[str, ...]
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
    listing, visited = _Listing(path=path, archive=False), set[tuple[int, int]]()
    _walk(path, "", listing, visited)
    names, _, remarks = listing.ordered()
    return FolderSource(path=path, names=names, remarks=remarks)


def _walk(root: Path, below: str, listing: _Listing, visited: set[tuple[int, int]]) -> None:
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
            if entry.name.startswith(".") or entry.name.lower() in _LITTER:
                continue
            if entry.is_dir():
                _walk(root, name, listing, visited)
            elif not listing.wants(name):
                continue
            elif entry.is_file():
                listing.found[name] = None
            elif entry.is_symlink():
                raise ValueError(f"{root}: {shown(name)}: a link to nothing. Restore the file, or remove the link.")
            else:
                raise ValueError(f"{root}: {shown(name)}: not a plain file. Remove it.")
    except (OSError, RecursionError) as error:
        raise ValueError(f"{root}: {shown(below) or 'the folder'} cannot be read ({_reason(error)}).") from None


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
        raise ValueError(f"{where}: cannot be read ({_reason(error)}).") from None


@dataclass(frozen=True, kw_only=True)
class ZipSource:
    """Image files in a zip."""

    path: Path
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    members: tuple[zipfile.ZipInfo, ...]
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
                    raise ValueError(f"{self.where(index)}: {_damaged(error)}") from None

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
    listing, watch = _Listing(path=path, archive=True), Watch(path)
    with _opened(path) as archive:
        infos = archive.infolist()
        check_whole_zip(path, archive)
    for info in infos:
        name = listing.path_of(info.orig_filename)
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "a device or pipe"
            raise ValueError(f"{path}: {shown(info.orig_filename)}: {what}; needed plain files. Pack the images again.")
        if name is None or info.is_dir():
            continue
        if info.flag_bits & 1:
            raise ValueError(f"{path}: {shown(name)}: encrypted. Unlock it, or pack the images again without password.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{path}: {shown(name)}: packed by method {info.compress_type}; needed stored or deflated members. "
                "Pack the images again; `zip -0` is fastest to read."
            )
        if listing.wants(name, info.file_size):
            listing.found[name] = info
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < 0:
            raise ValueError(f"{path}: {_damaged(EOFError('its beginning is missing'))}")
        if info.header_offset < end:
            raise ValueError(
                f"{path}: {shown(info.filename)}: shares its bytes with another member, a zip bomb's trick."
            )
        end = info.header_offset + info.compress_size
    if end > path.stat().st_size:
        raise ValueError(f"{path}: {_damaged(EOFError('a member reaches beyond its end'))}")
    names, members, remarks = listing.ordered()
    return ZipSource(path=path, names=names, remarks=remarks, members=tuple(members), _watch=watch)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(open_zip(path, max_directory=_MAX_DIRECTORY))
        except BROKEN_ARCHIVE as error:
            raise ValueError(f"{path}: {_damaged(error)}") from None
        yield archive


@dataclass(frozen=True, kw_only=True)
class TarSource:
    """Image files in a tar, plain or compressed by gzip.

    A plain tar is read at any place. A compressed one can only be read from its start: in one pass if its members are
    in order, else in as many as it takes with half a gigabyte of files held at a time.

    Attributes
    ----------
    extents : offset and size of each file, in the tar without compression
    compressed : by gzip
    """

    path: Path
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    extents: tuple[tuple[int, int], ...]
    compressed: bool
    digests: tuple[tuple[str, bool], ...] | None
    _watch: Watch

    def where(self, index: int) -> str:
        return f"{self.path}: {shown(self.names[index])}"

    def check_unchanged(self) -> None:
        self._watch.check()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        self.check_unchanged()  # or members would be looked for where they were
        if self.compressed:
            yield self._from_stream
            return
        with open(self.path, "rb", buffering=0) as file:

            def load(index: int) -> bytes:
                offset, size = self.extents[index]
                try:
                    data = os.pread(file.fileno(), size, offset)
                except OSError as error:
                    raise ValueError(f"{self.where(index)}: {_damaged(error)}") from None
                if len(data) != size:
                    raise ValueError(f"{self.where(index)}: {_damaged(EOFError('it ends early'))}")
                return data

            yield lambda indices: (partial(load, i) for i in indices)

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
    listing, watch = _Listing(path=path, archive=True), Watch(path)
    with open(path, "rb") as file:
        magic = file.read(6)
        for begin, kind in ((b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")):
            if magic.startswith(begin):
                raise ValueError(f"{path}: compressed by {kind}; needed .tar or .tar.gz. PNG files do not get smaller.")
        compressed = magic.startswith(b"\x1f\x8b")
        stream = _Stream(path, file, compressed=compressed)
        for name, offset, size in _tar_files(stream, listing):
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
    return TarSource(
        path=path,
        names=names,
        remarks=remarks,
        extents=extents,
        compressed=compressed,
        digests=tuple(digest for _, _, digest in entries) if compressed else None,
        _watch=watch,
    )


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
            raise ValueError(f"{self._path}: {_damaged(error)}") from None
        self.position += len(data)
        if self._compressed and self.position > _FREE + _MAX_RATIO * self._raw.tell():
            raise ValueError(
                f"{self._path}: expands to more than {_MAX_RATIO} times its size, which image files never do. "
                "Such archives are refused."
            )
        return data


def _tar_files(stream: _Stream, listing: _Listing) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file, before its bytes are passed over.

    Reads what tar, GNU tar, bsdtar and Python write: ustar, GNU long names, pax paths and sizes. The standard library's
    reader takes a header of any promised size into memory, and some of its releases loop on negative ones.
    """
    path, long_name, pax = listing.path, None, dict[bytes, bytes]()
    while True:
        block = stream.read(_BLOCK)
        if not block.strip(b"\0"):
            return
        at = stream.position - _BLOCK
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise ValueError(f"{path}: no tar header at byte {at:,}, where one is needed; it is damaged, or no tar.")
        size, kind = _number(block[124:136]), block[156:157]
        if kind in (b"L", b"K", b"x", b"g"):
            if not 0 <= size <= _MAX_EXTENSION:
                raise ValueError(f"{path}: a header of {size:,} bytes at byte {at:,}; at most {_MAX_EXTENSION:,}.")
            data = stream.read(-(-size // _BLOCK) * _BLOCK)[:size]
            if kind == b"L":
                long_name = data.rstrip(b"\0")
            elif kind in (b"x", b"g"):
                fields = _pax_fields(data, path, at)
                if any(key.startswith(b"GNU.sparse") for key in fields):
                    raise ValueError(f"{path}: a sparse file at byte {at:,}; pack the images again without --sparse.")
                if kind == b"x":
                    pax = fields
            continue
        raw = block[:100].split(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345]:
            raw = block[345:500].split(b"\0")[0] + b"/" + raw
        raw = pax.get(b"path", long_name if long_name is not None else raw)
        if b"size" in pax:
            size = int(pax[b"size"]) if re.fullmatch(rb"[0-9]{1,15}", pax[b"size"]) else -1
        long_name, pax = None, {}
        name = raw.decode("utf-8", "surrogateescape")
        if size < 0:
            raise ValueError(f"{path}: {shown(name)}: no size that can be; it is damaged, or made to do harm.")
        kept = listing.path_of(name)
        if kind not in (b"0", b"\0", b"7", b"5"):
            what = {b"1": "a hard link", b"2": "a symbolic link"}.get(kind, "a device, a pipe or another special file")
            hint = {b"1": " with --hard-dereference", b"2": " with --dereference"}.get(kind, "")
            raise ValueError(f"{path}: {shown(name)}: {what}; needed plain files. Pack the images again{hint}.")
        begin = stream.position
        if kind != b"5" and kept is not None and not name.endswith("/"):
            yield kept, begin, size
        if kind != b"5":  # of a folder, the size is no size of data
            stream.pass_to(begin + -(-size // _BLOCK) * _BLOCK)


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


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _damaged(error: BaseException) -> str:
    return f"cannot be read ({_reason(error)}); it is damaged or truncated. Copy or download it again."
