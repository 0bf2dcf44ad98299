"""Batches that a program makes, as an image set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from dit_eval.images.reader import bytes_hint, pixels


def from_batches(batches: Iterable[Any], *, num_images: int | None = None, name: str = "batches") -> ImageStream:
    """Images that a program makes, to be scored as they come. They are read once, in one process, and not cached.

    The first batch is taken at once, so that a mistake shows here. Only uint8 (B, H, W, 3), as an array or a tensor on
    any device, is accepted: how floats become bytes moves the numbers, and is the sampler's choice.

    Parameters
    ----------
    batches : NumPy arrays or PyTorch tensors
    num_images : stop after so many, of an iterable that may go on; all by default
    name : what to call them in messages and results

    Raises
    ------
    ValueError
        If there is no batch, or it is not of that kind.
    """
    return ImageStream(batches, num_images=num_images, name=name)


class ImageStream:
    """Batches that can be read once; see `ImageSet` and `from_batches`."""

    labels = labels_problem = pool = spatial = run = None
    crop = None
    read_once = True
    warnings: tuple[str, ...] = ()

    def __init__(self, batches: Iterable[Any], *, num_images: int | None, name: str) -> None:
        self.path = name
        self.num_images = num_images  # known from here, or once all are read
        self.image_size: tuple[int, int] | None = None
        self._digest, self._count, self._begun, self._ended = hashlib.sha256(), 0, False, False
        if num_images is not None and num_images < 1:
            raise ValueError(f"{name}: {num_images} images asked for; needed at least 1.")
        if isinstance(batches, str | bytes | dict) or not isinstance(batches, Iterable):
            raise ValueError(
                f"{name}: found {type(batches).__name__}; needed an iterable of uint8 batches (B, H, W, 3). "
                "`open_images` opens files."
            )
        self._batches = self._checked(iter(batches))
        self._first = next(self._batches, None)
        if self._first is None:
            raise ValueError(f"{name}: an iterable without any image; needed uint8 batches (B, H, W, 3).")

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the images as they come, uint8 (B, H, W, 3), in batches of this size; the last may be short.

        Raises
        ------
        ValueError
            If they have been read, a part of them is asked for, or a batch is not of the kind of the first.
        """
        self._check_whole_once(batch_size, first, last)
        self._begun = True
        held = list[np.ndarray]()
        for images in self._wanted():
            held.append(images)
            if sum(map(len, held)) >= batch_size:
                rows = np.concatenate(held)
                whole = len(rows) // batch_size * batch_size
                yield from (rows[k : k + batch_size] for k in range(0, whole, batch_size))
                held = [rows[whole:]]
        if held and (rest := np.concatenate(held)).size:
            yield rest
        self.num_images, self._ended = self._count, True

    def sha256(self, on_progress: Callable[[int, int], None] | None = None) -> str:
        """SHA-256 of the SHA-256 of each image's bytes, H x W x 3, as lines of text; known without reading them again.

        Raises
        ------
        ValueError
            If the images have not been read yet.
        """
        if not self._ended:
            raise ValueError(
                f"{self.path}: its images have not been read yet, and nothing else tells them from others."
            )
        return self._digest.hexdigest()

    def check_unchanged(self) -> None:
        """Nothing can: they are read once."""

    def _check_whole_once(self, batch_size: int, first: int, last: int | None) -> None:
        if batch_size < 1:
            raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
        if first or (last is not None and last != self.num_images):
            raise ValueError(f"{self.path}: an iterable is read as a whole, in one process.")
        if self._begun:
            raise ValueError(
                f"{self.path}: read already; an iterable gives its images once. Make a new one, or write the images "
                "into an npz (`dit_eval.images.npz.write_batch`) and open that."
            )

    def _wanted(self) -> Iterator[np.ndarray]:
        """As many images as asked for, counted and added to the checksum."""
        for images in self._all():
            if self.num_images is not None:
                images = images[: self.num_images - self._count]
            for image in images:
                self._digest.update(f"{hashlib.sha256(image.tobytes()).hexdigest()}\n".encode())
            self._count += len(images)
            yield images
            if self._count == self.num_images:
                return
        if self.num_images is not None:
            raise ValueError(f"{self.path}: ended after {self._count:,} images; {self.num_images:,} were asked for.")

    def _all(self) -> Iterator[np.ndarray]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        del first
        yield from self._batches

    def _checked(self, batches: Iterator[Any]) -> Iterator[np.ndarray]:
        for number, batch in enumerate(batches):
            where = f"{self.path}, batch {number}"
            height, width = _size_of(batch, where)
            if not len(batch):
                continue
            if self.image_size is None:
                self.image_size = (height, width)
            if (height, width) != self.image_size:
                raise ValueError(
                    f"{where}: images of {pixels((height, width))}, those before of {pixels(self.image_size)}; "
                    "needed one size."
                )
            # A tensor of any device; torch itself is not needed here.
            yield np.asarray(batch.detach().cpu() if hasattr(batch, "detach") else batch)


_NEEDED = "needed uint8 (B, H, W, 3), RGB, 0..255"


def _size_of(batch: Any, where: str) -> tuple[int, int]:
    """(H, W) of a batch; ValueError if it is not uint8 (B, H, W, 3)."""
    if not hasattr(batch, "dtype") or not hasattr(batch, "shape"):
        hint = " Of pairs with labels, pass the images: (images for images, _ in loader)."
        raise ValueError(
            f"{where}: found {type(batch).__name__}; {_NEEDED}, as an array or a tensor."
            + (hint if isinstance(batch, tuple | list | dict) else "")
        )
    dtype, shape = str(batch.dtype).removeprefix("torch."), tuple(batch.shape)
    if dtype != "uint8":
        kind = "f" if "float" in dtype else dtype[0]  # of PyTorch's types, bfloat16 is none of NumPy's
        raise ValueError(f"{where}: found {dtype}; {_NEEDED}. {bytes_hint(kind, tensor=hasattr(batch, 'detach'))}")
    if len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"{where}: found uint8 {shape}; {_NEEDED}.{_about_axes(shape)}")
    return shape[1], shape[2]


def _about_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] == 3:
        return " The axes look like B x 3 x H x W: use permute(0, 2, 3, 1) or transpose(0, 2, 3, 1)."
    return " It looks like one image: pass batches, such as [images]." if len(shape) == 3 else ""
