"""Some images of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dit_eval.images.encoded import ImageFiles
from dit_eval.images.npz import ImageBatch
from dit_eval.images.reader import ImageSet
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import Crop


def whole(images: ImageSet) -> ImageBatch | ImageFiles:
    """A set of which some images can be read; ValueError for one that is read once."""
    if not isinstance(images, ImageBatch | ImageFiles):
        raise ValueError(
            f"{images.path}: is read once from its start, and images are to be taken in random order. Write them into "
            "an npz (`dit_eval.images.npz.write_batch`) and pass that."
        )
    return images


@dataclass(frozen=True, kw_only=True)
class Picked:
    """An `ImageSet` of some images of a file or folder, in its order; its checksum is that of the whole.

    Attributes
    ----------
    images : the whole
    rows : int64 (num_images,), ascending
    """

    images: ImageBatch | ImageFiles
    rows: np.ndarray
    read_once: bool = False
    _sha256: dict[str, str] = field(default_factory=dict, repr=False)

    def other(self, rows: np.ndarray) -> Picked:
        """Other images of the same set, whose checksum is computed once for all."""
        return Picked(images=self.images, rows=rows, _sha256=self._sha256)

    @property
    def path(self) -> Path | str:
        return self.images.path

    @property
    def num_images(self) -> int:
        return len(self.rows)

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self.images.image_size

    @property
    def labels(self) -> np.ndarray | None:
        return None if self.images.labels is None else self.images.labels[self.rows]

    @property
    def labels_problem(self) -> str | None:
        return self.images.labels_problem

    pool = spatial = None

    @property
    def run(self) -> SampleRun | None:
        return self.images.run

    @property
    def crop(self) -> Crop | None:
        return self.images.crop

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.images.warnings

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """As of `ImageSet`."""
        return self.images.picked(self.rows[first:last], batch_size)

    def plain_order(self) -> np.ndarray | None:
        """As of `ImageFiles`."""
        if isinstance(self.images, ImageBatch):
            return None
        order = self.images.plain_order()
        if order is None:
            return None
        places = np.full(self.images.num_images, -1)
        places[self.rows] = np.arange(len(self.rows))
        return places[order][places[order] >= 0]

    def sha256(self, on_progress: Callable[[int, int], None] | None = None) -> str:
        """As of `ImageSet`."""
        if not self._sha256:
            self._sha256["whole"] = self.images.sha256(on_progress)
        return self._sha256["whole"]

    def check_unchanged(self) -> None:
        self.images.check_unchanged()
