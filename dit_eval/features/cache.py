"""Features kept on disk.

An entry says what it was made from, and the zip that it is has a checksum of each array. One that is damaged, or was
made from something else, is made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_eval.features.extract import extract_features
from dit_eval.images import ImageSet
from dit_eval.images.npz import write_batch
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.dist import World
from dit_eval.system.files import is_stream, remove_left, why_not_written
from dit_eval.system.reading import Header, NpzFile, open_npz, parse_json
from dit_eval.system.text import reason, shown

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor

# Part of every cache key: raise it whenever an extractor's output or the entry's layout changes.
_CACHE_VERSION = 2
_KEYS = {"made_from", "mu", "sigma", "mu_s", "sigma_s", "pool_features", "spatial_features", "class_probs"}
_ROWS = 1024  # looked at together
_SUMS = "crc32"  # in made_from: the checksum that the zip has of each array, so that none is exchanged


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Where a cache keeps the features of one image set by one network.

    Attributes
    ----------
    path : the file, which need not be there yet
    made_from : what the features are of, as JSON
    num_images : N
    pool_dim, spatial_dim : of the network's features; None where they are not known
    on_note : called with the reason if the file cannot be written
    """

    path: Path
    made_from: str
    num_images: int
    pool_dim: int | None = None
    spatial_dim: int | None = None
    on_note: Callable[[str], None] | None = None

    def read(self, *, keep_spatial: bool = False) -> FeatureSummary | None:
        """What is kept; None if there is nothing, or it lacks spatial features asked for.

        None, too, if it is damaged or of something else; `on_note` is then called with the reason.
        """
        remove_left(self.path)
        if not self.path.is_file():
            return None
        try:
            with open_npz(self.path, _KEYS) as file:
                self._check(file)
                if keep_spatial and "spatial_features" not in file.members:
                    return None
                wanted = _KEYS - {"made_from"} - (set() if keep_spatial else {"spatial_features"})
                known = {key: file.array(key) for key in wanted & file.members.keys()}
            _check_finite(known)
            return FeatureSummary(
                pool=self._stats(known, "mu", "sigma"),
                spatial=self._stats(known, "mu_s", "sigma_s"),
                pool_features=known["pool_features"],
                spatial_features=known.get("spatial_features"),
                class_probs=known.get("class_probs"),
            )
        except (OSError, RecursionError, ValueError) as error:
            if self.on_note:
                said = reason(error).removeprefix(f"{self.path}: ").rstrip(".")
                self.on_note(f"{shown(self.path)}: damaged, or of something else ({said}); made again")
            return None

    def write(self, summary: FeatureSummary) -> None:
        """Keep features. Where they cannot be written, `on_note` is called, and that is all."""
        arrays = _arrays(summary)
        made_from = json.dumps(json.loads(self.made_from) | {_SUMS: {key: _crc(each) for key, each in arrays.items()}})
        try:
            if is_stream(self.path):  # which `write_batch` would write into, and wait for a reader
                raise FileExistsError(errno.EEXIST, "it is no plain file")
            write_batch(self.path, arrays={"made_from": np.array(made_from), **arrays})
        except OSError as error:
            if self.on_note:
                why = why_not_written(self.path, error)
                self.on_note(f"warning: {self.path}: the features could not be kept ({why}).")

    def _check(self, file: NpzFile) -> None:
        """That the entry is of these images and this network, and its arrays belong together; none is read for that."""
        known = {key.removesuffix(".npy") for key in file.archive.namelist()}
        if not {"made_from", "pool_features"} <= known <= _KEYS:
            raise ValueError(f"it holds {', '.join(file.keys()[:8]) or 'nothing'}")
        said = parse_json(file.text("made_from"))
        sums = said.pop(_SUMS, None) if isinstance(said, dict) else None
        if said != parse_json(self.made_from):
            raise ValueError("it was made from other images, or by another network")
        crcs = {key: info.CRC for key, info in file.members.items() if key != "made_from"}
        if sums is not None and sums != crcs:  # of an earlier version there are none
            raise ValueError("its arrays were not written together")
        widths = {key: self._width(key, file.header(key)) for key in sorted(known - {"made_from"})}
        for mu, sigma, features, dim in (
            ("mu", "sigma", "pool_features", self.pool_dim),
            ("mu_s", "sigma_s", "spatial_features", self.spatial_dim),
        ):
            found = {widths[key] for key in (mu, sigma, features) if key in widths} | ({dim} if dim else set())
            if len(found) > 1 or (mu in widths) != (sigma in widths):
                raise ValueError(f"{mu}, {sigma} and {features} do not belong together")

    def _width(self, key: str, header: Header) -> int:
        """Numbers of one image, or of a mean or covariance, if the array has the shape of what its key says."""
        width = header.shape[-1] if header.shape else 0
        shapes = {"mu": (width,), "mu_s": (width,), "sigma": (width, width), "sigma_s": (width, width)}
        if header.dtype.kind != "f" or header.shape != shapes.get(key, (self.num_images, width)):
            raise ValueError(f"{key} is {shown(header.dtype)[:60]} {header.shape}")
        return width

    def _stats(self, known: dict[str, np.ndarray], mu: str, sigma: str) -> GaussianStats | None:
        return GaussianStats(mu=known[mu], sigma=known[sigma], num=self.num_images) if mu in known else None


def features_of(images: ImageSet, extractor: FeatureExtractor, *, images_sha256: str) -> dict[str, Any]:
    """What decides features: the content of the images, how many are used and what they are cut to, and the extractor,
    its weights, backend, device kind and precision; the batch size does not matter."""
    parts = {
        "version": _CACHE_VERSION,
        "images": images_sha256,
        "num_images": images.num_images,
        "extractor": extractor.name,
        "weights": extractor.weights_sha256,
        "backend": extractor.backend,
        "device": extractor.device.split(":")[0],
        "precision": extractor.precision,
    }
    # Without a crop, entries have the keys that they had before there was one.
    return parts | ({"crop": images.crop.name} if images.crop else {})


def cache_entry(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    images_sha256: str | None,
    cache: str | os.PathLike[str] | None,
    on_note: Callable[[str], None] | None = None,
) -> CacheEntry | None:
    """The place of features in the folder `cache`; None without a folder, and for an iterable, which has no checksum.

    An entry is keyed by what `features_of` says.
    """
    if cache is None or images_sha256 is None or images.num_images is None:
        return None
    parts = features_of(images, extractor, images_sha256=images_sha256)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return CacheEntry(
        path=Path(cache) / f"features-{key[:32]}.npz",
        made_from=json.dumps(parts),
        num_images=images.num_images,
        pool_dim=extractor.pool_dim,
        spatial_dim=extractor.spatial_dim,
        on_note=on_note,
    )


def cached_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    entry: CacheEntry | None,
    batch_size: int = 64,
    keep_spatial: bool = False,
    world: World | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> tuple[FeatureSummary, bool]:
    """`extract_features`, or its earlier result from a cache; an entry that cannot serve is made again.

    With several processes, process 0 reads and writes the entry and gets the summary, the others an empty one.

    Returns
    -------
    The summary, and whether it came from the cache.
    """
    world = world or World()
    if entry is not None:
        kept = entry.read(keep_spatial=keep_spatial) if world.rank == 0 else None
        if world.from_first(lambda: kept is not None):
            return kept or FeatureSummary(), True
    summary = extract_features(
        images, extractor, batch_size=batch_size, keep_spatial=keep_spatial, world=world, on_progress=on_progress
    )
    if entry is not None:
        world.from_first(lambda: entry.write(summary))
    return summary, False


class _Sum:
    """A file that keeps nothing of what is written but its checksum."""

    def __init__(self) -> None:
        self.crc = 0

    def write(self, data: bytes) -> None:
        self.crc = zlib.crc32(data, self.crc)


def _crc(array: np.ndarray) -> int:
    """The checksum of an array as `.npy`."""
    file = _Sum()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.crc


def _check_finite(arrays: dict[str, np.ndarray]) -> None:
    for key, array in arrays.items():
        if not all(np.isfinite(array[begin : begin + _ROWS]).all() for begin in range(0, len(array), _ROWS)):
            raise ValueError(f"{key} holds NaN or infinite values")


def _arrays(summary: FeatureSummary) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if summary.pool is not None:
        arrays |= {"mu": summary.pool.mu, "sigma": summary.pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    features = {name: getattr(summary, name) for name in ("pool_features", "spatial_features", "class_probs")}
    return arrays | {name: rows for name, rows in features.items() if rows is not None}
