"""Images to train on: in memory, in a folder, or as latents that `dit-eval encode` has made of one.

All three answer the same question: the images of these indices, mirrored or not, as a model sees them. What is random
about an image (its mirroring, the sample of its posterior) is drawn from generators that the caller gives, so that a
batch depends on nothing else.

N images, C channels, H = W side; latents of Stable Diffusion have C = 4 and an eighth of the side.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from dit_eval.diffusion.latents import INDEX, Latents
from dit_eval.images.crop import cropped
from dit_eval.images.folder import read_file
from dit_eval.images.identity import Identity, identify
from dit_eval.images.listing import IMAGE_SUFFIXES
from dit_eval.images.npz import open_batch
from dit_eval.results.settings import Crop
from dit_eval.system.ahead import in_order
from dit_eval.system.text import shown

_MOST_CLASSES = 1 << 16  # of data with fewer images
_AHEAD = 64  # images that are read ahead
_MAX_FILE = 1 << 30  # bytes of an image file: more than so many pixels, RGB, without compression


class TrainingData(Protocol):
    """What a training run reads.

    Attributes
    ----------
    space : "pixel", or "latent" for latents of an autoencoder
    shape : (C, H, W) of what a model sees
    num_classes : one more than the largest label
    identity : what tells these data from others, for JSON
    """

    @property
    def space(self) -> Literal["latent", "pixel"]: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 (N, C, H, W), nominally of unit scale, and labels int64 (N,).

        Parameters
        ----------
        indices, mirrored : (N,) which images, and which of them left to right
        generators : one for each image, for what is random about it
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ArrayData:
    """Images in memory, or mapped: pixel space.

    Attributes
    ----------
    images : uint8 (N, H, W, C), C = 1 or 3
    labels : int64 (N,)
    identity : see `TrainingData`
    """

    images: np.ndarray
    labels: np.ndarray
    identity: dict[str, Any]

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or shape[1] != shape[2]:
            raise ValueError(f"Found images {self.images.dtype} {shape}; needed uint8 (N, H, H, 1 or 3).")
        if self.labels.shape != shape[:1] or self.labels.dtype.kind not in "iu" or self.labels.min(initial=0) < 0:
            raise ValueError(f"Found labels {self.labels.dtype} {self.labels.shape}; needed ({shape[0]},), 0 or more.")

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "pixel"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.images.shape[3], *self.images.shape[1:3])

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.images)

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        return model_input(self.images[indices], mirrored), self.labels[indices].astype(np.int64)


def open_data(
    path: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] = 3,
    identity: Identity = "times",
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """Training data of any kind: latents, an npz of images, or a folder of images.

    Parameters
    ----------
    image_size : side of the crop, for a folder of images
    channels : 1 to take the grey images of an npz as one channel
    identity : see `ImageFolder`; an npz is always known by its bytes, and latents as `encode` knew their images
    on_progress : called with (bytes, bytes in all) while the checksum of an npz is computed

    Raises
    ------
    FileNotFoundError, ValueError
        If it is none of these, or `image_size` is missing.
    """
    path = Path(path)
    parts = path.with_name(path.name + ".parts")  # of an encoding that has not finished; opening it says so
    if (path / INDEX).is_file() or (not path.exists() and parts.exists()):
        return Latents(path)
    if path.is_file():
        return open_npz(path, channels=channels, on_progress=on_progress)
    if not path.exists():
        raise FileNotFoundError(f"{path}: neither latents, nor an npz, nor a folder of images.")
    if image_size is None:
        raise ValueError(f"{path}: a folder of images needs `image_size`, the side of the centre crop.")
    return list_images(path, image_size=image_size, identity=identity)


def open_npz(
    path: str | os.PathLike[str],
    *,
    channels: Literal[1, 3] = 3,
    on_progress: Callable[[int, int], None] | None = None,
) -> ArrayData:
    """The images of an ADM batch file with labels in `arr_1`; without labels, all are of class 0.

    Parameters
    ----------
    channels : 1 to take grey images (three equal channels) as one channel
    on_progress : see `open_data`

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no such images.
    """
    batch = open_batch(path, role="gen")
    images = batch.array()
    if channels == 1:
        if any((part != part[..., :1]).any() for part in batch.batches(1024)):
            raise ValueError(f"{path}: its images have colours; needed three equal channels for one input channel.")
        images = images[..., :1]
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"{path}: images of {images.shape[2]} x {images.shape[1]} px; needed squares.")
    if batch.labels_problem:
        raise ValueError(f"{path}: {batch.labels_problem}. Without arr_1, all images are of one class.")
    labels = np.zeros(len(images), np.int64) if batch.labels is None else batch.labels
    if labels.min() < 0:
        raise ValueError(f"{path}: label {labels.min()} in arr_1; needed 0 or more.")
    if labels.max() >= max(_MOST_CLASSES, len(labels)):
        raise ValueError(
            f"{path}: label {labels.max()} in arr_1 of {len(labels):,} images; a model has a row for each class up to "
            "it. Number the classes from 0."
        )
    identity = {"kind": "npz", "sha256": batch.sha256(on_progress), "images": len(images), "channels": channels}
    return ArrayData(images=images, labels=labels, identity=identity)


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images in files, read when they are needed and cropped as ADM did: pixel space.

    Attributes
    ----------
    root : the folder
    files : paths in it, sorted by class, then by name
    labels : int64 (N,), numbers of `classes`
    classes : names of the class folders, sorted; empty if the images lie in `root` itself, all of class 0
    image_size : side of the crop
    identified_by : what tells the images from others under the same names: sizes and "times" of change, or "bytes"
    """

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    image_size: int
    identified_by: Identity = "times"
    _identified: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "pixel"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    @property
    def num_classes(self) -> int:
        return max(1, len(self.classes))

    @property
    def identity(self) -> dict[str, Any]:
        about = {"listing_sha256": self.listing_sha256, "images": len(self), "image_size": self.image_size}
        return {"kind": "folder", **about, **self.identify()}

    @property
    def listing_sha256(self) -> str:
        """SHA-256 of the names of classes and files."""
        names = "\n".join([*self.classes, "", *self.files]).encode(errors="surrogateescape")  # the bytes of the names
        return hashlib.sha256(names).hexdigest()

    def identify(self, on_progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """What tells the images from others under the same names, as of the first call; bytes are read for it.

        Parameters and errors as those of `dit_eval.images.identity.identify`.
        """
        if not self._identified:
            found = identify(self.root, self.files, self.identified_by, on_progress=on_progress)
            self._identified.update(found)
        return self._identified

    def __len__(self) -> int:
        return len(self.files)

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        return model_input(np.stack([self.image(i) for i in indices]), mirrored), self.labels[indices]

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 (H, H, 3).

        Raises
        ------
        CorruptImage
            With the path, if the file cannot be read as an image.
        """
        return read_image(self.root / self.files[index], self.image_size)

    def without_corrupt(self, on_note: Callable[[str], None], *, num_workers: int = 4) -> ImageFolder:
        """The folder without the files that cannot be read: each is opened once, and each lost one is noted."""

        def readable(index: int) -> bool:
            try:
                self.image(index)
            except CorruptImage as error:
                on_note(f"skipped: {error}")
                return False
            return True

        tasks = (partial(readable, index) for index in range(len(self)))
        kept = [i for i, good in enumerate(in_order(tasks, threads=num_workers, ahead=_AHEAD)) if good]
        if not kept:
            raise ValueError(f"{self.root}: none of the {len(self):,} images can be read.")
        return replace(self, files=tuple(self.files[i] for i in kept), labels=self.labels[kept])


class CorruptImage(ValueError):
    """A file that cannot be read as an image; the message has its path."""


def list_images(root: str | os.PathLike[str], *, image_size: int, identity: Identity = "times") -> ImageFolder:
    """Find the images of a folder; each folder in it is a class, in alphabetical order.

    Parameters
    ----------
    image_size, identity : see `ImageFolder`

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images, a class has none, or images lie beside class folders and so have no class.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; needed one with images, or with a folder for each class.")
    if image_size < 1:
        raise ValueError(f"image_size: expected at least 1; got {image_size}")
    found = _images_by_class(root)
    return ImageFolder(
        root=root,
        files=tuple(f"{name}/{file}" if name else file for name, files in found.items() for file in files),
        labels=np.repeat(np.arange(len(found), dtype=np.int64), [len(files) for files in found.values()]),
        classes=tuple(name for name in found if name),
        image_size=image_size,
        identified_by=identity,
    )


def _images_by_class(root: Path) -> dict[str, list[str]]:
    """The images of each class folder, by their paths in it; those of `root` itself are of one class without a name."""
    visible = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    loose = [path.name for path in visible if _is_image(path)]
    classes = {folder.name: _images_of_class(folder) for folder in visible if folder.is_dir()}
    if loose and classes:
        raise ValueError(f"{root / loose[0]}: an image beside class folders has no class; move it into one.")
    if not (loose or classes):
        raise ValueError(
            f"{root}: no images there. Read are {', '.join(IMAGE_SUFFIXES)}, also in a folder for each class."
        )
    return classes or {"": loose}


def _images_of_class(folder: Path) -> list[str]:
    """The images of a class, by their paths in its folder; ValueError if there are none."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_image(path))
    if not found:
        raise ValueError(f"{folder}: a class without images; remove the folder. Read are {', '.join(IMAGE_SUFFIXES)}.")
    return found


def _is_image(path: Path) -> bool:
    """Whether a name is one of an image that is read; hidden files are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: Path, image_size: int) -> np.ndarray:
    """An image file as RGB, cropped to its centre by ADM's rule of `dit_eval.images.crop`; uint8 (H, H, 3).

    Raises
    ------
    CorruptImage
        With the path, if it cannot be read as an image.
    """
    where = shown(str(path))
    try:
        data = read_file(path, where, max_size=_MAX_FILE)
        return cropped(data, where, Crop(size=image_size))
    except ValueError as error:
        raise CorruptImage(str(error)) from None


def model_input(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in -1..1, some mirrored."""
    images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1.0)
