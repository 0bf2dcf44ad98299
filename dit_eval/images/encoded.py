"""PNG and JPEG files as an image set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.images.crop import cropped
from dit_eval.images.identity import sum_of_sums
from dit_eval.images.listing import Load, Source, is_jpeg, is_png
from dit_eval.images.reader import check_number, pixels
from dit_eval.results.settings import Crop
from dit_eval.system.ahead import in_order
from dit_eval.system.dist import cores

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_PIXELS = 1 << 24  # of an image: 4096 x 4096
_DECODED = 1 << 28  # bytes of decoded images that wait for the network
_THREADS, _THREADS_OF_PHOTOGRAPHS = 4, 32
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}  # of a PNG, by its header


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Images in PNG (or JPEG) files, decoded by threads while the network runs; see `ImageSet` and `open_images`.

    Attributes
    ----------
    num_stored : images there
    """

    path: Path | str
    num_images: int
    num_stored: int
    image_size: tuple[int, int]
    labels: np.ndarray | None
    labels_problem: None = None
    pool: None = None
    spatial: None = None
    run: None = None
    crop: Crop | None = None
    read_once: bool = False
    _source: Source
    _digests: list[str] = field(default_factory=list, repr=False)
    _jpegs: set[int] = field(default_factory=set, repr=False)  # indices, as they are met

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the files in their order; empty texts where they are rows of a table."""
        return self._source.names[: self.num_images]

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self._jpegs or self.crop:  # whoever crops knows that they are photographs, not samples
            return self._source.remarks
        return (
            *self._source.remarks,
            f"{self.path}: {len(self._jpegs):,} of {self.num_images:,} images are JPEG, whose compression moves FID "
            "and sFID, and which other decoders read otherwise. Save samples as PNG; compare with JPEG sets only.",
        )

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the images in order as uint8 (B, H, W, 3); the last batch may be short.

        While a batch is used, the next one is decoded; no more are held.

        Raises
        ------
        ValueError
            If `batch_size` is below 1, or at the first file that cannot be read, or is of another size or kind.
        """
        end = self.num_images if last is None else min(last, self.num_images)
        return self.picked(range(first, end), batch_size)

    def picked(self, indices: Sequence[int] | np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield some images as `batches` does all of them; `indices` ascend."""
        if batch_size < 1:
            raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
        indices = indices if isinstance(indices, range) else [int(index) for index in indices]
        threads = _threads(self.crop)
        ahead = min(batch_size, max(threads, _DECODED // (3 * self.image_size[0] * self.image_size[1])))

        def decoded(index: int, load: Load) -> np.ndarray:
            data = load()
            if is_jpeg(data):
                self._jpegs.add(index)
            return _decode(data, self._source.where(index), self.image_size, self.crop)

        with self._source.reading() as loads:
            tasks = (partial(decoded, index, load) for index, load in zip(indices, loads(indices), strict=True))
            with closing(in_order(tasks, threads=threads, ahead=ahead)) as images:
                while batch := list(islice(images, batch_size)):
                    yield np.stack(batch)

    def plain_order(self) -> np.ndarray | None:
        """The images in the plain order of their paths (`10.png` before `2.png`), int64 (num_images,).

        None where they stand so already, or have no names. Other programs list a folder like that.
        """
        if not self._source.named:
            return None
        names = self.names
        order = sorted(range(len(names)), key=names.__getitem__)
        return None if order == list(range(len(names))) else np.array(order, np.int64)

    def sha256(self, on_progress: Callable[[int, int], None] | None = None) -> str:
        """SHA-256 of the SHA-256 of each file: of the lines `sha256sum FILE | cut -c-64` in their order.

        The same files in the same order have the same checksum in a folder, a zip, a tar and a saved dataset, whatever
        their names, dates and packing.

        Parameters
        ----------
        on_progress : called with (bytes read, bytes in all, as the files so far let expect)

        Raises
        ------
        ValueError
            If a file cannot be read, or has changed since it was first read.
        """
        if not self._digests:

            def digest(load: Load) -> tuple[str, bool, int]:
                data = load()
                return hashlib.sha256(data).hexdigest(), is_jpeg(data), len(data)

            if self._source.digests is not None:
                found = list(self._source.digests[: self.num_images])
            else:
                found, read = [], 0
                with self._source.reading() as loads:
                    tasks = (partial(digest, load) for load in loads(range(self.num_images)))
                    for text, jpeg, size in in_order(tasks, threads=min(_THREADS, cores()), ahead=64):
                        found.append((text, jpeg))
                        read += size
                        if on_progress:
                            on_progress(read, read * self.num_images // len(found))
            self._jpegs.update(index for index, (_, jpeg) in enumerate(found) if jpeg)
            self._digests.extend(text for text, _ in found)
            self.check_unchanged()
        return sum_of_sums(self._digests)

    def check_unchanged(self) -> None:
        """That all that has been read is of the same files as they are now.

        Raises
        ------
        ValueError
            If one has been replaced or written to.
        """
        self._source.check_unchanged()


def image_files(
    source: Source,
    num_images: int | None,
    *,
    labels: np.ndarray | None = None,
    has_class_folders: bool = True,
    crop: Crop | None = None,
) -> ImageFiles:
    """Images in these files; labels, if none are given, by class folders, unless folders are known to be none."""
    stored = len(source.names)
    used = stored if num_images is None else num_images
    check_number(source.path, used=used, stored=stored)
    with source.reading() as loads:
        first = _decode(next(loads(range(1)))(), source.where(0), None, crop)
    if labels is None and has_class_folders and any(source.names):
        labels = _folder_labels(source.names)
    return ImageFiles(
        path=source.path,
        num_images=used,
        num_stored=stored,
        image_size=(first.shape[0], first.shape[1]),
        labels=None if labels is None else labels[:used],
        crop=crop,
        _source=source,
    )


def _folder_labels(names: Sequence[str]) -> np.ndarray | None:
    """Class folders as labels, if every image lies in one of at least two; numbered as in training, by plain order.

    Folders that only divide a numbered series are no classes.
    """
    folders = [name.split("/")[:-1] for name in names]
    # An archive often has a folder around all of it, which is no class.
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False)))
    if any(len(parts) == shared for parts in folders) or _numbered_through(names):
        return None
    classes = {name: k for k, name in enumerate(sorted({parts[shared] for parts in folders}))}
    return np.array([classes[parts[shared]] for parts in folders], np.int64)


def _numbered_through(names: Sequence[str]) -> bool:
    """Whether folders hold a thousand numbered images each, as EDM2 writes samples (001000/001234.png) and data sets
    (00001/img00001234.png): no classes."""

    def fits(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        path = f"{folder.rpartition('/')[2]}/{file.partition('.')[0]}"
        found = re.fullmatch("([0-9]{1,18})/([0-9]{1,18})", path)
        if found is not None:
            return int(found[1]) == int(found[2]) // 1000 * 1000
        found = re.fullmatch("([0-9]{5})/img([0-9]{8})", path)
        return found is not None and int(found[1]) == int(found[2]) // 1000

    return all(map(fits, names))


def _threads(crop: Crop | None) -> int:
    """Threads that decode: photographs of any size take all cores to keep a GPU busy, samples a few."""
    return min(_THREADS if crop is None else _THREADS_OF_PHOTOGRAPHS, cores())


def _decode(data: bytes, where: str, size: tuple[int, int] | None, crop: Crop | None) -> np.ndarray:
    """An image file as uint8 (H, W, 3); `size` is what (H, W) must be, unless it is cropped. Its size is known before
    it is decoded."""
    if crop is not None:
        return cropped(data, where, crop)
    from dit_eval.images.decoding import decode  # brings Pillow, which nobody needs who scores npz files

    kind = "PNG" if is_png(data) else "JPEG" if is_jpeg(data) else None
    if kind is None:
        found = f"it begins with {data[:8]!r}" if data else "it is empty"
        raise ValueError(f"{where}: neither PNG nor JPEG; {found}. Save the image again as PNG.")
    if kind == "PNG" and len(data) < 33:
        raise ValueError(f"{where}: a PNG of {len(data)} bytes; it is truncated. Make it again.")
    if kind == "PNG" and (data[24], data[25]) != (8, 2):
        colour = _COLOURS.get(data[25], "unknown colours")
        raise ValueError(
            f"{where}: a PNG of {data[24]} bits, {colour}; needed 8 bits, RGB. Convert all images as your model means "
            'them, for one without alpha by Pillow\'s convert("RGB"), and pass those.'
        )
    return np.asarray(decode(data, where, formats=(kind,), max_pixels=_MAX_PIXELS, problem=partial(_problem, size)))


def _problem(size: tuple[int, int] | None, image: Image) -> str | None:
    found = (image.height, image.width)
    if size is not None and found != size:
        needed = "Needed one size for all; `stats` and `evaluate` cut photographs by `center_crop`."
        return f"{pixels(found)}; the images before it are {pixels(size)}. {needed}"
    if image.mode != "RGB" or "transparency" in image.info:
        what = "with a transparent colour" if image.mode == "RGB" else f"of mode {image.mode}"
        return f'an image {what}; needed RGB of 8 bits. Convert all images, such as by Pillow\'s convert("RGB").'
    if getattr(image, "is_animated", False):
        return "has several frames; needed one. Save the frame that is meant."
    return None
