"""Two references in one: statistics of one file, images of another.

Drifting, for one, states FID against statistics of ImageNet's training set, and precision and recall against the first
10,000 images of its validation set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dit_eval.images.reader import ImageSet
from dit_eval.results.settings import Crop
from dit_eval.summary import GaussianStats


@dataclass(frozen=True, kw_only=True)
class TwoReferences:
    """An `ImageSet` with the statistics of one set and the images of another; its checksum is that of the images.

    Attributes
    ----------
    statistics : of which mean and covariance serve, and nothing else
    images : for precision, recall and what else compares single images

    Raises
    ------
    ValueError
        If the one has no statistics, or the other no images.
    """

    statistics: ImageSet
    images: ImageSet

    def __post_init__(self) -> None:
        if self.statistics.pool is None and self.statistics.spatial is None:
            raise ValueError(
                f"`ref` {self.statistics.path}: holds no statistics (mu, sigma), which `ref` must beside `pr_ref`. "
                "Make them with `dit-eval stats`, or leave `pr_ref` out to compare with the images of `ref` alone."
            )
        if self.images.num_images == 0:
            raise ValueError(f"`pr_ref` {self.images.path}: holds no images; pass a batch, folder or archive of them.")

    @property
    def path(self) -> str:
        return f"{self.statistics.path} with {self.images.path}"

    @property
    def num_images(self) -> int | None:
        return self.images.num_images

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self.images.image_size

    @property
    def labels(self) -> np.ndarray | None:
        return self.images.labels

    @property
    def labels_problem(self) -> str | None:
        return self.images.labels_problem

    @property
    def pool(self) -> GaussianStats | None:
        return self.statistics.pool

    @property
    def spatial(self) -> GaussianStats | None:
        return self.statistics.spatial

    @property
    def run(self) -> None:
        return None

    @property
    def crop(self) -> Crop | None:
        return self.images.crop

    @property
    def read_once(self) -> bool:
        return self.images.read_once

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.statistics.warnings, *self.images.warnings)

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        return self.images.batches(batch_size, first=first, last=last)

    def sha256(self, on_progress: Callable[[int, int], None] | None = None) -> str:
        return self.images.sha256(on_progress)

    def check_unchanged(self) -> None:
        self.statistics.check_unchanged()
        self.images.check_unchanged()
