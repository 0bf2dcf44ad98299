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

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from dit_eval.system.text import shown

# Kinds of images that people keep; of these, ENCODED_SUFFIXES are scored.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ENCODED_SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_FILE = 1 << 26  # bytes of an image file: more than 4096 x 4096 px, RGB, without compression
_OTHER_IMAGES = {*IMAGE_SUFFIXES, ".avif", ".gif", ".heic", ".jp2", ".jxl"} - set(ENCODED_SUFFIXES)
_ARCHIVE_SUFFIXES = {".7z", ".bz2", ".gz", ".npz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}
_DIGITS = re.compile(r"([0-9]+)")
LITTER = {"__macosx", "desktop.ini", "thumbs.db"}
MAX_MEMBERS = 2_000_000  # of an archive; ImageNet's training set has 1.28 million
_MAX_NAME = 4096
PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
Load = Callable[[], bytes]


class Source(Protocol):
    """Image files in their order.

    Attributes
    ----------
    path : of the folder or archive
    names : of the images in it, in order
    named : whether these are names of files, and not numbers of rows
    digests : SHA-256 of each file and whether it is a JPEG, where listing has read them anyway
    remarks : what a user should know
    """

    @property
    def path(self) -> Path | str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def named(self) -> bool: ...

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


def is_png(data: bytes) -> bool:
    """Whether a file begins as a PNG does, whatever its name says."""
    return data.startswith(PNG)


def in_order(name: str) -> str:
    """Sort key of a path: folder by folder, numbers by value, then by the characters themselves.

    It is one text, for of ImageNet's training set 1.28 million are in memory at once. No name holds a NUL, which so
    comes before all that goes on: the end of a text, of a part, and of the path.
    """
    folder, _, file = name.rpartition("/")
    parts = "".join(map(_part_key, folder.split("/"))) if folder else ""
    return f"{parts}{_part_key.__wrapped__(file)}\0{name}"


@lru_cache(maxsize=1024)
def _part_key(part: str) -> str:
    """Sort key of a part of a path. Digits compare by length, then as text: no number is too long."""
    tokens = _DIGITS.split(part)
    for k in range(1, len(tokens), 2):
        digits = tokens[k].lstrip("0")
        tokens[k] = f"\0{chr(1 + len(digits))}{digits}"
    return f"\1{''.join(tokens)}\0\0"


@dataclass(kw_only=True)
class Listing:
    """Names gathered one by one, and what each image file is read by; refuses what no image set has."""

    path: Path
    archive: bool
    found: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    members: int = 0

    def path_of(self, name: str) -> str | None:
        """A member's name without empty parts; None for what is left out without a word."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise ValueError(f"{self.path}: more than {MAX_MEMBERS:,} members. Pass a part of them at a time.")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or re.search(r"^/|^[A-Za-z]:|[\\\0]", name):
            raise ValueError(
                f"{self.path}: a member is called '{shown(name)}', a path that leads out of the archive, or that other "
                "systems would read so. Such archives are refused; pack the images again."
            )
        if len(name) > _MAX_NAME:
            raise ValueError(f"{self.path}: a member's name of {len(name):,} characters; at most {_MAX_NAME:,}.")
        if any(part.startswith(".") or part.lower() in LITTER for part in parts):
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
        remarks = (left_out_remark(self.path, self.left_out),) if self.left_out else ()
        return tuple(names), [self.found[name] for name in names], remarks


def left_out_remark(path: Path, names: Sequence[str]) -> str:
    """What is said of files that are no images."""
    some = ", ".join(map(shown, sorted(names)[:3])) + (", ..." if len(names) > 3 else "")
    return f"{path}: left out {len(names):,} file(s) that are no images: {some}."


def why(error: BaseException) -> str:
    """What the system says of an error, in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def damaged(error: BaseException) -> str:
    """What a message says of an archive that cannot be read."""
    return f"cannot be read ({why(error)}); it is damaged or truncated. Copy or download it again."
