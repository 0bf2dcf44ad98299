"""Saved Hugging Face datasets as an image set."""

from __future__ import annotations

import importlib
import os
import re
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
from dit_eval.results.settings import Crop
from dit_eval.system.files import Watch
from dit_eval.system.reading import read_json
from dit_eval.system.text import reason, shown

_DESCRIPTIONS = ("state.json", "dataset_info.json")
_MAX_DESCRIPTION = 1 << 22  # bytes of one of them
_DICTIONARY, _ROWS = 2, 3  # kinds of messages in an Arrow file, by Message.fbs


def from_dataset(
    dataset: Any,
    *,
    column: str | None = None,
    label_column: str | None = None,
    num_images: int | None = None,
    name: str = "dataset",
    crop: Crop | None = None,
) -> ImageFiles:
    """The images of a Hugging Face dataset, in the order of its rows.

    Parameters
    ----------
    dataset : a `datasets.Dataset`
    column : of the images; by default the only one with the feature `Image`
    label_column : of integer labels; by default the only one with the feature `ClassLabel`, if there is one
    num_images : use the first ones; all by default
    name : what to call them in messages and results
    crop : see `dit_eval.images.open_images`

    Raises
    ------
    ValueError
        If the dataset streams, or which column to read is not clear.
    ModuleNotFoundError
        If the package `datasets` is not installed.
    """
    rows, labels = _rows(dataset, name, column=column, label_column=label_column, links=True, watch=Watch())
    return image_files(rows, num_images, labels=labels, crop=crop)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of a Hugging Face dataset as a `Source`; `table` has the image column alone, not decoded."""

    path: Path | str
    names: tuple[str, ...]
    table: Any
    column: str
    links: bool  # whether a row may name a file instead of holding it
    named: bool = False
    digests: None = None
    remarks: tuple[str, ...] = ()
    _watch: Watch  # of the dataset's own files, and of those that rows name

    def where(self, index: int) -> str:
        return f"{self.path}, {self.names[index]}"

    def check_unchanged(self) -> None:
        self._watch.check()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        yield lambda indices: (partial(self._load, self._cell(int(i)), i) for i in indices)

    def _cell(self, index: int) -> Any:
        try:
            return self.table[index][self.column]
        except Exception as error:  # as in `_open`
            raise ValueError(f"{self.where(index)}: cannot be read ({reason(error)}).") from None

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
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"{path}: {chosen} holds {labels.dtype}; needed integer labels.")
    if labels.dtype == np.uint64 and labels.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(
            f"{path}: {chosen} holds {labels.max()}; needed labels of at most 63 bits. Number them from 0."
        )
    return labels.astype(np.int64)


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


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageFiles:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
        raise ValueError(f"{path}: a dataset of splits; pass one of them: {path / (splits or ['train'])[0]}.")
    datasets = _datasets(path)
    _check_files(path)
    watch = Watch(*(file for file in path.iterdir() if file.is_file()))
    try:
        _check_unpacked(path)
        dataset = datasets.load_from_disk(str(path))
        dataset.data.validate(full=True)  # Arrow believes a file that one value begins at any place
        # What a saved dataset names outside itself is not its own.
        rows, labels = _rows(dataset, path, column=None, label_column=None, links=False, watch=watch)
    except Exception as error:  # of every kind, at damage that the package does not expect; Arrow has kinds of its own
        said = str(error) if isinstance(error, ValueError) else ""
        if said.startswith(f"{path}: "):
            raise
        raise _broken(path, reason(error)) from None
    return image_files(rows, num_images, labels=labels, crop=crop)


def _check_files(path: Path) -> None:
    """That a saved dataset is of files that lie in its folder: the library opens what is named, wherever it is."""
    state, _ = (_described(path, name) for name in _DESCRIPTIONS)
    files = state.get("_data_files")
    for file in files if isinstance(files, list) else [files]:
        name = file.get("filename") if isinstance(file, dict) else None
        if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0:]", name):
            raise _broken(path, f"state.json names {shown(repr(name)[:80])}; expected a file of the folder itself")
        if not os.path.isfile(path / name):  # a pipe would be waited for; `Path` has errors for names that are too long
            kind = "no plain file" if os.path.exists(path / name) else "missing"
            raise _broken(path, f"{shown(name[:80])} is {kind}")


def _described(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(path / name, "what save_to_disk writes", max_size=_MAX_DESCRIPTION)
    except (FileNotFoundError, ValueError) as error:
        said = reason(error).removeprefix(f"{path / name}: ").rstrip(".")
        raise _broken(path, f"{name}: {said}") from None


def _check_unpacked(path: Path) -> None:
    """That no file holds packed data, which `save_to_disk` does not write, and which may become of any size."""
    ipc = importlib.import_module("pyarrow.ipc")
    arrow = importlib.import_module("pyarrow")
    for file in _described(path, _DESCRIPTIONS[0])["_data_files"]:
        with arrow.memory_map(str(path / file["filename"])) as source:
            for message in ipc.MessageReader.open_stream(source):
                if _is_packed(bytes(message.metadata)):
                    raise ValueError(f"{file['filename']} is packed, which save_to_disk never does")


def _is_packed(message: bytes) -> bool:
    """Whether a message of Arrow, a flat buffer, is a batch of rows (or of a dictionary) with a compression."""
    table = _number(message, 0, 4)
    kind, header = _field(message, table, 1), _field(message, table, 2)
    if header is None or kind is None or message[kind] not in (_DICTIONARY, _ROWS):
        return False
    batch = header + _number(message, header, 4)
    if message[kind] == _DICTIONARY:
        if (data := _field(message, batch, 1)) is None:
            return False
        batch = data + _number(message, data, 4)
    return _field(message, batch, 3) is not None


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where a table of a flat buffer has the field of a number; None if it has none."""
    offsets = table - int.from_bytes(message[table : table + 4], "little", signed=True)
    at = 4 + 2 * number
    offset = _number(message, offsets + at, 2) if at < _number(message, offsets, 2) else 0
    return table + offset if offset else None


def _number(message: bytes, at: int, size: int) -> int:
    return int.from_bytes(message[at : at + size], "little")


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(f"{path}: cannot be read as a dataset ({why}). Save it again by save_to_disk.")


HUGGING_FACE = Reader(name="saved dataset", recognises=_is_saved, open=_open)
