"""Files that are read back, within bounds: JSON, the headers of safetensors, `.npy`, and the members of `.npz`.

What a file says of itself is believed up to limits only, and never more than its bytes can hold; sizes are checked
before memory is taken. Whatever is wrong with a file is one `ValueError` with its path and what was found.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import zipfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from warnings import catch_warnings, simplefilter

import numpy as np

from dit_eval.system.archives import BROKEN_ARCHIVE, check_whole_zip, open_zip
from dit_eval.system.files import check_plain
from dit_eval.system.text import reason, shown

_Json = TypeVar("_Json", dict[str, Any], list[Any])
_CHUNK = 1 << 22  # bytes of rows read at once
_MAX_DIRECTORY = 1 << 20  # bytes of the zip's directory: thousands of members
_MAX_HEADER = 1 << 14  # bytes of an npy header; NumPy itself reads 10,000 characters
_MAX_TENSORS = 1 << 22  # bytes of a safetensors header: tens of thousands of tensors
_MAX_RATIO = 1032  # that deflate can reach
_MAX_TEXT = 1 << 26  # bytes of a text: what a million skipped images are listed in
_MAX_LINE = 1 << 24  # bytes of a line
_MAX_MEMBER_TEXT = 1 << 22  # bytes of a text in an npz, four a character
_NPY = b"\x93NUMPY"
# What text that is not ours can raise while it is read: keys and types of every kind, numbers too long for an int, and
# brackets within brackets.
NOT_OURS = (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError)


# ---- texts


def read_text(path: Path, needed: str, *, max_size: int = _MAX_TEXT) -> str:
    """A text of UTF-8.

    Parameters
    ----------
    needed : what the file should be, for messages: "a file of labels"
    max_size : bytes that it may have

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no plain file, is larger, or holds something else.
    """
    check_plain(path, needed)
    with open(path, "rb") as file:
        data = file.read(max_size + 1)  # a file may have grown since its size was asked for
    if len(data) > max_size:
        raise ValueError(f"{path}: more than {max_size:,} bytes, which no such file has; expected {needed}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({reason(error)}); expected {needed}.") from None


def read_json(path: Path, needed: str, *, max_size: int = _MAX_TEXT) -> dict[str, Any]:
    """The object that a JSON file holds; parameters and errors as those of `read_text`."""
    return _read_json(path, needed, max_size, dict)


def read_json_list(path: Path, needed: str, *, max_size: int = _MAX_TEXT) -> list[Any]:
    """The list that a JSON file holds; parameters and errors as those of `read_text`."""
    return _read_json(path, needed, max_size, list)


def _read_json(path: Path, needed: str, max_size: int, kind: type[_Json]) -> _Json:
    text = read_text(path, needed, max_size=max_size)
    try:
        # Half a character may stand in it: paths that are no UTF-8 are written so.
        found = json.loads(text, object_pairs_hook=_each_once)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not JSON ({reason(error)}); expected {needed}.") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: holds {_kind(found)}; expected {needed}.")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON: of a name that stands in it twice, readers would not agree on which counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)[:40]} stands in it twice")
    return found


def lines_of(path: Path, needed: str) -> Iterator[bytes]:
    """The lines of a file, each with the newline that ends it; a last one that was cut short has none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no plain file, or has a line that is longer than any of ours.
    """
    check_plain(path, needed)
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE:
                raise ValueError(f"{path}, line {number}: more than {_MAX_LINE:,} bytes; expected {needed}.")
            yield line


def parse_json(text: str) -> Any:
    """What a JSON text holds, if it can be written again: JSON can spell half a character, which no file may hold.

    Raises
    ------
    ValueError, RecursionError
        If it is none.
    """
    data = json.loads(text)
    json.dumps(data, ensure_ascii=False).encode()
    return data


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float and 64 bits can hold, and no bool."""
    if isinstance(value, int):
        return not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def is_count(value: object) -> bool:
    """Whether it is a number of things: an integer of at most 63 bits that is not below 0."""
    return isinstance(value, int) and is_number(value) and value >= 0


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "nothing")


# ---- headers of safetensors


def tensor_header(file: IO[bytes]) -> dict[str, Any]:
    """What the header of a safetensors file says, as JSON has it; the file then stands at its first tensor.

    Raises
    ------
    ValueError
        If it is none, or larger than those of people's files. The message is the reason alone.
    """
    size = tensor_header_size(file)
    try:
        found = json.loads(file.read(size), object_pairs_hook=_each_once)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"its header is not JSON: {reason(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its header holds {_kind(found)}")
    return found


def tensor_header_size(file: IO[bytes]) -> int:
    """Bytes of the header of a safetensors file, which comes next in it; errors as those of `tensor_header`."""
    size = int.from_bytes(file.read(8), "little")
    if size > _MAX_TENSORS:
        raise ValueError(f"it cannot be read: a header of {size:,} bytes, of which {_MAX_TENSORS:,} are allowed")
    return size


def tensor_file(header: dict[str, Any], tensors: memoryview) -> list[bytes | memoryview]:
    """A safetensors file of a header, its metadata in the order of their names, and of tensors; in parts."""
    text = json.dumps(header | {"__metadata__": dict(sorted(header["__metadata__"].items()))}, separators=(",", ":"))
    data = text.encode()
    data += b" " * (-len(data) % 8)
    return [len(data).to_bytes(8, "little"), data, tensors]


# ---- arrays


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
        header = self._parsed(info, key)
        self._check_size(info, key, header)
        return header

    def array(self, key: str) -> np.ndarray:
        """The data of a member whose header has been read and found good."""
        info = self.members[key]
        try:
            # NumPy warns of headers as Python 2 wrote them, which it reads.
            with self.archive.open(info) as file, catch_warnings():
                simplefilter("ignore")
                return np.lib.format.read_array(file, allow_pickle=False)
        except BROKEN_ARCHIVE as error:
            raise ValueError(_unreadable(self.path, key, error)) from None

    def first_rows(self, key: str, header: Header, count: int) -> np.ndarray:
        """The first rows of a member whose header has been found good; the rest is not decompressed."""
        size = header.dtype.itemsize * math.prod(header.shape[1:]) * min(count, header.shape[0])
        try:
            with self.archive.open(self.members[key]) as file:
                file.read(header.size)
                data = file.read(size)
                if header.shape[0] <= count:
                    file.read(1)  # at its end the checksum is compared
        except BROKEN_ARCHIVE as error:
            raise ValueError(_unreadable(self.path, key, error)) from None
        if len(data) != size:
            raise ValueError(_unreadable(self.path, key, EOFError("it ends early")))
        return np.frombuffer(data, header.dtype).reshape(-1, *header.shape[1:])

    def text(self, key: str) -> str:
        """The JSON text that a member holds.

        Raises
        ------
        ValueError
            As `header`, and if it holds anything else, or more than a limit.
        """
        header = self.header(key)
        if header.shape != () or header.dtype.kind != "U" or header.dtype.itemsize > _MAX_MEMBER_TEXT:
            raise ValueError(
                f"{self.path}: {key} is {header.dtype} {header.shape}; needed one JSON text of at most "
                f"{_MAX_MEMBER_TEXT // 4:,} characters."
            )
        text = self.array(key)
        # NumPy makes strings of numbers that are no characters, and Python fails at them later.
        letters = np.frombuffer(text.astype(header.dtype.newbyteorder("=")).tobytes(), np.uint32)
        if letters.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{self.path}: {key}: holds numbers that are no characters.")
        return str(text)

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

    def _parsed(self, info: zipfile.ZipInfo, key: str) -> Header:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{self.path}: {key} is packed by method {info.compress_type}; needed np.savez or np.savez_compressed."
            )
        try:
            with self.archive.open(info) as file:
                head = _header_text(file)
        except BROKEN_ARCHIVE as error:
            raise ValueError(_unreadable(self.path, key, error)) from None
        return _header(head, self.path, key)

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
        _check_names(path, archive, keys)
        yield NpzFile(path=path, archive=archive, members=_members(archive, path, keys))


def npy_header(path: Path) -> Header:
    """The header of an `.npy` file, whose size is found to be what it promises.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        As `NpzFile.header`.
    """
    check_plain(path, "an .npy file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _header(_header_text(file), path, "the array")
    needed = header.size + header.dtype.itemsize * math.prod(header.shape)
    if size != needed:
        raise ValueError(
            f"{path}: has {size:,} bytes where its header promises {needed:,}; the file is damaged. Copy or make it "
            "again."
        )
    return header


def map_npy(path: Path, header: Header) -> np.ndarray:
    """The array of an `.npy` file whose header has been found good, mapped: nothing is read before it is asked for."""
    if 0 in header.shape:
        return np.zeros(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", header.size, header.shape)


def is_npy(path: Path) -> bool:
    """Whether a file begins as `.npy` files do, whatever its name says."""
    with open(path, "rb") as file:
        return file.read(len(_NPY)) == _NPY


def _header(head: io.BytesIO, path: Path, key: str) -> Header:
    """The header of an array, if it is one of plain values of a shape that arrays have."""
    try:
        shape, fortran, dtype = _parsed_header(head)
    except Exception as error:
        raise ValueError(_unreadable(path, key, error)) from None
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {key} is an object array, which needs pickle and is refused"
            + (
                " (images of different sizes become one). Needed one uint8 array N x H x W x 3: bring all images "
                "to one size and save them again."
                if key == "arr_0"
                else "; save it as an array of numbers."
            )
        )
    if fortran:
        raise ValueError(f"{path}: {key} is stored in Fortran order; save np.ascontiguousarray of it.")
    if any(not 0 <= length < 1 << 40 for length in shape):
        raise ValueError(f"{path}: {key} has a shape that no array has; the file is damaged, or made to do harm.")
    return Header(shape=shape, dtype=dtype, size=head.tell())


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


def _check_names(path: Path, archive: zipfile.ZipFile, keys: Collection[str]) -> None:
    """That no member of one of the keys has another name in the directory, and would be passed over."""
    names = {f"{key}.npy".encode() for key in keys}
    with open(path, "rb") as file:
        for info in archive.infolist():
            if info.header_offset < 0:
                raise ValueError(f"{path}: its directory points outside of the file. Copy or download it again.")
            file.seek(info.header_offset)
            local = file.read(30)
            name = file.read(int.from_bytes(local[26:28], "little")) if local[:4] == b"PK\3\4" else b""
            if name in names and name != info.orig_filename.encode(errors="surrogateescape"):
                raise ValueError(
                    f"{path}: its directory calls {name.decode()} '{shown(info.orig_filename)[:40]}'; the file is "
                    "damaged. Copy or download it again."
                )


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
    if magic == _NPY:
        return f"{path}: a single .npy array, not an .npz. Save it again with np.savez(path, arr_0=images)."
    return f"{path}: not a zip file (it starts with {magic!r}); needed an .npz written by np.savez."


def _unreadable(path: Path, key: str, error: BaseException) -> str:
    reason = shown(str(error).partition("\n")[0][:200]) or type(error).__name__
    return f"{path}: {key} cannot be read ({reason}). Save the file again with np.savez."
