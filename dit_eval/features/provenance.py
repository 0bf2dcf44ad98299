"""What a result says of its images and of its network."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np

from dit_eval.features.network import FeatureExtractor
from dit_eval.images import ImageSet
from dit_eval.results.eval_result import ExtractorInfo, ImageSource
from dit_eval.summary import GaussianStats
from dit_eval.system.assets import git_id_of
from dit_eval.system.progress import OnProgress

# Share of the largest value by which means and covariances of the same images differ at most, whatever program and
# machine made them; those of different images of one source differ by some 1 / sqrt(N).
_SAME = 1e-4


def announce(on_progress: OnProgress, sets: Mapping[str, ImageSet | None]) -> None:
    """Report the numbers of images that will be passed over, as far as they are known, before anything is done."""
    for role, images in sets.items():
        if images is not None and images.num_images:
            on_progress(role, 0, images.num_images)


def checksums(*sets: ImageSet, on_progress: OnProgress | None = None) -> list[str | None]:
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
    """A set of images as results name it, once they have been read; `statistics` is "stored" or "computed"."""
    entry = getattr(batch, "entry", None)  # of statistics in a file of several
    stored = batch.pool if statistics == "stored" else None
    alone = stored is not None and not batch.num_images
    return ImageSource(
        path=f"{batch.path}#{entry}" if entry else str(batch.path),
        sha256=sha256,
        num_images=batch.num_images or 0,  # an iterable has counted them by now
        image_size=batch.image_size,
        statistics=statistics,
        run=batch.run,
        made_from=getattr(batch, "made_from", None),  # an npz may say so
        fingerprint=stored.fingerprint() if stored else None,
        git=git_id_of(Path(batch.path)) if alone else None,
        crop=batch.crop.name if batch.crop else getattr(batch, "made_crop", None),
    )


def against_itself(
    gen: ImageSource, ref: ImageSource, gen_pool: GaussianStats | None = None, ref_pool: GaussianStats | None = None
) -> list[str]:
    """A warning if the reference is the samples, or was made of them: by checksums, or because the features say so."""
    advice = "The score says nothing of a model; pass real images, or statistics of them, as the reference."
    if gen.sha256 == ref.sha256:
        return [f"{ref.path} is the same as {gen.path}: the samples are scored against themselves. {advice}"]
    if gen.sha256 == ref.made_from:
        return [f"the statistics of {ref.path} were made of the images of {gen.path}. {advice}"]
    if gen_pool is None or ref_pool is None or gen_pool.dim != ref_pool.dim:
        return []
    alike = all(
        np.abs(mine - theirs).max() <= _SAME * np.abs(theirs).max()
        for mine, theirs in ((gen_pool.mu, ref_pool.mu), (gen_pool.sigma, ref_pool.sigma))
    )
    if alike and ref_pool.sigma.any():
        return [f"{ref.path} has the mean and covariance of {gen.path}: they seem to be the same images. {advice}"]
    return []
