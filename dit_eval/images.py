"""Sets of images to score, whatever they lie in: one kind of object for all that `evaluate` and `stats` read.

    open_images("samples/", role="gen")    # a folder, .zip, .tar, .tar.gz, saved Hugging Face dataset, or .npz
    from_batches(sampler())                # uint8 batches that a program makes, read once
    from_dataset(dataset)                  # a Hugging Face dataset in memory

The same images give the same results from each of them. What is decoded is RGB of 8 bits and nothing else: a file that
would have to be converted (grey, alpha, palette, 16 bits) is an error with its name, because how to convert it is a
choice that moves the numbers, and not ours.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from PIL.Image import Image

from dit_eval.decoding import decode, is_png
from dit_eval.npz import ImageBatch, bytes_hint, open_batch
from dit_eval.results.sample_run import SampleRun
from dit_eval.sources import MAX_FILE, Load, Source, is_jpeg, list_folder, list_tar, list_zip, read_file
from dit_eval.summary import GaussianStats
from dit_eval.system.dist import cores
from dit_eval.system.files import Watch

_T = TypeVar("_T")

_MAX_PIXELS = 1 << 24  # of an image: 4096 x 4096
_DECODED = 1 << 28  # bytes of decoded images that wait for the network
_THREADS = 4
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}  # of a PNG, by its header


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


def open_images(
    path: str | os.PathLike[str], *, role: Literal["gen", "ref"], num_images: int | None = None
) -> ImageBatch | ImageFiles:
    """Open images of any kind, and check all that can be checked without reading them.

    Parameters
    ----------
    path : an `.npz` batch; a folder of images, with those in folders below it; a `.zip`, `.tar` or `.tar.gz` of them;
        or a folder that a Hugging Face dataset was saved to
    role : "gen" must hold images; "ref" may be an npz of statistics only
    num_images : use the first ones, in the order of `dit_eval.sources`; all by default

    Raises
    ------
    FileNotFoundError
        If there is nothing at this path.
    ValueError
        If it cannot be read as images, or holds fewer than asked for.
    ModuleNotFoundError
        If it is a saved dataset and the package `datasets` is not installed.
    """
    path = Path(path)
    name = path.name.lower()
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
            raise ValueError(f"{path}: a dataset of splits; pass one of them: {path / (splits or ['train'])[0]}.")
        if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
            return _saved_dataset(path, num_images)
        return _files(list_folder(path), num_images)
    if not path.is_file():
        return open_batch(path, role=role, num_images=num_images)  # says that there is no such file
    if name.endswith(".zip"):
        return _files(list_zip(path), num_images)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return _files(list_tar(path), num_images)
    if name.endswith((".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")):
        raise ValueError(f"{path}: an archive of a kind that is not read; needed .zip, .tar or .tar.gz, or the folder.")
    if name.endswith((".png", ".jpg", ".jpeg")):
        raise ValueError(f"{path}: a single image; pass the folder or archive that holds all of them.")
    return open_batch(path, role=role, num_images=num_images)


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


def from_dataset(
    dataset: Any,
    *,
    column: str | None = None,
    label_column: str | None = None,
    num_images: int | None = None,
    name: str = "dataset",
) -> ImageFiles:
    """The images of a Hugging Face dataset, in the order of its rows.

    Parameters
    ----------
    dataset : a `datasets.Dataset`
    column : of the images; by default the only one with the feature `Image`
    label_column : of integer labels; by default the only one with the feature `ClassLabel`, if there is one
    num_images : use the first ones; all by default
    name : what to call them in messages and results

    Raises
    ------
    ValueError
        If the dataset streams, or which column to read is not clear.
    ModuleNotFoundError
        If the package `datasets` is not installed.
    """
    return _dataset_images(
        dataset, path=name, column=column, label_column=label_column, num_images=num_images, links=True, watch=Watch()
    )


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
    read_once: bool = False
    _source: Source
    _digests: list[str] = field(default_factory=list, repr=False)
    _jpegs: set[int] = field(default_factory=set, repr=False)  # indices, as they are met

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self._jpegs:
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
        if batch_size < 1:
            raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
        indices = range(first, self.num_images if last is None else min(last, self.num_images))
        ahead = min(batch_size, max(_THREADS, _DECODED // (3 * self.image_size[0] * self.image_size[1])))

        def decoded(index: int, load: Load) -> np.ndarray:
            data = load()
            if is_jpeg(data):
                self._jpegs.add(index)
            return _decode(data, self._source.where(index), self.image_size)

        with self._source.reading() as loads:
            tasks = (partial(decoded, index, load) for index, load in zip(indices, loads(indices), strict=True))
            with closing(_in_turn(tasks, ahead)) as images:
                while batch := list(islice(images, batch_size)):
                    yield np.stack(batch)

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
                    for text, jpeg, size in _in_turn(tasks, 64):
                        found.append((text, jpeg))
                        read += size
                        if on_progress:
                            on_progress(read, read * self.num_images // len(found))
            self._jpegs.update(index for index, (_, jpeg) in enumerate(found) if jpeg)
            self._digests.extend(text for text, _ in found)
            self.check_unchanged()
        return hashlib.sha256("".join(f"{text}\n" for text in self._digests).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """That all that has been read is of the same files as they are now.

        Raises
        ------
        ValueError
            If one has been replaced or written to.
        """
        self._source.check_unchanged()


class ImageStream:
    """Batches that can be read once; see `ImageSet` and `from_batches`."""

    labels = labels_problem = pool = spatial = run = None
    read_once = True
    warnings: tuple[str, ...] = ()

    def __init__(self, batches: Iterable[Any], *, num_images: int | None, name: str) -> None:
        self.path = name
        self.num_images = num_images  # known from here, or once all are read
        self.image_size: tuple[int, int] | None = None
        self._digest, self._begun, self._ended = hashlib.sha256(), False, False
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
        if batch_size < 1:
            raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
        if first or (last is not None and last != self.num_images):
            raise ValueError(f"{self.path}: an iterable is read as a whole, in one process.")
        if self._begun:
            raise ValueError(
                f"{self.path}: read already; an iterable gives its images once. Make a new one, or write the images "
                "into an npz (`dit_eval.npz.write_batch`) and open that."
            )
        self._begun = True
        count, held = 0, list[np.ndarray]()
        for images in self._all():
            if self.num_images is not None:
                images = images[: self.num_images - count]
            for image in images:
                self._digest.update(f"{hashlib.sha256(image.tobytes()).hexdigest()}\n".encode())
            count += len(images)
            held.append(images)
            if sum(map(len, held)) >= batch_size:
                rows = np.concatenate(held)
                whole = len(rows) // batch_size * batch_size
                yield from (rows[k : k + batch_size] for k in range(0, whole, batch_size))
                held = [rows[whole:]]
            if count == self.num_images:
                break
        if self.num_images is not None and count < self.num_images:
            raise ValueError(f"{self.path}: ended after {count:,} images; {self.num_images:,} were asked for.")
        if held and (rest := np.concatenate(held)).size:
            yield rest
        self.num_images, self._ended = count, True

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

    def _all(self) -> Iterator[np.ndarray]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        del first
        yield from self._batches

    def _checked(self, batches: Iterator[Any]) -> Iterator[np.ndarray]:
        needed = "needed uint8 (B, H, W, 3), RGB, 0..255"
        for number, batch in enumerate(batches):
            where = f"{self.path}, batch {number}"
            if not hasattr(batch, "dtype") or not hasattr(batch, "shape"):
                hint = " Of pairs with labels, pass the images: (images for images, _ in loader)."
                raise ValueError(
                    f"{where}: found {type(batch).__name__}; {needed}, as an array or a tensor."
                    + (hint if isinstance(batch, tuple | list | dict) else "")
                )
            dtype, shape = str(batch.dtype).removeprefix("torch."), tuple(batch.shape)
            if dtype != "uint8":
                kind = "f" if "float" in dtype else dtype[0]  # of PyTorch's types, bfloat16 is none of NumPy's
                raise ValueError(
                    f"{where}: found {dtype}; {needed}. {bytes_hint(kind, tensor=hasattr(batch, 'detach'))}"
                )
            if len(shape) != 4 or shape[3] != 3:
                hint = ""
                if len(shape) == 4 and shape[1] == 3:
                    hint = " The axes look like B x 3 x H x W: use permute(0, 2, 3, 1) or transpose(0, 2, 3, 1)."
                elif len(shape) == 3:
                    hint = " It looks like one image: pass batches, such as [images]."
                raise ValueError(f"{where}: found uint8 {shape}; {needed}.{hint}")
            if self.image_size is None and len(batch):
                self.image_size = shape[1:3]
            if shape[1:3] != self.image_size and len(batch):
                raise ValueError(
                    f"{where}: images of {_pixels(shape[1:3])}, those before of {_pixels(self.image_size or ())}; "
                    "needed one size."
                )
            if len(batch):
                # A tensor of any device; torch itself is not needed here.
                yield np.asarray(batch.detach().cpu() if hasattr(batch, "detach") else batch)


def _files(source: Source, num_images: int | None, labels: np.ndarray | None = None) -> ImageFiles:
    stored = len(source.names)
    used = stored if num_images is None else num_images
    if used < 1:
        raise ValueError(f"{source.path}: {used} images asked for; needed at least 1.")
    if used > stored:
        raise ValueError(
            f"{source.path} holds {stored:,} images, {used:,} were asked for. "
            f"Draw the missing {used - stored:,}, or pass --num-samples {stored}."
        )
    with source.reading() as loads:
        first = _decode(next(loads(range(1)))(), source.where(0), None)
    if labels is None:
        labels = _folder_labels(source.names)
    return ImageFiles(
        path=source.path,
        num_images=used,
        num_stored=stored,
        image_size=(first.shape[0], first.shape[1]),
        labels=None if labels is None else labels[:used],
        _source=source,
    )


def _folder_labels(names: Sequence[str]) -> np.ndarray | None:
    """Class folders as labels, if every image lies in one of at least two; numbered as in training, by plain order."""
    folders = [name.split("/")[:-1] for name in names]
    # An archive often has a folder around all of it, which is no class.
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False)))
    if any(len(parts) == shared for parts in folders):
        return None
    classes = {name: k for k, name in enumerate(sorted({parts[shared] for parts in folders}))}
    return np.array([classes[parts[shared]] for parts in folders], np.int64)


def _decode(data: bytes, where: str, size: tuple[int, int] | None) -> np.ndarray:
    """An image file as uint8 (H, W, 3); `size` is what (H, W) must be. Its size is known before it is decoded."""
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
        return f"{_pixels(found)}; the images before it are {_pixels(size)}. Needed one size for all."
    if image.mode != "RGB" or "transparency" in image.info:
        what = "with a transparent colour" if image.mode == "RGB" else f"of mode {image.mode}"
        return f'an image {what}; needed RGB of 8 bits. Convert all images, such as by Pillow\'s convert("RGB").'
    if getattr(image, "is_animated", False):
        return "has several frames; needed one. Save the frame that is meant."
    return None


def _in_turn(tasks: Iterator[Callable[[], _T]], ahead: int) -> Generator[_T]:
    """Results of tasks that threads do, in the order of the tasks; at most `ahead` are begun and not yet taken."""
    pool = ThreadPoolExecutor(min(_THREADS, cores()))
    begun: deque[Future[_T]] = deque()
    try:
        for task in tasks:
            begun.append(pool.submit(task))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pixels(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(size))) + " px"


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of a Hugging Face dataset as a `Source`; `table` has the image column alone, not decoded."""

    path: Path | str
    names: tuple[str, ...]
    table: Any
    column: str
    links: bool  # whether a row may name a file instead of holding it
    digests: None = None
    remarks: tuple[str, ...] = ()
    _watch: Watch  # of the dataset's own files, and of those that rows name

    def where(self, index: int) -> str:
        return f"{self.path}, {self.names[index]}"

    def check_unchanged(self) -> None:
        self._watch.check()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        yield lambda indices: (partial(self._load, self.table[int(i)][self.column], i) for i in indices)

    def _load(self, cell: Any, index: int) -> bytes:
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, None)
        if data is None and path is not None and self.links:
            return read_file(Path(path), self.where(index), watch=self._watch)
        if data is None:
            raise ValueError(f"{self.where(index)}: no image in it. Save the dataset again with its images embedded.")
        if len(data) > MAX_FILE:
            raise ValueError(f"{self.where(index)}: {len(data):,} bytes; an image file may have {MAX_FILE:,}.")
        return data


def _saved_dataset(path: Path, num_images: int | None) -> ImageFiles:
    datasets = _datasets(path)
    watch = Watch(*(file for file in path.iterdir() if file.is_file()))
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be read as a dataset ({error}). Save it again by save_to_disk.") from None
    # What a saved dataset names outside itself is not its own.
    return _dataset_images(
        dataset, path=path, column=None, label_column=None, num_images=num_images, links=False, watch=watch
    )


def _dataset_images(
    dataset: Any,
    *,
    path: Path | str,
    column: str | None,
    label_column: str | None,
    num_images: int | None,
    links: bool,
    watch: Watch,
) -> ImageFiles:
    datasets = _datasets(path)
    if not isinstance(dataset, datasets.Dataset):
        hint = (
            "Pass one of its splits, such as dataset['train']."
            if isinstance(dataset, dict)
            else "Pass the batches of what streams to `from_batches`."
        )
        raise ValueError(f"{path}: found {type(dataset).__name__}; needed a datasets.Dataset. {hint}")
    if len(dataset) == 0:
        raise ValueError(f"{path}: no images there; the dataset has no rows.")
    features = dict(dataset.features)
    kinds = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if column is None and len(images) != 1:
        raise ValueError(
            f"{path}: {len(images)} columns of images; name one by from_dataset(column=...). Has: {kinds}."
        )
    column = images[0] if column is None else column
    if column not in images:
        raise ValueError(f"{path}: no column {column} with the feature Image; has: {kinds}.")
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if label_column is not None and label_column not in features:
        raise ValueError(f"{path}: no column {label_column}; has: {kinds}.")
    chosen = label_column or (classes[0] if len(classes) == 1 else None)
    labels = np.asarray(dataset.with_format(None)[chosen][:]) if chosen else None
    if labels is not None and labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {chosen} holds {labels.dtype}; needed integer labels.")
    table = dataset.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))
    names = tuple(f"row {k}" for k in range(len(dataset)))
    rows = _Rows(path=path, names=names, table=table, column=column, links=links, _watch=watch)
    return _files(rows, num_images, labels)


def _datasets(path: Path | str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: a Hugging Face dataset; needed the package datasets: pip install 'dit-eval[datasets]'."
        ) from None
