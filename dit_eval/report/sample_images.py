"""The first images of sample files, where they are still what was evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_eval.images.npz import open_batch
from dit_eval.images.thumbnail import strip
from dit_eval.results.eval_result import EvalResult
from dit_eval.system.text import named

_IMAGES = 4  # of a thumbnail
_MOST_BYTES = 600_000  # of all thumbnails of a page
_LARGEST = 4096 * 4096  # pixels of an image that is read


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A strip of a run's first images.

    Attributes
    ----------
    kind, content : media type, and the file
    count, width, height : images in it, and the pixels of one in the sample file
    """

    kind: str
    content: bytes
    count: int
    width: int
    height: int

    @property
    def tiny(self) -> bool:
        """Whether a page shows them larger than they are."""
        return self.height <= 32


def first_images(result: EvalResult, folder: Path, count: int) -> np.ndarray | None:
    """The first images of a result's sample file, uint8 (N, H, W, 3); None if it is gone or holds others.

    Parameters
    ----------
    folder : of the results file; paths of samples count from there too
    """
    path = _samples_of(result, folder)
    if path is None:
        return None
    try:
        batch = open_batch(path, role="gen")
        if batch.run != result.gen.run or batch.image_size is None or not batch.num_images:
            return None
        if batch.image_size[0] * batch.image_size[1] > _LARGEST:
            return None
        return next(iter(batch.batches(count, last=min(count, batch.num_images))))
    except (ValueError, OSError):  # no samples, or damaged ones
        return None


def thumbnails(results: Sequence[EvalResult], folder: Path, order: Sequence[int]) -> Mapping[int, Thumbnail]:
    """A strip for each result whose samples are there, by its number.

    Parameters
    ----------
    folder : see `first_images`
    order : numbers of results, those first that matter most; the last ones go without where a page would get too large
    """
    made: dict[int, Thumbnail] = {}
    left = _MOST_BYTES
    for number in order:
        images = first_images(results[number], folder, _IMAGES)
        drawn = None if images is None else strip(images)
        if images is None or drawn is None:
            continue
        kind, content = drawn
        left -= len(content)
        if left < 0:
            break
        height, width = images.shape[1:3]
        made[number] = Thumbnail(kind=kind, content=content, count=len(images), width=width, height=height)
    return made


def _samples_of(result: EvalResult, folder: Path) -> Path | None:
    # `isfile` takes a name that no file can have for one that is not there.
    texts = (result.gen.path, named(result.gen.path))
    return next((p for text in texts for p in (Path(text), folder / text) if os.path.isfile(p)), None)
