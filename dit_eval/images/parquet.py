"""Parquet files of Hugging Face, such as those of ImageNet, as an image set.

A row has a column of images (a struct with `bytes`) and perhaps an integer column `label`. Rows are read a few at a
time, in the order of the files' names.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.images.encoded import ImageFiles, image_files
from dit_eval.images.listing import MAX_FILE, Load
from dit_eval.images.reader import Reader, Role
from dit_eval.results.settings import MOST_IMAGES, Crop
from dit_eval.system.files import Watch, check_plain
from dit_eval.system.text import reason, shown

_ENDING = ".parquet"
_MAX_FOOTER = 1 << 26  # bytes; of a file of ImageNet it has some thousand
_MAX_COLUMN = 1 << 31  # bytes of the images of a row group, unpacked, as the footer says
_ROWS = 16  # read at once
_LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Rows of parquet files as a `Source`.

    Attributes
    ----------
    files : in order
    begins : the index of the first row of each file, and of one behind the last
    column : of the images
    """

    path: Path
    files: tuple[Path, ...]
    begins: tuple[int, ...]
    column: str
    names: tuple[str, ...]
    named: bool = False
    digests: None = None
    remarks: tuple[str, ...] = ()
    _watch: Watch

    def where(self, index: int) -> str:
        file = int(np.searchsorted(self.begins, index, "right")) - 1
        return f"{self.files[file]}, row {index - self.begins[file]}"

    def check_unchanged(self) -> None:
        self._watch.check()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        self.check_unchanged()
        yield self._loads

    def _loads(self, indices: Sequence[int]) -> Iterator[Load]:
        rows, at = iter(tuple[Any, ...]()), -1
        for index in indices:
            if index != at:
                rows, at = self._rows(index), index
            cell = next(rows, None)
            at += 1
            yield partial(self._data, cell, index)

    def _rows(self, first: int) -> Iterator[bytes | None]:
        """The image files from one row to the last."""
        for path, begin, end in zip(self.files, self.begins, self.begins[1:], strict=False):
            if first >= end:
                continue
            with _opened(path) as file:
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    if first < begin + count:
                        yield from _group(path, file, group, self.column, skip=max(0, first - begin))
                    begin += count

    def _data(self, cell: bytes | None, index: int) -> bytes:
        if cell is None:
            raise ValueError(f"{self.where(index)}: no image in it.")
        if len(cell) > MAX_FILE:
            raise ValueError(f"{self.where(index)}: {len(cell):,} bytes; an image file may have {MAX_FILE:,}.")
        return cell


def _group(path: Path, file: Any, group: int, column: str, *, skip: int) -> Iterator[bytes | None]:
    """The image files of a row group, but for the first ones."""
    batches = file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[f"{column}.bytes"], use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            cells = [] if batch is None else batch.column(0).to_pylist()
        except Exception as error:  # Arrow has kinds of its own
            raise _broken(path, reason(error)) from None
        if batch is None:
            return
        for cell in cells[skip:]:
            yield cell["bytes"] if isinstance(cell, dict) else None
        skip = max(0, skip - len(cells))


def list_parquet(path: Path) -> tuple[_Tables, np.ndarray | None]:
    """The rows of a parquet file, or of those of a folder, and their labels if each has one.

    Raises
    ------
    ValueError
        If a file is damaged or has no images, or the files are of several splits.
    ModuleNotFoundError
        If the package pyarrow is not installed.
    """
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if _is_parquet(each.name))
    splits = sorted({found[1] for each in files if (found := re.fullmatch(r"(.+)-\d+-of-\d+\.parquet", each.name))})
    if len(splits) > 1:
        raise ValueError(
            f"{path}: files of several splits: {', '.join(map(shown, splits[:5]))}. Pass a folder with links to those "
            "of one of them."
        )
    watch = Watch(*files)
    columns, counts, labels = [], [], []
    for each in files:
        with _opened(each) as file:
            columns.append(_image_column(each, file))
            counts.append(file.metadata.num_rows)
            if sum(counts) > MOST_IMAGES:
                raise ValueError(f"{path}: more than {MOST_IMAGES:,} rows. Pass a part of the files at a time.")
            labels.append(_labels(each, file))
    if len(set(columns)) > 1:
        raise ValueError(f"{path}: the images are in columns of several names: {', '.join(sorted(set(columns)))}.")
    begins = tuple(accumulate(counts, initial=0))
    if not begins[-1]:
        raise ValueError(f"{path}: no images there; the files have no rows.")
    tables = _Tables(
        path=path,
        files=tuple(files),
        begins=begins,
        column=columns[0],
        names=("",) * begins[-1],  # rows have none
        _watch=watch,
    )
    every = (
        None if any(each is None for each in labels) else np.concatenate([each for each in labels if each is not None])
    )
    return tables, every if every is not None and every.min() >= 0 else None  # a test split has -1 for "not known"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A parquet file whose footer is of a size that can be."""
    parquet = _parquet(path)
    check_plain(path, "a parquet file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        tail = file.read(8)
        footer = int.from_bytes(tail[:4], "little")
        if size < 12 or tail[4:] != b"PAR1" or footer > size - 12:
            raise _broken(path, "it does not end as one")
        if footer > _MAX_FOOTER:
            raise ValueError(f"{path}: a footer of {footer:,} bytes; at most {_MAX_FOOTER:,}.")
    try:
        opened = parquet.ParquetFile(path, pre_buffer=False)
    except Exception as error:  # as in `_group`
        raise _broken(path, reason(error)) from None
    with opened:
        yield opened


def _image_column(path: Path, file: Any) -> str:
    """The name of the column of images, of which no row group is too large."""
    schema = file.schema_arrow
    found = [
        field.name
        for field in schema
        if str(field.type).startswith("struct<") and {"bytes"} <= {child.name for child in field.type.fields}
    ]
    if len(found) != 1:
        held = ", ".join(shown(name)[:40] for name in schema.names[:8])
        raise ValueError(f"{path}: {len(found)} columns of images; needed one, with bytes. Has: {held}.")
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        chunks = (about.column(k) for k in range(about.num_columns))
        size = sum(each.total_uncompressed_size for each in chunks if each.path_in_schema.startswith(f"{found[0]}."))
        if not 0 <= size <= _MAX_COLUMN:
            raise ValueError(f"{path}: row group {group} has {size:,} bytes of images; at most {_MAX_COLUMN:,}.")
    return str(found[0])


def _labels(path: Path, file: Any) -> np.ndarray | None:
    schema = file.schema_arrow
    if _LABEL not in schema.names or not re.fullmatch(r"u?int(8|16|32)|int64", str(schema.field(_LABEL).type)):
        return None
    try:
        column = file.read(columns=[_LABEL], use_threads=False).column(0)
        found = None if column.null_count else np.asarray(column.to_numpy(), np.int64)
    except Exception as error:  # as in `_group`
        raise _broken(path, reason(error)) from None
    if found is not None and len(found) != file.metadata.num_rows:
        raise _broken(path, f"{len(found):,} labels of {file.metadata.num_rows:,} rows")
    return found


def _parquet(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: a parquet file; needed the package pyarrow: pip install 'dit-eval[datasets]'."
        ) from None


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(f"{path}: cannot be read as a parquet file ({why}); it is damaged. Copy or download it again.")


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(_ENDING) and not name.startswith(".")


def _recognises(path: Path) -> bool:
    if path.is_dir():
        try:
            with os.scandir(path) as entries:
                return any(_is_parquet(entry.name) for entry in entries)
        except OSError:  # whoever reads the folder says so
            return False
    return path.is_file() and _is_parquet(path.name)


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageFiles:
    tables, labels = list_parquet(path)
    return image_files(tables, num_images, labels=labels, crop=crop)


PARQUET = Reader(name="parquet", recognises=_recognises, open=_open)
