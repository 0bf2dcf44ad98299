"""What an image set is to whoever uses it, and what opens one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import Crop
from dit_eval.summary import GaussianStats

Role = Literal["gen", "ref"]


class ImageSet(Protocol):
    """What is scored: images, or the statistics of images.

    Attributes
    ----------
    path : where they lie, or what to call them
    num_images : images to use; None while it is not known, before an iterable has been read
    image_size : (H, W) in pixels, or None without images
    labels : int64 (num_images,), or None
    labels_problem : why there are no labels though something is in their place, or None
    pool, spatial : stored statistics, or None
    run : how the images were drawn, or None where nothing says so
    crop : what each image is cut to as it is read; None where all of it is taken
    read_once : whether `batches` can be called once only, and `sha256` only after that
    warnings : what a user should know, complete once all images or `sha256` have been read
    """

    @property
    def path(self) -> Path | str: ...

    @property
    def num_images(self) -> int | None: ...

    @property
    def image_size(self) -> tuple[int, int] | None: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def labels_problem(self) -> str | None: ...

    @property
    def pool(self) -> GaussianStats | None: ...

    @property
    def spatial(self) -> GaussianStats | None: ...

    @property
    def run(self) -> SampleRun | None: ...

    @property
    def crop(self) -> Crop | None: ...

    @property
    def read_once(self) -> bool: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the images in order as uint8 (B, H, W, 3), from `first` and to before `last`; the last may be short."""
        ...

    def sha256(self, on_progress: Callable[[int, int], None] | None = None) -> str:
        """What tells these images from others: of an npz, the file's own checksum.

        Parameters
        ----------
        on_progress : called with (bytes read, bytes in all, which may be an estimate)
        """
        ...

    def check_unchanged(self) -> None:
        """That all that has been read, checksum included, is of the same files as they are now; ValueError if not."""
        ...


class Open(Protocol):
    """Opens what a reader has recognised, checking all that can be checked without reading the images."""

    def __call__(self, path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageSet: ...


@dataclass(frozen=True, kw_only=True)
class Reader:
    """All that `open_images` knows of a format.

    Attributes
    ----------
    name : of the format
    recognises : whether a path is of it, from the name and from what a folder holds
    open : opens it
    """

    name: str
    recognises: Callable[[Path], bool]
    open: Open


def check_number(path: Path | str, *, used: int, stored: int) -> None:
    """That so many images can be used of those stored.

    Raises
    ------
    ValueError
        If none are asked for, or more than there are. Of a file of statistics, which stores none, none may be.
    """
    if stored and used < 1:
        raise ValueError(f"{path}: {used} images asked for; needed at least 1.")
    if used > stored:
        raise ValueError(
            f"{path} holds {stored:,} images, {used:,} were asked for. "
            f"Draw the missing {used - stored:,}, or pass --num-images {stored}."
        )


def pixels(size: tuple[int, ...]) -> str:
    """(H, W) as messages have it: W x H px."""
    return " x ".join(map(str, reversed(size))) + " px"


def bytes_hint(kind: str, *, tensor: bool = False) -> str:
    """How images of another type become uint8, for messages.

    Parameters
    ----------
    kind : of their type, as `numpy.dtype.kind` has it: "f", "i", "u", "b", ...
    tensor : whether they are a PyTorch tensor, not a NumPy array
    """
    cast = ".to(torch.uint8)" if tensor else ".astype(np.uint8)"
    if kind == "b":
        return f"Make black and white of them: 255 * x{cast}."
    if kind in "iu":
        return f"If they are in 0..255, pass x{cast}; if in 0..65535, (x // 257){cast}."
    return (
        f"Quantise them as your sampler does. DiT, of x in -1..1: (127.5 * x + 128).clip(0, 255){cast}; the same, of x "
        f"in 0..1: (255 * x + 0.5).clip(0, 255){cast}; of whole numbers in 0..255: x{cast}."
    )
