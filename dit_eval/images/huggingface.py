"""Saved Hugging Face datasets as an image set."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.images.encoded import ImageFiles, image_files
from dit_eval.images.folder import read_file
from dit_eval.images.listing import MAX_FILE, Load
from dit_eval.images.reader import Reader, Role
from dit_eval.system.files import Watch


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
    rows, labels = _rows(dataset, name, column=column, label_column=label_column, links=True, watch=Watch())
    return image_files(rows, num_images, labels)


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


def _rows(
    dataset: Any, path: Path | str, *, column: str | None, label_column: str | None, links: bool, watch: Watch
) -> tuple[_Rows, np.ndarray | None]:
    """The rows of a dataset, and their labels if it has some."""
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
    column = _image_column(dataset, datasets.Image, path, column)
    labels = _labels(dataset, datasets.ClassLabel, path, label_column)
    table = dataset.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))
    names = tuple(f"row {k}" for k in range(len(dataset)))
    return _Rows(path=path, names=names, table=table, column=column, links=links, _watch=watch), labels


def _image_column(dataset: Any, image: type, path: Path | str, column: str | None) -> str:
    images = [name for name, feature in dataset.features.items() if isinstance(feature, image)]
    if column is None and len(images) != 1:
        raise ValueError(
            f"{path}: {len(images)} columns of images; name one by from_dataset(column=...). Has: {_kinds(dataset)}."
        )
    column = images[0] if column is None else column
    if column not in images:
        raise ValueError(f"{path}: no column {column} with the feature Image; has: {_kinds(dataset)}.")
    return column


def _labels(dataset: Any, class_label: type, path: Path | str, column: str | None) -> np.ndarray | None:
    if column is not None and column not in dataset.features:
        raise ValueError(f"{path}: no column {column}; has: {_kinds(dataset)}.")
    classes = [name for name, feature in dataset.features.items() if isinstance(feature, class_label)]
    chosen = column or (classes[0] if len(classes) == 1 else None)
    if chosen is None:
        return None
    labels = np.asarray(dataset.with_format(None)[chosen][:])
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {chosen} holds {labels.dtype}; needed integer labels.")
    return labels


def _kinds(dataset: Any) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in dataset.features.items())


def _datasets(path: Path | str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: a Hugging Face dataset; needed the package datasets: pip install 'dit-eval[datasets]'."
        ) from None


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder, of a dataset or of its splits."""
    if not path.is_dir():
        return False
    of_splits = (path / "dataset_dict.json").is_file()
    return of_splits or ((path / "state.json").is_file() and (path / "dataset_info.json").is_file())


def _open(path: Path, *, role: Role, num_images: int | None) -> ImageFiles:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
        raise ValueError(f"{path}: a dataset of splits; pass one of them: {path / (splits or ['train'])[0]}.")
    datasets = _datasets(path)
    watch = Watch(*(file for file in path.iterdir() if file.is_file()))
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be read as a dataset ({error}). Save it again by save_to_disk.") from None
    # What a saved dataset names outside itself is not its own.
    rows, labels = _rows(dataset, path, column=None, label_column=None, links=False, watch=watch)
    return image_files(rows, num_images, labels)


HUGGING_FACE = Reader(name="saved dataset", recognises=_is_saved, open=_open)
