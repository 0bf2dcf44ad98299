"""Images to score, of any origin: `READERS`, one file a format, and `open_images`, which tries them in order.

    images = open_images("samples.zip", role="gen")
    for batch in images.batches(64):  # uint8 (B, H, W, 3)
        ...

Images in memory: `from_batches` for what a program makes, `from_dataset` for a Hugging Face dataset.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dit_eval.images.folder import FOLDER
from dit_eval.images.huggingface import HUGGING_FACE, from_dataset
from dit_eval.images.npz import NPZ
from dit_eval.images.parquet import PARQUET
from dit_eval.images.reader import ImageSet, Reader, Role
from dit_eval.images.statistics import is_statistics, open_statistics
from dit_eval.images.stream import from_batches
from dit_eval.images.tar import TAR
from dit_eval.images.tars import TARS
from dit_eval.images.zip import ZIP
from dit_eval.results.settings import Crop

if TYPE_CHECKING:
    from dit_eval.images.encoded import ImageFiles
    from dit_eval.images.npz import ImageBatch

__all__ = ["READERS", "Crop", "ImageSet", "Reader", "from_batches", "from_dataset", "open_images"]

# In order of trial: the first that recognises a path opens it. A saved dataset is a folder too, and npz takes the rest.
READERS: tuple[Reader, ...] = (HUGGING_FACE, PARQUET, TARS, FOLDER, ZIP, TAR, NPZ)


def open_images(
    path: str | os.PathLike[str],
    *,
    role: Role,
    num_images: int | None = None,
    network: str = "inception",
    crop: Crop | None = None,
) -> ImageBatch | ImageFiles:
    """Open images of any kind, and check all that can be checked without reading them.

    Parameters
    ----------
    path : an `.npz` batch; a folder of images, with those in folders below it; a `.zip`, `.tar` or `.tar.gz` of them;
        a folder of tars; or a folder that a Hugging Face dataset was saved to; as reference also a pickle of statistics
    role : "gen" must hold images; "ref" may be statistics only
    num_images : use the first ones, in the order of `dit_eval.images.listing`; all by default
    network : whose statistics are meant where a file holds those of several
    crop : cut each image file to a square as it is read, so that files may be of any size and mode; an npz, whose
        images have one size, is taken as it is

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
    if is_statistics(path):
        return open_statistics(path, role=role, network=network)
    reader = next(reader for reader in READERS if reader.recognises(path))
    return cast("ImageBatch | ImageFiles", reader.open(path, role=role, num_images=num_images, crop=crop))
