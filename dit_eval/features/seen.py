"""One pass over an image set, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from dit_eval.features.cache import cache_entry, cached_features
from dit_eval.features.load import check_network
from dit_eval.features.network import FeatureExtractor, Network
from dit_eval.features.provenance import image_source
from dit_eval.images import ImageSet
from dit_eval.images.pair import TwoReferences
from dit_eval.results.eval_result import ImageSource
from dit_eval.summary import FeatureSummary
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


def pass_over(
    role: str, seen: Seen, network: FeatureExtractor, *, batch_size: int, keep_spatial: bool, where: Where
) -> Seen:
    """Pass a set through the network, or take its features out of the cache.

    Parameters
    ----------
    role : "gen" or "ref", as progress names it
    keep_spatial : keep the spatial features of single images too
    """
    images, report = seen.images, partial(where.on_progress, role) if where.on_progress else None
    shared = where.references if role == "ref" and seen.sha256 else None
    if shared is not None and seen.sha256 in shared:
        if report and images.num_images:
            report(images.num_images, images.num_images)
        return replace(seen, features=shared[seen.sha256])
    cache = Path(where.cache) if where.cache and (where.cache_gen or role == "ref") else None
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
