"""Proof that a piece of work on the disk is whole, and of which run it is.

A digest is a SHA-256 in hexadecimal. What earlier versions wrote has none and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGESTS = "digests.json"  # in a finished folder: the digest of each of its files
TRAILER = 64  # bytes that `trailer` gives
_KEY = "digest"
_MAX_HEADER = 100_000_000  # bytes of a safetensors header, as its library has it
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
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: damaged; expected a JSON record.")
    found = about.pop(_KEY, None)
    if found is not None and found != digest_of(_plain(about)):
        raise ValueError(f"{path}: damaged; it is not as it was written.")
    return about


def sealed_tensors(data: bytes) -> list[_BUFFER]:
    """The bytes of a safetensors file, with a digest of all of it in its metadata; parts that follow each other."""
    view = memoryview(data)
    size = 8 + int.from_bytes(view[:8], "little")
    entries = json.loads(bytes(view[8:size]))
    digest = digest_of(_plain(entries), view[size:])
    entries["__metadata__"] = dict(sorted({**entries["__metadata__"], _KEY: digest}.items()))
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little"), header, view[size:]]


def read_sealed_tensors(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file that `sealed_tensors` gave; empty if it has no digest. Reads all of it.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            entries: Any = json.loads(file.read(size)) if size <= _MAX_HEADER else None
            notes = entries["__metadata__"]
            found = notes.pop(_KEY, None)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise ValueError(f"{path}: damaged; its header cannot be read.") from None
        if found is None:
            return {}
        digest = hashlib.sha256(_plain(entries))
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
    """The digest of a file, which need not fit into memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and file_digest(path) == digest


def _plain(about: Mapping[str, Any]) -> bytes:
    """The same bytes for a record and for what a JSON file gives back of it."""
    return json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode()
