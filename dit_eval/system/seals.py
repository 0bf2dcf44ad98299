"""Proof that a piece of work on the disk is whole, and of which run it is.

A digest is a SHA-256 in hexadecimal. What earlier versions wrote has none and is taken as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_eval.system.files import check_plain
from dit_eval.system.reading import read_json, tensor_file, tensor_header
from dit_eval.system.text import reason

DIGESTS = "digests.json"  # in a finished folder: the digest of each of its files
TRAILER = 64  # bytes that `trailer` gives
_KEY = "digest"
_CHUNK = 1 << 20
_BUFFER = bytes | bytearray | memoryview


def digest_of(*parts: _BUFFER) -> str:
    """The digest of bytes, as of one piece."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def run_digest(settings: Mapping[str, Any]) -> str:
    """The digest of what tells a run from others."""
    return digest_of(_plain(settings))


def trailer(data: _BUFFER, *, name: str, run: str) -> bytes:
    """What is written behind the bytes of a piece: the run's digest, and one of run, name and bytes."""
    of_run = bytes.fromhex(run)
    return of_run + bytes.fromhex(digest_of(of_run, name.encode(), data))


def fault(data: _BUFFER, tail: bytes, *, name: str, run: str) -> str | None:
    """Why a piece with this trailer cannot be taken into a run; None if it can."""
    if tail != trailer(data, name=name, run=tail[: TRAILER // 2].hex()):
        return "damaged"
    return None if tail[: TRAILER // 2].hex() == run else "of another run"


def sealed(about: Mapping[str, Any]) -> dict[str, Any]:
    """A record for a JSON file, with its own digest."""
    return {**about, _KEY: digest_of(_plain(about))}


def read_sealed(path: Path) -> dict[str, Any]:
    """The record in a JSON file that `sealed` was written to, without its digest; or one that has none.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        about = read_json(path, "a JSON record")
    except ValueError as error:
        said = reason(error).removeprefix(f"{path}: ").rstrip(".")
        raise ValueError(f"{path}: damaged ({said}).") from None
    found = about.pop(_KEY, None)
    if found is not None and found != digest_of(_plain(about)):
        raise ValueError(f"{path}: damaged; it is not as it was written.")
    return about


def sealed_tensors(data: bytes) -> list[bytes | memoryview]:
    """The bytes of a safetensors file, with a digest of all of it in its metadata; parts that follow each other."""
    made = io.BytesIO(data)
    header = tensor_header(made)
    tensors = memoryview(data)[made.tell() :]
    header["__metadata__"][_KEY] = digest_of(_plain(header), tensors)
    return tensor_file(header, tensors)


def read_sealed_tensors(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file that `sealed_tensors` gave; empty if it has no digest. Reads all of it.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    with open(path, "rb") as file:
        try:
            header = tensor_header(file)
        except ValueError:
            raise ValueError(f"{path}: damaged; its header cannot be read.") from None
        notes = header.get("__metadata__")
        if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
            raise ValueError(f"{path}: damaged; its header has no texts.")
        found = notes.pop(_KEY, None)
        if found is None:
            return {}
        digest = hashlib.sha256(_plain(header))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != found:
        raise ValueError(f"{path}: damaged; it is not as it was written.")
    return notes


def read_digests(folder: Path) -> dict[str, str]:
    """Digests of the files of a folder by their names; none in one of an earlier version.

    Raises
    ------
    ValueError
        If the file that has them is damaged.
    """
    path = folder / DIGESTS
    if not path.exists():
        return {}
    files = read_sealed(path).get("files")
    if not isinstance(files, dict) or not all(
        isinstance(value, str) and "/" not in name for name, value in files.items()
    ):
        raise ValueError(f"{path}: damaged; expected the digest of each file.")
    return files


def damaged_files(folder: Path) -> list[str]:
    """Names of files in a folder that are not as its digests say, gone ones too. Reads all that it has digests of."""
    try:
        digests = read_digests(folder)
    except ValueError:
        return [DIGESTS]
    return [name for name, digest in digests.items() if not _is(folder / name, digest)]


def file_digest(path: Path) -> str:
    """The digest of a file, which need not fit into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no plain file.
    """
    check_plain(path, "a file to compare")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and file_digest(path) == digest


def _plain(about: Mapping[str, Any]) -> bytes:
    """The same bytes for a record and for what a JSON file gives back of it."""
    return json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode()
