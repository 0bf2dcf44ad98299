"""Real images to a reference file with their statistics."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import dit_eval
from dit_eval.features.extract import extract_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.features.provenance import extractor_info
from dit_eval.images.npz import write_batch
from dit_eval.images.open import ImageSet
from dit_eval.system.assets import assets

if TYPE_CHECKING:
    from dit_eval.system.progress import OnProgress


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference batch in ADM's layout, not written yet.

    Attributes
    ----------
    images : all of them
    image_size : (H, W) in pixels
    kept : indices of those that the file keeps, ascending
    arrays : what it holds beside them, by key: `mu sigma mu_s sigma_s` (float64), and labels `arr_1`
    comment : what the zip's comment says of its origin, as JSON
    batch_size : images in memory at a time while it is written
    """

    images: ImageSet
    image_size: tuple[int, int]
    kept: np.ndarray
    arrays: dict[str, np.ndarray]
    comment: str
    batch_size: int

    def write(self, path: Path) -> None:
        """Write the npz atomically; the images are read once more."""
        if not len(self.kept):
            write_batch(path, arrays=self.arrays, comment=self.comment)
            return
        shape = (len(self.kept), *self.image_size, 3)
        write_batch(path, images=self._kept_batches(), shape=shape, arrays=self.arrays, comment=self.comment)

    def _kept_batches(self) -> Iterator[np.ndarray]:
        begin = 0
        for batch in self.images.batches(self.batch_size):
            yield batch[self.kept[(self.kept >= begin) & (self.kept < begin + len(batch))] - begin]
            begin += len(batch)
        self.images.check_unchanged()  # since their statistics were made


def check_named_size(ref: str | os.PathLike[str], gen: ImageSet) -> None:
    """That samples have the size of a public reference, which its name says, before that is fetched.

    Raises
    ------
    ValueError
        With both sizes.
    """
    known = {item.name for item in assets() if item.kind == "reference"}
    named = re.fullmatch(r"imagenet(\d+)", ref) if isinstance(ref, str) and ref in known else None
    if named is None or Path(ref).exists() or gen.image_size is None:
        return
    side, (height, width) = int(named[1]), gen.image_size
    if (height, width) != (side, side):
        raise ValueError(
            f"{gen.path} has images of {width}x{height}, {ref} of {side}x{side}. Take the reference of the samples' "
            "resolution, or pass `allow_size_mismatch` to score them as they are (the network resizes both)."
        )


def make_reference(
    *,
    images: ImageSet,
    extractor: FeatureExtractor,
    num_images: int = 10_000,
    batch_size: int = 64,
    on_progress: OnProgress | None = None,
) -> Reference:
    """Make a reference batch in ADM's layout.

    `mu sigma mu_s sigma_s` (float64) cover all images, without the last two where the network has no spatial features;
    `arr_0` keeps `num_images` of them for precision and recall, evenly spaced over the file, so that a class-ordered
    file does not lose its last classes. The comment of the zip says, as JSON, of which images and by which network it
    was made.

    Raises
    ------
    ValueError
        If there are fewer than 2 images, `num_images` is negative, or the images can be read only once; before the
        network runs.
    """
    if images.read_once or images.num_images is None:
        raise ValueError(
            f"{images.path}: an iterable is read once, and a reference needs its images twice. Write them into an npz "
            "(`dit_eval.images.npz.write_batch`) and open that."
        )
    if images.num_images < 2 or num_images < 0 or images.image_size is None:
        raise ValueError(
            f"{images.path}: {images.num_images} image(s), {num_images} to keep; statistics need at least 2 images, "
            "and the number to keep must not be negative."
        )
    report = partial(on_progress, "ref") if on_progress else None
    summary = extract_features(images, extractor, batch_size=batch_size, on_progress=report)
    pool = summary.stats("pool")
    keep = np.unique(np.linspace(0, images.num_images - 1, min(num_images, images.num_images)).round().astype(int))
    arrays = {"mu": pool.mu, "sigma": pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    if images.labels is not None and len(keep):
        arrays["arr_1"] = images.labels[keep]
    made_from = {
        "images_sha256": images.sha256(),
        "num_images": images.num_images,
        "extractor": asdict(extractor_info(extractor)),
        "dit_eval": dit_eval.__version__,
    }
    comment = json.dumps({"made_from": made_from})
    return Reference(
        images=images,
        image_size=images.image_size,
        kept=keep,
        arrays=arrays,
        comment=comment,
        batch_size=batch_size,
    )


def write_reference(
    *,
    images: ImageSet,
    out: Path,
    extractor: FeatureExtractor,
    num_images: int = 10_000,
    batch_size: int = 64,
    on_progress: OnProgress | None = None,
) -> int:
    """Make a reference batch, see `make_reference`, write it atomically, and return how many images it keeps."""
    reference = make_reference(
        images=images, extractor=extractor, num_images=num_images, batch_size=batch_size, on_progress=on_progress
    )
    reference.write(out)
    return len(reference.kept)
