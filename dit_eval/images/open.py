"""What a path or an object holds: `open_images`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from dit_eval.images.encoded import _files
from dit_eval.images.folder import list_folder
from dit_eval.images.huggingface import _saved_dataset
from dit_eval.images.npz import ImageBatch, open_batch
from dit_eval.images.tar import list_tar
from dit_eval.images.zip import list_zip
from dit_eval.results.sample_run import SampleRun
from dit_eval.summary import GaussianStats

if TYPE_CHECKING:
    from dit_eval.images.encoded import ImageFiles


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
    num_images : use the first ones, in the order of `dit_eval.images.listing`; all by default

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
