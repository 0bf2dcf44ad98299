"""Folders of encoded latents, read."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dit_eval.images.identity import recorded
from dit_eval.models.latent_space import LatentSpace, PerChannel
from dit_eval.system.reading import is_count, is_number, map_npy, npy_header, read_json
from dit_eval.system.seals import damaged_files, file_digest, read_digests, read_sealed
from dit_eval.system.text import reason, shown

INDEX = "latents.json"  # in a folder of latents; its being there says that all of them are
SETTINGS = "settings.json"  # beside it: what tells the encoding from others


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
        settings = self.path / SETTINGS  # of an earlier version there may be none
        self._images_identity = recorded(read_sealed(settings)) if settings.exists() else {}
        self._digests = read_digests(self.path)
        for name in (INDEX, "labels.npy"):
            self._check(name)
        try:
            self._index = _read_index(self.path / INDEX)
            self.latents = _space(self._index)
            numbers, counts = zip(*self._index["shards"], strict=True)
            # One mapping a file; nothing is read before it is asked for.
            self._shards = [_map_moments(self.path / shard_name(number)) for number in numbers]
            self.labels = _read_labels(self.path / "labels.npy", self.num_classes)
        except (OSError, ValueError) as error:
            said = reason(error).rstrip(".")
            where = self.path / "".join(damaged_files(self.path)[:1])
            raise ValueError(f"{where}: not a folder of latents, or damaged ({said}); encode again.") from None
        self._names = [shard_name(number) for number in numbers]
        shapes = {shard.shape[1:] for shard in self._shards}
        if tuple(map(len, self._shards)) != counts or len(shapes) != 1 or len(self.labels) != sum(counts):
            raise ValueError(f"{self.path}: files of other lengths than {INDEX} says; damaged, encode again.")
        self._ends = list(accumulate(counts))
        self._moments = shapes.pop()  # (2, 2, C, h, w): image and mirror image, mean and standard deviation
        self._check_space()
        self._scale, self._shift = map(_factors, (self.latents.scale, self.latents.shift))

    def _check_space(self) -> None:
        """ValueError if the files are not of the latents that the index says; earlier versions said the scale alone."""
        side = self._index["image_size"] // self.latents.factor
        said = (self.latents.channels, side, side)
        if _SAID & self._index.keys() and self.shape != said:
            raise ValueError(f"{self.path}: latents {self.shape}; {INDEX} says {said}. Damaged, encode again.")

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "latent"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._moments[2:]

    @property
    def _unshifted(self) -> bool:
        return self.latents.shift == 0.0

    @property
    def num_classes(self) -> int:
        return max(1, len(self._index["classes"]))

    @property
    def identity(self) -> dict[str, Any]:
        kept = ("listing_sha256", "image_size", "vae_sha256", "dtype")
        known = {name: self._index[name] for name in kept}
        known |= {"latents": record} if (record := self.latents.record) else {}
        return {"kind": "latents", "images": len(self), **known, **self._images_identity}

    def __len__(self) -> int:
        return self._ends[-1]

    def moments(self, index: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of an image's posterior, float32 (C, h, w) each, neither shifted nor scaled.

        Raises
        ------
        ValueError
            If they are no numbers, or a deviation is below 0: nobody has looked at them before.
        """
        shard = bisect_right(self._ends, index)
        self._check(self._names[shard])
        row = self._shards[shard][index - (self._ends[shard - 1] if shard else 0), int(mirrored)]
        mean, std = np.asarray(row, np.float32)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and std.min() >= 0):
            raise ValueError(
                f"{self.path}: the latents of image {index:,} are no means and deviations (NaN, infinite, or below 0); "
                "damaged, encode again."
            )
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
            drawn = mean + std * generator.standard_normal(self.shape, np.float32)
            latents[place] = (drawn if self._unshifted else drawn - self._shift) * self._scale
        return latents, self.labels[indices]


def _read_index(path: Path) -> dict[str, Any]:
    """What the index of a folder says, every part of it of its kind."""
    index = read_json(path, "the index of a folder of latents")
    wrong = next((name for name, fits in _PARTS.items() if name not in index or not fits(index[name])), None)
    if wrong is not None:
        found = f"{wrong} is {index[wrong]!r:.80}" if wrong in index else f"{wrong} is missing"
        raise ValueError(f"{path}: {found}")
    return index


def _are_shards(value: object) -> bool:
    """Whether it is pairs: the number of a file, no two alike, and that of its images."""
    if not isinstance(value, list) or not value:
        return False
    pairs = all(isinstance(each, list) and len(each) == 2 and all(map(is_count, each)) for each in value)
    return pairs and len({number for number, _ in value}) == len(value) and all(count for _, count in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_scales(values: list[Any]) -> bool:
    return all(is_number(each) and each > 0 for each in values)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# Of the index, what is used of it.
_PARTS: dict[str, Callable[[Any], bool]] = {
    "listing_sha256": _is_text,
    "image_size": lambda value: is_count(value) and value > 0,
    "vae_sha256": _is_text,
    "dtype": _is_text,
    "scale": lambda value: _are_scales(value if isinstance(value, list) and value else [value]),
    "classes": _are_texts,
    "shards": _are_shards,
}


_SAID = {"channels", "factor", "shift"}  # of latents, beside their scale, where they are not Stable Diffusion's


def written(space: LatentSpace) -> dict[str, Any]:
    """What the index says of latents. Earlier versions knew one number as scale, and no more."""
    said = {"scale": space.scale, "channels": space.channels, "factor": space.factor, "shift": space.shift}
    usual = None if isinstance(space.scale, tuple) else LatentSpace(scale=space.scale)
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
    return {"scale": space.scale} if space == usual else lists


def _space(index: dict[str, Any]) -> LatentSpace:
    """The latents that an index says; ValueError with the reason alone if they are none."""
    return LatentSpace.of({name: index[name] for name in ("scale", *_SAID) if name in index})


def _factors(values: PerChannel) -> np.ndarray | np.float32:
    """A number, or one for each channel (C, 1, 1)."""
    return np.array(values, np.float32)[:, None, None] if isinstance(values, tuple) else np.float32(values)


def _map_moments(path: Path) -> np.ndarray:
    header = npy_header(path)
    if header.dtype.kind != "f" or len(header.shape) != 6 or header.shape[1:3] != (2, 2) or 0 in header.shape:
        raise ValueError(f"{path}: {shown(header.dtype)[:60]} {header.shape}; expected floats (N, 2, 2, C, h, w)")
    return map_npy(path, header)


def _read_labels(path: Path, num_classes: int) -> np.ndarray:
    header = npy_header(path)
    if header.dtype.kind not in "iu" or len(header.shape) != 1:
        raise ValueError(f"{path}: {shown(header.dtype)[:60]} {header.shape}; expected integers (N,)")
    labels = map_npy(path, header)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]:,}; the classes are 0 to {num_classes - 1:,}"
        )
    return np.array(labels, np.int64)


def check_latents_folder(out: Path) -> None:
    """ValueError if something else than latents is where latents are to be written."""
    if out.exists() and not (out / INDEX).is_file():
        raise ValueError(f"{out}: exists and is no folder of latents; name another `out`.")


def shard_name(number: int) -> str:
    return f"moments-{number:06d}.npy"
