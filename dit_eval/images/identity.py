"""What tells the images of a folder from others under the same names.

Sizes and times of change are known at once, and a copy may lose the times; bytes are sure, and all of them are read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dit_eval.system.ahead import in_order
from dit_eval.system.seals import file_digest
from dit_eval.system.text import shown

Identity = Literal["times", "bytes"]
# What a record says of the images, beside their names, by the rule that it was made by; earlier versions say nothing.
_KEYS: dict[Identity, str] = {"times": "sizes_and_times", "bytes": "bytes_sha256"}
_THREADS, _AHEAD = 4, 64  # that hash files, and files that are hashed ahead
_INSTEAD = "Name another `out`, or remove it."


def identify(
    root: Path, files: Sequence[str], by: Identity, *, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """What a record says of images, beside their names.

    Parameters
    ----------
    files : paths in the folder `root`
    on_progress : called with (bytes read, bytes in all, as the files so far let expect), if bytes are read

    Raises
    ------
    ValueError
        If the bytes of a file cannot be read.
    """
    paths = [root / file for file in files]
    return {_KEYS[by]: _times(paths) if by == "times" else _bytes(paths, on_progress)}


def recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that `identify` gave; empty in one of an earlier version."""
    return {key: record[key] for key in _KEYS.values() if key in record}


def beside(record: Mapping[str, Any]) -> dict[str, Any]:
    """The other part of it."""
    return {key: value for key, value in record.items() if key not in _KEYS.values()}


def check_identity(now: Mapping[str, Any], there: Mapping[str, Any], path: Path) -> None:
    """That a folder of work is of the images that are there now; one of an earlier version does not know.

    Parameters
    ----------
    now, there : records that hold what `identify` gave: of the images, and of the work in the folder `path`

    Raises
    ------
    ValueError
        If the images are others, or known by another rule.
    """
    mine, known = recorded(now), recorded(there)
    if not known or mine == known:
        return
    if mine and mine.keys() != known.keys():
        rule = next(rule for rule, key in _KEYS.items() if key in known)
        raise ValueError(f"{path} knows its images by their {rule}: pass `identity` {rule}, or name another `out`.")
    if _KEYS["bytes"] in known:
        raise ValueError(f"{path} is of other images under the same names: their bytes are others. {_INSTEAD}")
    raise ValueError(
        f"{path} is of other images under the same names: their sizes or times of change are others. If they are a "
        f"copy of the same images, copy the times as well (cp -p, rsync -t). {_INSTEAD}"
    )


def sum_of_sums(digests: Iterable[str]) -> str:
    """SHA-256 of the SHA-256 of each file: of the lines `sha256sum FILE | cut -c-64` in their order."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _times(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:  # read as an image, it is told of
            continue
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _bytes(paths: Sequence[Path], on_progress: Callable[[int, int], None] | None) -> str:
    digests, read = list[str](), 0
    for digest, size in in_order((partial(_digest, path) for path in paths), threads=_THREADS, ahead=_AHEAD):
        digests.append(digest)
        read += size
        if on_progress:
            on_progress(read, read * len(paths) // len(digests))
    return sum_of_sums(digests)


def _digest(path: Path) -> tuple[str, int]:
    try:
        return file_digest(path), path.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"{shown(str(path))}: gone since its folder was listed.") from None
    except OSError as error:
        raise ValueError(f"{shown(str(path))}: cannot be read ({error.strerror}).") from None
