"""One pass over an image set, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from dit_eval.features.cache import CacheEntry, cache_entry, cached_features
from dit_eval.features.extract import extract_features
from dit_eval.features.load import check_network
from dit_eval.features.network import FeatureExtractor, Network
from dit_eval.features.provenance import image_source
from dit_eval.images import ImageSet
from dit_eval.images.pair import TwoReferences
from dit_eval.images.picked import Picked
from dit_eval.results.eval_result import ImageSource
from dit_eval.summary import FeatureSummary, GaussianStats, RunningStats
from dit_eval.system.where import Where


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A set of images, and what one pass over it left behind.

    Attributes
    ----------
    sha256 : None of an iterable, which knows it once it has been read
    features : empty where no image had to pass through the network
    """

    images: ImageSet
    sha256: str | None
    features: FeatureSummary = field(default_factory=FeatureSummary)

    def source(self, statistics: str) -> ImageSource:
        """As `image_source`."""
        return image_source(self.images, self.sha256 or self.images.sha256(), statistics)

    def sources(self, *, stored: bool) -> tuple[ImageSource, ImageSource | None]:
        """The reference, and the one of its images where they are another's than its statistics."""
        pair = self.images
        if not isinstance(pair, TwoReferences):
            return self.source("stored" if stored else "computed"), None
        statistics = image_source(pair.statistics, pair.statistics.sha256(), "stored")
        images = image_source(pair.images, self.sha256 or pair.sha256(), "computed")
        return replace(statistics, num_images=0), images


class Grown:
    """Features of some images of a set, to which those of others are added look by look; see `Picked`.

    Features of the whole set in a cache serve, and are kept there once all images have been looked at.
    """

    def __init__(self) -> None:
        self._rows = np.empty(0, np.int64)  # of which features are here, in that order
        self._summary = FeatureSummary()  # of process 0

    def more(
        self,
        images: Picked,
        network: FeatureExtractor,
        *,
        entry: CacheEntry | None,
        batch_size: int,
        keep_spatial: bool,
        where: Where,
    ) -> FeatureSummary:
        """Features of these images, among which all earlier ones are; empty but in process 0."""
        world, first = where.world, not len(self._rows)
        kept = entry.read(keep_spatial=keep_spatial) if entry and first and world.rank == 0 else None
        if first and world.from_first(lambda: kept is not None):
            self._rows, self._summary = np.arange(images.images.num_images), kept or FeatureSummary()
        new = np.setdiff1d(images.rows, self._rows)
        if len(new):
            report = partial(where.on_progress, "gen") if where.on_progress else None
            found = extract_features(
                images.other(new),
                network,
                batch_size=batch_size,
                keep_spatial=keep_spatial,
                world=world,
                on_progress=report,
            )
            self._rows, self._summary = np.concatenate([self._rows, new]), _joined(self._summary, found)
        chosen = np.argsort(self._rows, kind="stable")[np.isin(np.sort(self._rows), images.rows)]
        summary = _some(self._summary, chosen)
        if entry and len(new) and len(images.rows) == images.images.num_images:
            world.from_first(lambda: entry.write(summary))
        return summary


def _joined(one: FeatureSummary, other: FeatureSummary) -> FeatureSummary:
    """Features of single images of both, those of the one first."""

    def joined(rows: np.ndarray | None, more: np.ndarray | None) -> np.ndarray | None:
        return more if rows is None or more is None else np.concatenate([rows, more])

    return FeatureSummary(
        pool_features=joined(one.pool_features, other.pool_features),
        spatial_features=joined(one.spatial_features, other.spatial_features),
        class_probs=joined(one.class_probs, other.class_probs),
    )


def _some(summary: FeatureSummary, rows: np.ndarray) -> FeatureSummary:
    """Features of some images, and their statistics."""
    if summary.pool_features is None:  # not process 0
        return FeatureSummary()
    pool, spatial, probs = (
        None if features is None else features[rows]
        for features in (summary.pool_features, summary.spatial_features, summary.class_probs)
    )
    return FeatureSummary(
        pool=_statistics(pool),
        spatial=_statistics(spatial),
        pool_features=pool,
        spatial_features=spatial,
        class_probs=probs,
    )


def _statistics(features: np.ndarray | None) -> GaussianStats | None:
    if features is None or len(features) < 2:
        return None
    sums = RunningStats(features.shape[1])
    for first in range(0, len(features), 1024):
        sums.update(features[first : first + 1024])
    return sums.finalize()


def pass_over(
    role: str,
    seen: Seen,
    network: FeatureExtractor,
    *,
    batch_size: int,
    keep_spatial: bool,
    where: Where,
    grown: Grown | None = None,
) -> Seen:
    """Pass a set through the network, or take its features out of the cache.

    Parameters
    ----------
    role : "gen" or "ref", as progress names it
    keep_spatial : keep the spatial features of single images too
    grown : features of some of these images, for those that `Picked` has picked
    """
    images, report = seen.images, partial(where.on_progress, role) if where.on_progress else None
    shared = where.references if role == "ref" and seen.sha256 else None
    if shared is not None and seen.sha256 in shared:
        if report and images.num_images:
            report(images.num_images, images.num_images)
        return replace(seen, features=shared[seen.sha256])
    cache = Path(where.cache) if where.cache and (where.cache_gen or role == "ref") else None
    if grown is not None and isinstance(images, Picked):
        entry = cache_entry(images.images, network, images_sha256=seen.sha256, cache=cache, on_note=where.on_note)
        features = grown.more(
            images, network, entry=entry, batch_size=batch_size, keep_spatial=keep_spatial, where=where
        )
        return replace(seen, features=features)
    features, kept = cached_features(
        images,
        network,
        entry=cache_entry(images, network, images_sha256=seen.sha256, cache=cache, on_note=where.on_note),
        batch_size=batch_size,
        keep_spatial=keep_spatial,
        world=where.world,
        on_progress=report,
    )
    if kept and report and images.num_images:
        report(images.num_images, images.num_images)
    if shared is not None and seen.sha256:
        shared[seen.sha256] = features
    return replace(seen, features=features)


def given_sizes(network: str | FeatureExtractor, where: Where) -> Network | FeatureExtractor:
    """What is known of a network, by name or loaded, before it is used; an error now if it cannot be.

    Raises
    ------
    ValueError, FileNotFoundError, ModuleNotFoundError
        As `check_network`; ValueError also for what is no network.
    """
    if isinstance(network, str):
        return check_network(network, device=where.device, world=where.world)
    if isinstance(network, type) or not callable(network) or not hasattr(network, "pool_dim"):
        found = network.__name__ if isinstance(network, type) else type(network).__name__
        raise ValueError(
            f"`network`: expected a name such as 'inception', or what `dit_eval.load_network` returns; got {found}."
        )
    return network
