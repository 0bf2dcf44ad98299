"""Saved Hugging Face datasets as an image set."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_eval.images.encoded import _files
from dit_eval.images.folder import read_file
from dit_eval.images.listing import MAX_FILE, Load
from dit_eval.system.files import Watch

if TYPE_CHECKING:
    from dit_eval.images.encoded import ImageFiles


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
