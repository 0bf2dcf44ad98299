"""One pass over an image set: images in, `FeatureSummary` out, optionally kept in a cache."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from dit_eval.images.npz import write_batch
from dit_eval.images.open import ImageSet
from dit_eval.summary import FeatureSummary, GaussianStats, RunningStats
from dit_eval.system.dist import World
from dit_eval.system.files import why_not_written

# Part of every cache key: raise it whenever an extractor's output or the entry's layout changes.
_CACHE_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """What a network says of a batch of B images: pool (B, D), spatial (B, S), class_probs (B, K), all float32.

    A network without spatial features, or without a classifier, leaves them None in every batch.
    """

    pool: np.ndarray
    spatial: np.ndarray | None = None
    class_probs: np.ndarray | None = None


class FeatureExtractor(Protocol):
    """A network that turns uint8 images (B, H, W, 3) into features.

    Attributes
    ----------
    name : which features these are; results name it
    backend : the program that runs the network
    precision : of its arithmetic
    weights_sha256 : of the weights file
    device : where it runs
    pool_dim, spatial_dim : feature dimensions D and S; S is None for a network without spatial features
    """

    name: str
    backend: str
    precision: str
    weights_sha256: str
    device: str
    pool_dim: int

    @property  # read only, so that a class may say int, or None
    def spatial_dim(self) -> int | None: ...

    def __call__(self, images: np.ndarray) -> FeatureBatch: ...


def extract_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    batch_size: int = 64,
    keep_spatial: bool = False,
    world: World | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> FeatureSummary:
    """Run the network over an image set once and keep what all metrics need.

    Moments are accumulated in float64 while streaming; of the features themselves only the pool features and the
    class probabilities stay in memory (float32; 0.6 GB for 50,000 images with Inception).

    Parameters
    ----------
    keep_spatial : keep the spatial features as well (0.4 GB more)
    world : the processes that share the images; each takes whole batches in a row, and process 0 gets the summary, the
        others an empty one
    on_progress : called after each batch with (images done, images in all, None while unknown)

    Raises
    ------
    ValueError
        If an iterable, which one process reads, is to be shared among several; or if the images have been replaced or
        written to since they were opened, so that they and their checksum may be of two sets.
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
    pool_stats = RunningStats(extractor.pool_dim)
    spatial_stats = None if extractor.spatial_dim is None else RunningStats(extractor.spatial_dim)
    pool_rows, spatial_rows, probs_rows = (_Rows(0 if last is None else last - first) for _ in range(3))
    done = 0
    stream = images.batches(batch_size, first=first, last=last)
    # A program that yields images runs in its own thread: it may hold a context of PyTorch there.
    for batch in stream if images.read_once else _read_ahead(stream):
        features = extractor(batch)
        pool_stats.update(features.pool)
        pool_rows.append(features.pool)
        if spatial_stats is not None and features.spatial is not None:
            spatial_stats.update(features.spatial)
            if keep_spatial:
                spatial_rows.append(features.spatial)
        if features.class_probs is not None:
            probs_rows.append(features.class_probs)
        done += len(batch)
        if on_progress:
            on_progress(done if num is None else min(num, done * world.size), num)
    num = done if num is None else num
    pool = _merged(pool_stats, world)
    spatial = _merged(spatial_stats, world) if spatial_stats is not None else None
    pool_features, spatial_features, class_probs = (
        rows.gathered(world) for rows in (pool_rows, spatial_rows, probs_rows)
    )
    world.from_first(images.check_unchanged)  # which has seen all of them, for their checksum
    if pool is None:  # not process 0
        return FeatureSummary()
    # A single image has features but no covariance.
    return FeatureSummary(
        pool=pool.finalize() if num > 1 else None,
        spatial=spatial.finalize() if num > 1 and spatial is not None else None,
        pool_features=pool_features,
        spatial_features=spatial_features,
        class_probs=class_probs,
    )


class _Rows:
    """Features of one kind as they come, float32, in one array that has room for so many images from the start."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._array = np.empty((0, 0), np.float32)
        self._done = 0

    def append(self, rows: np.ndarray) -> None:
        done = self._done + len(rows)
        if done > len(self._array):  # doubled where nobody knows how many will come, so that copies cost little in all
            larger = np.empty((max(self._expected, done, 2 * len(self._array)), rows.shape[1]), np.float32)
            if self._done:
                larger[: self._done] = self._array[: self._done]
            self._array = larger
        self._array[self._done : done] = rows
        self._done = done

    def gathered(self, world: World) -> np.ndarray | None:
        """The rows of all processes in process 0; None in the others, and where there are none."""
        columns = world.most(self._array.shape[1])
        every = world.collect(self._array[: self._done].reshape(self._done, columns))
        return every if columns else None


def _read_ahead(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same batches; while one is worked on, a thread reads the next."""
    with ThreadPoolExecutor(1, "images") as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


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
    keep_spatial: bool = False,
    world: World | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[FeatureSummary, bool]:
    """`extract_features`, or its earlier result from the folder `cache`.

    With several processes, process 0 reads and writes the entry and gets the summary, the others an empty one.

    An entry is keyed by the content of the images, the number of images used, the extractor, its weights, backend,
    device kind and precision; the batch size does not matter. An unreadable entry, or
    one without the spatial features that `keep_spatial` asks for, is made again. Images without checksum, of an
    iterable, are not kept. Where an entry cannot be written, `on_note` is called with the reason, and that is all.

    Returns
    -------
    The summary, and whether it came from the cache.
    """
    world = world or World()
    extract = partial(
        extract_features,
        images,
        extractor,
        batch_size=batch_size,
        keep_spatial=keep_spatial,
        world=world,
        on_progress=on_progress,
    )
    if cache is None or images_sha256 is None or images.num_images is None:
        return extract(), False
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
    kept = _read_entry(entry, images.num_images, keep_spatial) if world.rank == 0 else None
    if world.from_first(lambda: kept is not None):
        return kept or FeatureSummary(), True
    summary = extract()

    def keep() -> None:
        try:
            write_batch(entry, arrays=_entry_arrays(summary, json.dumps(parts)))
        except OSError as error:
            if on_note:
                on_note(f"warning: {entry}: the features could not be kept ({why_not_written(entry, error)}).")

    world.from_first(keep)
    return summary, False


def _entry_arrays(summary: FeatureSummary, description: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"made_from": np.array(description)}
    if summary.pool is not None:
        arrays |= {"mu": summary.pool.mu, "sigma": summary.pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    features = {name: getattr(summary, name) for name in ("pool_features", "spatial_features", "class_probs")}
    return arrays | {name: rows for name, rows in features.items() if rows is not None}


def _read_entry(path: Path, num: int, keep_spatial: bool) -> FeatureSummary | None:
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as entry:
            known = {key: entry[key] for key in entry.files if key != "spatial_features" or keep_spatial}
        stats = {
            part: GaussianStats(mu=known[mu], sigma=known[sigma], num=num) if mu in known else None
            for part, mu, sigma in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s"))
        }
        if any(len(known[name]) != num for name in ("pool_features", "class_probs") if name in known):
            return None
        spatial_features = known["spatial_features"] if keep_spatial else None
        if spatial_features is not None and len(spatial_features) != num:
            return None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return None
    return FeatureSummary(
        pool=stats["pool"],
        spatial=stats["spatial"],
        pool_features=known["pool_features"],
        spatial_features=spatial_features,
        class_probs=known.get("class_probs"),
    )
