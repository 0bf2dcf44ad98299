"""Folders of encoded latents, read."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dit_eval.system.seals import damaged_files, file_digest, read_digests

INDEX = "latents.json"  # in a folder of latents; its being there says that all of them are


class Latents:
    """Latents that `encode` has made, mapped from disk: means and standard deviations, sampled when they are read.

    Parameters
    ----------
    path : the folder

    Raises
    ------
    FileNotFoundError
        If it is none, or not complete.
    ValueError
        If it is damaged. A file of latents is checked when it is first read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / INDEX).is_file():
            begun = self.path.with_name(self.path.name + ".parts").exists()
            raise FileNotFoundError(
                f"{self.path}: no latents there; "
                + ("`dit-eval encode` has not finished, run it again." if begun else "make them by `dit-eval encode`.")
            )
        self._digests = read_digests(self.path)
        for name in (INDEX, "labels.npy"):
            self._check(name)
        try:
            index = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
            numbers, counts = zip(*index["shards"], strict=True)
            self._scale, self._index = float(index["scale"]), index
            # One mapping a file; nothing is read before it is asked for.
            self._shards = [np.load(self.path / shard_name(k), mmap_mode="r", allow_pickle=False) for k in numbers]
            self.labels = np.load(self.path / "labels.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            where = self.path / "".join(damaged_files(self.path)[:1])
            raise ValueError(f"{where}: not a folder of latents, or damaged ({error}); encode again.") from None
        self._names = [shard_name(number) for number in numbers]
        shapes = {shard.shape[1:] for shard in self._shards}
        if tuple(map(len, self._shards)) != counts or len(shapes) != 1 or len(self.labels) != sum(counts):
            raise ValueError(f"{self.path}: files of other lengths than {INDEX} says; damaged, encode again.")
        self._ends = np.cumsum(counts).tolist()
        self._moments = shapes.pop()  # (2, 2, C, h, w): image and mirror image, mean and standard deviation

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "latent"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._moments[2:]

    @property
    def num_classes(self) -> int:
        return max(1, len(self._index["classes"]))

    @property
    def identity(self) -> dict[str, Any]:
        kept = ("listing_sha256", "image_size", "vae_sha256", "dtype")
        return {"kind": "latents", "images": len(self), **{name: self._index[name] for name in kept}}

    def __len__(self) -> int:
        return self._ends[-1]

    def moments(self, index: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of an image's posterior, float32 (4, h, w) each, not scaled."""
        shard = bisect_right(self._ends, index)
        self._check(self._names[shard])
        row = self._shards[shard][index - (self._ends[shard - 1] if shard else 0), int(mirrored)]
        mean, std = np.asarray(row, np.float32)
        return mean, std

    def _check(self, name: str) -> None:
        """ValueError if a file that was not read before is not as it was written."""
        digest = self._digests.get(name)
        if digest is None:
            return
        if not (self.path / name).is_file() or file_digest(self.path / name) != digest:
            raise ValueError(
                f"{self.path / name}: damaged; it is not as it was written. Run `dit-eval encode` as for this folder "
                "again, which makes only this file anew."
            )
        self._digests.pop(name, None)  # another thread may have been as fast

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        latents = np.empty((len(indices), *self.shape), np.float32)
        for place, (index, mirror, generator) in enumerate(zip(indices, mirrored, generators, strict=True)):
            mean, std = self.moments(int(index), bool(mirror))
            latents[place] = (mean + std * generator.standard_normal(self.shape, np.float32)) * np.float32(self._scale)
        return latents, self.labels[indices]


def check_latents_folder(out: Path) -> None:
    """ValueError if something else than latents is where latents are to be written."""
    if out.exists() and not (out / INDEX).is_file():
        raise ValueError(f"{out}: exists and is no folder of latents; name another `out`.")


def shard_name(number: int) -> str:
    return f"moments-{number:06d}.npy"
