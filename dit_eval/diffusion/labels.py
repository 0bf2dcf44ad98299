"""Which classes to draw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from dit_eval.diffusion.sampler import LABEL_STREAM, random_stream
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import Watch
from dit_eval.system.reading import Header, is_npy, map_npy, npy_header, open_npz
from dit_eval.system.text import did_you_mean, reason, shown

_CHUNK = 1 << 20  # characters of a text read at once
_LONGEST = 40  # characters of a label


def draw_labels(mode: Literal["random", "balanced"], *, num_images: int, num_classes: int, seed: int) -> np.ndarray:
    """Class labels, int64 (N,).

    "random" draws each uniformly, as the paper's samples were drawn; "balanced" counts through the classes over and
    over, so that 50,000 images have 50 of each of 1,000, in an order that does not disturb ADM's Inception Score.
    Label i does not depend on how many there are.
    """
    if mode == "balanced":
        return np.arange(num_images) % num_classes
    return np.array([random_stream(seed, LABEL_STREAM + i).integers(num_classes) for i in range(num_images)], np.int64)


def read_labels(path: str | os.PathLike[str], *, num_images: int, num_classes: int) -> tuple[np.ndarray, str]:
    """The first N labels of a file, int64, and the file's SHA-256.

    Parameters
    ----------
    path : text with one label a line, `.npy`, or the `arr_1` of an `.npz` (another sample file, say)

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds something else, too few labels, or one that is no class.
    """
    path = Path(path)
    if not path.is_file():
        hint = did_you_mean(path.name, ("random", "balanced"))
        raise FileNotFoundError(f'`labels` {path}: no such file; needed a file, "random" or "balanced".{hint}')
    watch = Watch(path)
    arrays = path.suffix in (".npy", ".npz")
    labels = _labels_of_array(path, num_images) if arrays else _labels_of_text(path, num_images)
    if len(labels) < num_images:
        raise ValueError(f"{path}: {len(labels):,} labels; needed {num_images:,}, one per image.")
    wrong = next((place for place, label in enumerate(labels) if not 0 <= label < num_classes), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: label {labels[wrong]} of image {wrong} is no class; the model knows 0 to {num_classes - 1}."
        )
    sha256 = sha256_of(path)
    watch.check()
    return np.array(labels, np.int64), sha256


def _labels_of_array(path: Path, count: int) -> list[int]:
    """The first labels of an `.npy`, or of the `arr_1` of an `.npz`; no more of it takes memory."""
    if path.suffix == ".npy" or is_npy(path):
        header = npy_header(path)
        _check_labels(path, header)
        return map_npy(path, header)[:count].tolist()
    with open_npz(path, {"arr_1"}) as file:
        if "arr_1" not in file.members:
            raise ValueError(f"{path}: holds {', '.join(file.keys()[:8]) or 'nothing'}; needed labels in arr_1.")
        header = file.header("arr_1")
        _check_labels(path, header)
        return file.first_rows("arr_1", header, count).tolist()


def _check_labels(path: Path, header: Header) -> None:
    if len(header.shape) != 1 or header.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels are {shown(header.dtype)[:60]} {header.shape}; needed integers (N,).")


def _labels_of_text(path: Path, count: int) -> list[int]:
    """The first labels of a text; the others are looked at, and take no memory."""
    labels: list[int] = []
    for word in _words(path):
        try:
            label = int(word[: _LONGEST + 1])
        except ValueError:
            label = None
        if label is None or len(word) > _LONGEST:
            raise ValueError(f"{path}: {shown(word[:_LONGEST])!r} is no label; needed one integer a line.")
        if len(labels) < count:
            labels.append(label)
    return labels


def _words(path: Path) -> Iterator[str]:
    """The words of a text; ValueError at one that is longer than any label."""
    rest = ""
    try:
        with open(path, encoding="utf-8") as file:
            while chunk := file.read(_CHUNK):
                words = (rest + chunk).split()
                rest = words.pop() if words and not chunk[-1].isspace() else ""
                yield from words
                if len(rest) > _LONGEST:
                    break
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({reason(error)}); needed one integer a line.") from None
    if rest:
        yield rest
