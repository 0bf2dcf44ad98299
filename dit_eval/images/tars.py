"""Folders of tars: ImageNet's training set as a tar for each class, or shards of WebDataset.

What is in `n01440764.tar` has the path `n01440764/...`, as if it had been unpacked beside the others.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from dit_eval.images.encoded import ImageFiles, image_files
from dit_eval.images.listing import IMAGE_SUFFIXES, LITTER, MAX_MEMBERS, in_order, left_out_remark
from dit_eval.images.reader import Reader, Role
from dit_eval.images.tar import ENDINGS, TarSource, list_tar
from dit_eval.results.settings import Crop
from dit_eval.system.text import shown

if TYPE_CHECKING:
    from dit_eval.images.listing import Load


@dataclass(frozen=True, kw_only=True)
class TarsSource:
    """Image files in the tars of a folder, tar by tar in the order of their names.

    Attributes
    ----------
    tars : in order
    begins : the index of the first image of each, and of one behind the last
    """

    path: Path
    tars: tuple[TarSource, ...]
    begins: tuple[int, ...]
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    named: bool = True
    digests: None = None

    def where(self, index: int) -> str:
        number = self._tar_of(index)
        return self.tars[number].where(index - self.begins[number])

    def check_unchanged(self) -> None:
        for tar in self.tars:
            tar.check_unchanged()

    @contextmanager
    def reading(self) -> Iterator[Callable[[Sequence[int]], Iterator[Load]]]:
        self.check_unchanged()  # or members would be looked for where they were
        yield self._loads

    def _loads(self, indices: Sequence[int]) -> Iterator[Load]:
        for number, group in groupby(indices, self._tar_of):
            yield from self.tars[number].loads([index - self.begins[number] for index in group])

    def _tar_of(self, index: int) -> int:
        return bisect_right(self.begins, index) - 1


def list_tars(path: Path) -> TarsSource:
    """Find the image files in the tars of a folder.

    Raises
    ------
    ValueError
        If a tar holds no images, is damaged or made to do harm, or two have one name but for their endings.
    """
    found = {name: _stem(name) for name in _listed(path)}
    several = [stem for stem, count in Counter(found.values()).items() if count > 1 and stem]
    if several:
        raise ValueError(f"{path}: two tars are called {shown(several[0])}; remove or rename one of them.")
    files = sorted((name for name, stem in found.items() if stem), key=lambda name: in_order(f"{found[name]}/"))
    tars, total = list[TarSource](), 0
    for name in files:
        tars.append(list_tar(path / name))
        total += len(tars[-1].names)
        if total > MAX_MEMBERS:
            raise ValueError(f"{path}: more than {MAX_MEMBERS:,} members. Pass a part of the tars at a time.")
    others = sorted(name for name, stem in found.items() if not stem)
    return TarsSource(
        path=path,
        tars=tuple(tars),
        begins=tuple(accumulate((len(tar.names) for tar in tars), initial=0)),
        names=tuple(f"{found[file]}/{name}" for file, tar in zip(files, tars, strict=True) for name in tar.names),
        remarks=tuple(_remarks(path, others, tars)),
    )


def _remarks(path: Path, others: list[str], tars: list[TarSource]) -> Iterator[str]:
    """What a user should know, said once for all tars."""
    if others:
        yield left_out_remark(path, others)
    if left_out := sum(tar.left_out for tar in tars):
        yield f"{path}: left out {left_out:,} file(s) in the tars that are no images."
    if slow := [tar for tar in tars if not tar.is_in_order]:
        yield f"{path}: {len(slow):,} of the tars are compressed, and not in order: each takes several passes."


def _listed(path: Path) -> list[str]:
    """Names in a folder, but for what is left out without a word."""
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries]
    return [name for name in names if not name.startswith(".") and name.lower() not in LITTER]


def _stem(name: str) -> str:
    """What a tar is called without its ending; empty for the name of another file."""
    return next((name[: -len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), "")


def _recognises(path: Path) -> bool:
    """A folder of tars, in which no images and no folders lie; of those, tars beside them are left out."""
    if not path.is_dir():
        return False
    try:
        names = _listed(path)
        return any(map(_stem, names)) and not any(
            Path(name).suffix.lower() in IMAGE_SUFFIXES or (path / name).is_dir() for name in names
        )
    except OSError:  # whoever reads the folder says so
        return False


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageFiles:
    source = list_tars(path)
    is_of_shards = any(tar.is_shard for tar in source.tars)
    return image_files(source, num_images, crop=crop, has_class_folders=not is_of_shards)


TARS = Reader(name="folder of tars", recognises=_recognises, open=_open)
