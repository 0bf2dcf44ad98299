"""What a result says of its images and of its network."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Protocol

from dit_eval.features.network import FeatureExtractor
from dit_eval.images.open import ImageSet
from dit_eval.metrics.choose import _known
from dit_eval.results.eval_result import ExtractorInfo, ImageSource


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much it is (None while unknown).

    First "ref" and "gen", where images pass through the network, with 0 images done. Then "checksums" in bytes; "ref"
    and "gen" in images, at once with all of them where a cache has their features; "metrics", without numbers.
    """

    def __call__(self, role: str, done: int, total: int | None, /) -> None: ...


def announce(on_progress: Progress, sets: Mapping[str, ImageSet | None]) -> None:
    """Report the numbers of images that will be passed over, as far as they are known, before anything is done."""
    for role, images in sets.items():
        if images is not None and images.num_images:
            on_progress(role, 0, images.num_images)


def checksums(*sets: ImageSet, on_progress: Progress | None = None) -> list[str | None]:
    """SHA-256 of each set, at the same time; None of one that is read once.

    Parameters
    ----------
    on_progress : called with ("checksums", bytes read of all sets, bytes in all)
    """
    lock, read = Lock(), dict[int, tuple[int, int]]()

    def checksum(number: int) -> str | None:
        def report(done: int, total: int) -> None:
            with lock:
                read[number] = (done, total)
                if on_progress:
                    on_progress("checksums", *map(sum, zip(*read.values(), strict=True)))

        return None if sets[number].read_once else sets[number].sha256(report)

    with ThreadPoolExecutor(len(sets), "checksums") as threads:
        return list(threads.map(checksum, range(len(sets))))


def extractor_info(extractor: FeatureExtractor) -> ExtractorInfo:
    """The network as results name it."""
    return ExtractorInfo(
        name=extractor.name,
        weights_sha256=extractor.weights_sha256,
        backend=extractor.backend,
        precision=extractor.precision,
        device=extractor.device,
        convolutions_sha256=getattr(extractor, "convolutions_sha256", None),  # networks of other kinds have none
    )


def image_source(batch: ImageSet, sha256: str, statistics: str) -> ImageSource:
    """A set of images as results name it; `statistics` is "stored" or "computed"."""
    return ImageSource(
        path=str(batch.path),
        sha256=sha256,
        num_images=_known(batch.num_images),
        image_size=batch.image_size,
        statistics=statistics,
        run=batch.run,
        made_from=getattr(batch, "made_from", None),  # an npz may say so
    )
