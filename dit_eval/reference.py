"""Real images to a reference file with their statistics."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dit_eval
from dit_eval.features.cache import features_of
from dit_eval.features.load import load_network
from dit_eval.features.moments import KeptSums, sum_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.features.provenance import extractor_info
from dit_eval.features.seen import given_sizes
from dit_eval.images import ImageSet
from dit_eval.images.given import given_images
from dit_eval.images.npz import write_batch
from dit_eval.images.pair import TwoReferences
from dit_eval.system.assets import assets, fetch, fetch_aloud, find_reference
from dit_eval.system.files import check_ending, check_target
from dit_eval.system.progress import OnProgress, Progress
from dit_eval.system.where import Where, given_where

if TYPE_CHECKING:
    from dit_eval.system.assets import Asset


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
    sums : what is kept for a run that goes on, until the file is written
    """

    images: ImageSet
    image_size: tuple[int, int]
    kept: np.ndarray
    arrays: dict[str, np.ndarray]
    comment: str
    batch_size: int
    sums: KeptSums | None = None

    def write(self, path: Path) -> None:
        """Write the npz atomically; the images that it keeps are read once more."""
        if len(self.kept):
            shape = (len(self.kept), *self.image_size, 3)
            write_batch(path, images=self._kept_batches(), shape=shape, arrays=self.arrays, comment=self.comment)
        else:
            write_batch(path, arrays=self.arrays, comment=self.comment)
        if self.sums is not None:
            self.sums.remove()

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


def given_reference(
    ref: Any, *, gen: ImageSet, network: str, bring: Callable[[Asset], Path], allow_size_mismatch: bool
) -> ImageSet:
    """Whatever stands for a reference, or a pair of statistics and images, opened; public files are brought.

    Parameters
    ----------
    ref : what `dit_eval.evaluate` takes
    gen : the samples, which must have the size that a reference's name says, unless `allow_size_mismatch`
    network : whose statistics are meant where a file holds those of several
    bring : see `find_reference`

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `dit_eval.evaluate`.
    """
    opened = []
    for each in ref if isinstance(ref, tuple) else (ref,):
        named = isinstance(each, str | os.PathLike)
        if named and not allow_size_mismatch:
            check_named_size(each, gen)
        found = find_reference(each, bring=bring) if named else each
        opened.append(given_images(found, role="ref", network=network))
    if len(opened) == 2:
        return TwoReferences(statistics=opened[0], images=opened[1])
    if len(opened) != 1:
        raise ValueError(f"`ref`: expected one reference, or a pair of statistics and images; got {len(opened)}.")
    return opened[0]


def make_reference(
    *,
    images: ImageSet,
    extractor: FeatureExtractor,
    num_images: int = 10_000,
    batch_size: int = 64,
    on_progress: OnProgress | None = None,
    out: Path | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Reference:
    """Make a reference batch in ADM's layout.

    `mu sigma mu_s sigma_s` (float64) cover all images, without the last two where the network has no spatial features;
    `arr_0` keeps `num_images` of them for precision and recall, evenly spaced over the file, so that a class-ordered
    file does not lose its last classes. The comment of the zip says, as JSON, of which images and by which network it
    was made.

    Parameters
    ----------
    out : where it will be written; what is done is kept beside it, and a killed run goes on
    on_note : told that it goes on

    Raises
    ------
    ValueError
        If there are fewer than 2 images, `num_images` is negative, or the images can be read only once; before the
        network runs.
    """
    count, size = _check_reference(images, num_images)
    report = partial(on_progress, "ref") if on_progress else None
    sha256 = images.sha256(partial(on_progress, "checksums") if on_progress else None)
    sums = None if out is None else KeptSums(out, features_of(images, extractor, images_sha256=sha256), on_note)
    try:
        summary = sum_features(images, extractor, kept=sums, batch_size=batch_size, on_progress=report)
    except BaseException:
        if sums is not None:
            sums.release()  # what is kept stays, for the next run
        raise
    pool = summary.stats("pool")
    keep = np.unique(np.linspace(0, count - 1, min(num_images, count)).round().astype(int))
    arrays = {"mu": pool.mu, "sigma": pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    if images.labels is not None and len(keep):
        arrays["arr_1"] = images.labels[keep]
    made_from = {
        "images_sha256": sha256,
        "num_images": count,
        "extractor": asdict(extractor_info(extractor)),
        "dit_eval": dit_eval.__version__,
    }
    if images.crop:
        made_from["crop"] = images.crop.name
    comment = json.dumps({"made_from": made_from})
    return Reference(
        images=images,
        image_size=size,
        kept=keep,
        arrays=arrays,
        comment=comment,
        batch_size=batch_size,
        sums=sums,
    )


def write_reference(
    *,
    images: ImageSet,
    out: Path,
    extractor: FeatureExtractor,
    num_images: int = 10_000,
    batch_size: int = 64,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> int:
    """Make a reference batch, see `make_reference`, write it atomically, and return how many images it keeps."""
    reference = make_reference(
        images=images,
        extractor=extractor,
        num_images=num_images,
        batch_size=batch_size,
        on_progress=on_progress,
        out=out,
        on_note=on_note,
    )
    reference.write(out)
    return len(reference.kept)


def stats(
    images: str | os.PathLike[str] | ImageSet,
    *,
    out: str | os.PathLike[str],
    network: str | FeatureExtractor = "inception",
    num_images: int = 10_000,
    batch_size: int = 64,
    where: Where | None = None,
    quiet: bool = False,
) -> Path:
    """Make a reference npz from real images, as `dit-eval stats` does: statistics of all, and some of the images.

    Parameters
    ----------
    images : a path (npz, folder, zip, tar, saved dataset), or an image set of `open_images` or `from_dataset`
    out : the npz to write; an earlier file is never written over
    network : a name of `NETWORKS`, whose weights are fetched into the cache, or a loaded network
    num_images : how many to keep, evenly spaced
    batch_size : images in memory at a time
    where : of which the device and `on_progress` count
    quiet : say nothing on stderr

    Returns
    -------
    The path of the file.

    Raises
    ------
    ValueError
        If an argument is of another type or value than stated, or there are too few images, before the network runs.
    FileNotFoundError, FileExistsError, ModuleNotFoundError, OSError
        If a file is missing, or in the way, or cannot be written or fetched.
    """
    where, target = given_where(where), Path(out)
    check_ending(target, ".npz")
    if os.path.lexists(target):
        raise FileExistsError(f"`out` {target}: exists already. Name another, or remove it first.")
    check_target(target)
    opened = given_images(images, role="gen")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size`: expected an integer of at least 1; got {batch_size!r}.")
    _check_reference(opened, num_images)
    given_sizes(network, where)
    if isinstance(network, str):
        network = load_network(network, device=where.device, fetch=fetch if quiet else fetch_aloud)
    write = partial(
        write_reference,
        images=opened,
        out=target,
        extractor=network,
        num_images=num_images,
        batch_size=batch_size,
    )
    if where.on_progress or quiet:
        write(on_progress=where.on_progress, on_note=where.on_note)
        return target
    with Progress(names={"ref": "ref features"}) as progress:
        write(on_progress=progress.update, on_note=progress.note)
    return target


def _check_reference(images: ImageSet, num_images: int) -> tuple[int, tuple[int, int]]:
    """Number and size of images that a reference can be made of."""
    if images.read_once or images.num_images is None:
        raise ValueError(
            f"{images.path}: an iterable is read once, and a reference needs its images twice. Write them into an npz "
            "(`dit_eval.images.npz.write_batch`) and open that."
        )
    if isinstance(num_images, bool) or not isinstance(num_images, int):
        raise ValueError(f"`num_images`: expected an integer; got {num_images!r}.")
    if images.num_images < 2 or num_images < 0 or images.image_size is None:
        raise ValueError(
            f"{images.path}: {images.num_images} image(s), {num_images} to keep; statistics need at least 2 images, "
            "and the number to keep must not be negative."
        )
    return images.num_images, images.image_size
