"""One pass over an image set: images in, `FeatureSummary` out, optionally kept in a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.images import ImageSet
from dit_eval.summary import FeatureSummary, RunningStats
from dit_eval.system.ahead import read_ahead
from dit_eval.system.dist import World

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureBatch, FeatureExtractor


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
    first, last = _share(num, batch_size, world)
    kept = _Kept(extractor, expected=0 if last is None else last - first, keep_spatial=keep_spatial)
    stream = images.batches(batch_size, first=first, last=last)
    # A program that yields images runs in its own thread: it may hold a context of PyTorch there.
    for batch in stream if images.read_once else read_ahead(stream):
        kept.append(extractor(batch))
        if on_progress:
            on_progress(kept.done if num is None else min(num, kept.done * world.size), num)
    summary = kept.gathered(world, num=kept.done if num is None else num)
    world.from_first(images.check_unchanged)  # which has seen all of them, for their checksum
    return summary


def _share(num: int | None, batch_size: int, world: World) -> tuple[int, int | None]:
    """First image of this process, and the one behind its last: whole batches, the same for any number of processes."""
    if num is None:
        return 0, None
    batches = -(-num // batch_size)
    first, last = (min(batches * rank // world.size * batch_size, num) for rank in (world.rank, world.rank + 1))
    return first, last


class _Kept:
    """What is kept of the features of a process, batch by batch."""

    def __init__(self, extractor: FeatureExtractor, *, expected: int, keep_spatial: bool) -> None:
        self.done = 0
        self._pool = RunningStats(extractor.pool_dim)
        self._spatial = None if extractor.spatial_dim is None else RunningStats(extractor.spatial_dim)
        self._keep_spatial = keep_spatial
        self._pool_rows, self._spatial_rows, self._probs_rows = (_Rows(expected) for _ in range(3))

    def append(self, features: FeatureBatch) -> None:
        self.done += len(features.pool)
        self._pool.update(features.pool)
        self._pool_rows.append(features.pool)
        if self._spatial is not None and features.spatial is not None:
            self._spatial.update(features.spatial)
            if self._keep_spatial:
                self._spatial_rows.append(features.spatial)
        if features.class_probs is not None:
            self._probs_rows.append(features.class_probs)

    def gathered(self, world: World, *, num: int) -> FeatureSummary:
        """What all processes have kept, in process 0; an empty summary in the others."""
        pool = _merged(self._pool, world)
        spatial = None if self._spatial is None else _merged(self._spatial, world)
        pool_features, spatial_features, class_probs = (
            rows.gathered(world) for rows in (self._pool_rows, self._spatial_rows, self._probs_rows)
        )
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


def _merged(stats: RunningStats, world: World) -> RunningStats | None:
    """What all processes have seen, in process 0."""
    states = world.collect(stats.state()[None])
    if states is None:
        return None
    total = RunningStats.from_state(states[0])
    for state in states[1:]:
        total.merge(RunningStats.from_state(state))
    return total
