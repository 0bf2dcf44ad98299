"""Features kept on disk.

An entry says what it was made from, and the zip that it is has a checksum of each array. One that is damaged, or was
made from something else, is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_eval.features.extract import extract_features
from dit_eval.images import ImageSet
from dit_eval.images.npz import write_batch
from dit_eval.images.npz_file import open_npz
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.dist import World
from dit_eval.system.files import why_not_written
from dit_eval.system.text import reason

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor

# Part of every cache key: raise it whenever an extractor's output or the entry's layout changes.
_CACHE_VERSION = 2
_ROWS = ("pool_features", "spatial_features", "class_probs")  # of each image
_KEYS = ("made_from", "mu", "sigma", "mu_s", "sigma_s", *_ROWS)


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Where a cache keeps the features of one image set by one network.

    Attributes
    ----------
    path : the file, which need not be there yet
    made_from : what the features are of, as JSON
    num_images : N
    on_note : called with the reason if the file cannot be written
    """

    path: Path
    made_from: str
    num_images: int
    on_note: Callable[[str], None] | None = None

    def read(self, *, keep_spatial: bool = False) -> FeatureSummary | None:
        """What is kept; None if there is nothing, or it cannot be used, or lacks spatial features asked for.

        Of what cannot be used, `on_note` is told.
        """
        if not self.path.is_file():
            return None
        try:
            known = self._known(keep_spatial=keep_spatial)
        except (ValueError, OSError, MemoryError) as error:
            if self.on_note:
                self.on_note(f"{self.path}: damaged, or of something else ({reason(error)}); made again")
            return None
        if known is None:
            return None
        return FeatureSummary(
            pool=self._stats(known, "mu", "sigma"),
            spatial=self._stats(known, "mu_s", "sigma_s"),
            pool_features=known["pool_features"],
            spatial_features=known["spatial_features"] if keep_spatial else None,
            class_probs=known.get("class_probs"),
        )

    def _known(self, *, keep_spatial: bool) -> dict[str, np.ndarray] | None:
        """The arrays of the entry; None if it lacks spatial features asked for. ValueError if it cannot be used."""
        with open_npz(self.path, _KEYS) as file:
            listed = file.archive.comment.decode(errors="replace").split() or file.keys()
            if listed != file.keys() or not set(listed) <= set(_KEYS):
                raise ValueError("it holds other arrays than it should")
            known = {}
            for key in file.members:
                if key != "spatial_features" or keep_spatial:
                    file.header(key)
                    known[key] = file.array(key)
        if _parsed(known.pop("made_from", None)) != json.loads(self.made_from):
            raise ValueError("made from other images, or by another network")
        missing = {"pool_features"} - known.keys()
        missing |= {sigma for mu, sigma in (("mu", "sigma"), ("mu_s", "sigma_s")) if mu in known} - known.keys()
        if missing:
            raise ValueError(f"without {min(missing)}")
        lengths = {len(known[key]) for key in _ROWS if key in known and known[key].ndim == 2}
        if lengths - {self.num_images}:
            raise ValueError(f"features of {max(lengths):,} images, expected {self.num_images:,}")
        return None if keep_spatial and "spatial_features" not in known else known

    def write(self, summary: FeatureSummary) -> None:
        """Keep features. Where they cannot be written, `on_note` is called, and that is all."""
        try:
            arrays = {"made_from": np.array(self.made_from), **_arrays(summary)}
            # A damaged directory may lack some; earlier versions did not say which there are.
            write_batch(self.path, arrays=arrays, comment=" ".join(sorted(arrays)))
        except OSError as error:
            if self.on_note:
                why = why_not_written(self.path, error)
                self.on_note(f"warning: {self.path}: the features could not be kept ({why}).")

    def _stats(self, known: dict[str, np.ndarray], mu: str, sigma: str) -> GaussianStats | None:
        return GaussianStats(mu=known[mu], sigma=known[sigma], num=self.num_images) if mu in known else None


def cache_entry(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    images_sha256: str | None,
    cache: str | os.PathLike[str] | None,
    on_note: Callable[[str], None] | None = None,
) -> CacheEntry | None:
    """The place of features in the folder `cache`; None without a folder, and for an iterable, which has no checksum.

    An entry is keyed by the content of the images, the number of images used, the extractor, its weights, backend,
    device kind and precision; the batch size does not matter.
    """
    if cache is None or images_sha256 is None or images.num_images is None:
        return None
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
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return CacheEntry(
        path=Path(cache) / f"features-{key[:32]}.npz",
        made_from=json.dumps(parts),
        num_images=images.num_images,
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


def _arrays(summary: FeatureSummary) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if summary.pool is not None:
        arrays |= {"mu": summary.pool.mu, "sigma": summary.pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    features = {name: getattr(summary, name) for name in _ROWS}
    return arrays | {name: rows for name, rows in features.items() if rows is not None}


def _parsed(made_from: np.ndarray | None) -> Any:
    """What an entry says that it was made from; None if it does not."""
    try:
        return None if made_from is None else json.loads(str(made_from))
    except (ValueError, RecursionError):
        return None
