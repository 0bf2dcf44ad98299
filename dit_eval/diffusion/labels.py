"""Which classes to draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from dit_eval.diffusion.sampler import LABEL_STREAM, random_stream
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import Watch
from dit_eval.system.text import did_you_mean


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
    try:
        if path.suffix in (".npy", ".npz"):
            loaded = np.load(path, allow_pickle=False)
            labels = loaded if isinstance(loaded, np.ndarray) else loaded["arr_1"]
        else:
            labels = np.array([int(line) for line in path.read_text(encoding="utf-8").split()], np.int64)
    except (ValueError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a file of labels ({error}); needed one integer a line, or arr_1.") from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels are {labels.dtype} {labels.shape}; needed integers (N,).")
    if len(labels) < num_images:
        raise ValueError(f"{path}: {len(labels):,} labels; needed {num_images:,}, one per image.")
    labels = labels[:num_images].astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]} is no class; the model knows 0 to {num_classes - 1}."
        )
    sha256 = sha256_of(path)
    watch.check()
    return labels, sha256
