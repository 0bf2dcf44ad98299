"""One pass over an image set: images in, `FeatureSummary` out, optionally kept in a cache."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dit_eval.dist import World
from dit_eval.images import ImageSet
from dit_eval.npz import write_batch
from dit_eval.stats import FeatureSummary, GaussianStats, RunningStats

# Part of every cache key: raise it whenever an extractor's output or the entry's layout changes.
_CACHE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """What a network says of a batch of B images: pool (B, D), spatial (B, S), class_probs (B, K), all float32."""

    pool: np.ndarray
    spatial: np.ndarray
    class_probs: np.ndarray


class FeatureExtractor(Protocol):
    """A network that turns uint8 images (B, H, W, 3) into features.

    Attributes
    ----------
    name : which features these are; results name it
    backend : the program that runs the network
    precision : of its arithmetic
    weights_sha256 : of the weights file
    device : where it runs
    pool_dim, spatial_dim : feature dimensions D and S
    """

    name: str
    backend: str
    precision: str
    weights_sha256: str
    device: str
    pool_dim: int
    spatial_dim: int

    def __call__(self, images: np.ndarray) -> FeatureBatch: ...


def extract_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    batch_size: int = 64,
    world: World | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> FeatureSummary:
    """Run the network over an image set once and keep what all metrics need.

    Moments are accumulated in float64 while streaming; of the features themselves only the pool features and the
    class probabilities stay in memory (float32; 0.6 GB for 50,000 images with Inception).

    Parameters
    ----------
    world : the processes that share the images; each takes whole batches in a row, and process 0 gets the summary, the
        others an empty one
    on_progress : called after each batch with (images done, images in all, None while unknown)

    Raises
    ------
    ValueError
        If an iterable, which one process reads, is to be shared among several.
    """
    world, num = world or World(), images.num_images
    if images.read_once and world.size > 1:
        raise ValueError(
            f"{images.path}: an iterable is read by one process, and there are {world.size}. Score it in one of them, "
            "or write its images into a file that all can read."
        )
    first, last = 0, num
    if num is not None:
        # Whole batches, so that each is the same batch whatever the number of processes.
        batches = -(-num // batch_size)
        first, last = (min(batches * rank // world.size * batch_size, num) for rank in (world.rank, world.rank + 1))
    pool_stats, spatial_stats = RunningStats(extractor.pool_dim), RunningStats(extractor.spatial_dim)
    pool_features = np.empty((0 if last is None else last - first, extractor.pool_dim), np.float32)
    class_probs: np.ndarray | None = None
    done = 0
    for batch in images.batches(batch_size, first=first, last=last):
        features = extractor(batch)
        pool_stats.update(features.pool)
        spatial_stats.update(features.spatial)
        if class_probs is None:
            class_probs = np.empty((len(pool_features), features.class_probs.shape[1]), np.float32)
        if last is None:  # nobody knows how many will come
            pool_features, class_probs = (_room(kept, done + len(batch)) for kept in (pool_features, class_probs))
        rows = slice(done, done + len(batch))
        pool_features[rows] = features.pool
        class_probs[rows] = features.class_probs
        done += len(batch)
        if on_progress:
            on_progress(done if num is None else min(num, done * world.size), num)
    if class_probs is None:  # fewer batches than processes
        class_probs = np.empty((0, 0), np.float32)
    num = done if num is None else num
    pool_features, class_probs = pool_features[:done], class_probs[:done]
    pool, spatial = _merged(pool_stats, world), _merged(spatial_stats, world)
    columns = world.most(class_probs.shape[1])
    gathered = world.collect(pool_features), world.collect(class_probs.reshape(len(class_probs), columns))
    if pool is None or spatial is None:
        return FeatureSummary()
    # A single image has features but no covariance.
    return FeatureSummary(
        pool=pool.finalize() if num > 1 else None,
        spatial=spatial.finalize() if num > 1 else None,
        pool_features=gathered[0],
        class_probs=gathered[1],
    )


def _room(rows: np.ndarray, needed: int) -> np.ndarray:
    """The rows in an array that has room for so many; it doubles, so that copies cost little in all."""
    if needed <= len(rows):
        return rows
    larger = np.empty((max(needed, 2 * len(rows)), *rows.shape[1:]), rows.dtype)
    larger[: len(rows)] = rows
    return larger


def _merged(stats: RunningStats, world: World) -> RunningStats | None:
    """What all processes have seen, in process 0."""
    states = world.collect(stats.state()[None])
    if states is None:
        return None
    total = RunningStats.from_state(states[0])
    for state in states[1:]:
        total.merge(RunningStats.from_state(state))
    return total


def cached_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    images_sha256: str | None,
    cache: Path | None,
    batch_size: int = 64,
    world: World | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> tuple[FeatureSummary, bool]:
    """`extract_features`, or its earlier result from the folder `cache`.

    With several processes, process 0 reads and writes the entry and gets the summary, the others an empty one.

    An entry is keyed by the content of the images, the number of images used, the extractor, its weights, backend,
    device kind and precision; the batch size does not matter. An unreadable entry is made again. Images without
    checksum, of an iterable, are not kept.

    Returns
    -------
    The summary, and whether it came from the cache.
    """
    world = world or World()
    if cache is None or images_sha256 is None or images.num_images is None:
        return extract_features(images, extractor, batch_size=batch_size, world=world, on_progress=on_progress), False
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
    entry = Path(cache) / f"features-{key[:32]}.npz"
    kept = _read_entry(entry, images.num_images) if world.rank == 0 else None
    if world.from_first(lambda: kept is not None):
        return kept or FeatureSummary(), True
    summary = extract_features(images, extractor, batch_size=batch_size, world=world, on_progress=on_progress)
    world.from_first(lambda: write_batch(entry, arrays=_entry_arrays(summary, json.dumps(parts))))
    return summary, False


def _entry_arrays(summary: FeatureSummary, description: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"made_from": np.array(description)}
    if summary.pool is not None and summary.spatial is not None:
        arrays |= {"mu": summary.pool.mu, "sigma": summary.pool.sigma}
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    if summary.pool_features is not None and summary.class_probs is not None:
        arrays |= {"pool_features": summary.pool_features, "class_probs": summary.class_probs}
    return arrays


def _read_entry(path: Path, num: int) -> FeatureSummary | None:
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as entry:
            known = {key: entry[key] for key in entry.files}
        stats = {
            part: GaussianStats(mu=known[mu], sigma=known[sigma], num=num) if mu in known else None
            for part, mu, sigma in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s"))
        }
        if len(known["pool_features"]) != num or len(known["class_probs"]) != num:
            return None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return None
    return FeatureSummary(
        pool=stats["pool"],
        spatial=stats["spatial"],
        pool_features=known["pool_features"],
        class_probs=known["class_probs"],
    )
