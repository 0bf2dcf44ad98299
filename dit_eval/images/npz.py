"""ADM's file format: sample batches and reference batches as `.npz`.

A batch holds `arr_0`, uint8 (N, H, W, 3), and optionally labels `arr_1`, integers (N,) or what stands for them without
doubt: a column, whole numbers of another type, one-hot rows. Images in further arrays are not passed over without a
word: ADM's evaluator reads `arr_0` alone, and so do we. A reference batch may also, or only,
hold the statistics `mu`, `sigma` (pool features, which MeanFlow calls `ref_mu`, `ref_sigma`) and `mu_s`, `sigma_s`
(spatial features). Our own sample batches say
in `sample_run` how they were drawn, as JSON text. Opening a file reads and
checks headers and statistics only. Images are read batch by batch: memory-mapped inside the zip where the member
is stored, decompressed as a stream where it is not, so that a 10 GB file never sits in RAM.

What a file says of itself is believed up to limits only (`npz_file.py`, `npz_contents.py`): whatever it promises,
opening it takes no more memory than statistics of the largest size do, and reading it a batch of images.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from dit_eval.images.npz_contents import (
    IMAGES,
    LABELS,
    POOL,
    RUN_KEY,
    SPATIAL,
    other_images,
    read_images,
    read_labels,
    read_made_from,
    read_run,
    read_statistics,
)
from dit_eval.images.npz_file import ImageMember
from dit_eval.images.reader import Reader, Role, check_number
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import Crop
from dit_eval.summary import GaussianStats
from dit_eval.system.files import Watch, atomic_file, check_plain
from dit_eval.system.reading import NpzFile, open_npz

__all__ = ["NPZ", "RUN_KEY", "ImageBatch", "batch_bytes", "open_batch", "write_batch"]

_KEYS = {IMAGES, LABELS, RUN_KEY, *(key for pair in (*POOL, *SPATIAL) for key in pair)}
_CHUNK = 1 << 22  # bytes per read when a file is hashed


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """A checked sample or reference batch; its images are read on demand.

    Attributes
    ----------
    path : the file
    num_images : images to use (the first ones in file order); 0 if the file holds statistics only
    num_stored : images in the file
    image_size : (H, W) in pixels, or None without images
    labels : int64 (num_images,) from `arr_1`, or None
    labels_problem : why `arr_1` gives no labels though it is there, or None
    pool, spatial : stored statistics, or None
    run : how the images were drawn, or None where the file does not say
    made_from : SHA-256 of the images that the statistics were made of, or None where the file does not say
    made_crop : what each of those was cut to ("adm-256"); None if it was taken whole, or the file does not say
    entry : name of the statistics in a file of several
    crop, read_once, warnings : see `dit_eval.images.ImageSet`
    """

    path: Path
    num_images: int
    num_stored: int
    image_size: tuple[int, int] | None
    labels: np.ndarray | None
    labels_problem: str | None
    pool: GaussianStats | None
    spatial: GaussianStats | None
    run: SampleRun | None
    made_from: str | None = None
    made_crop: str | None = None
    entry: str | None = None
    crop: None = None  # its images have one size
    read_once: bool = False
    warnings: tuple[str, ...] = ()
    _images: ImageMember | None
    _watch: Watch

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the images in file order as uint8 (B, H, W, 3); the last batch may be short.

        Parameters
        ----------
        first, last : begin with image `first` and end before image `last`; all images by default

        Raises
        ------
        ValueError
            If `batch_size` is below 1, the file has changed, or a compressed member turns out to be damaged.
        """
        if batch_size < 1:
            raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
        if self._images is None:
            return
        self.check_unchanged()  # or its images would be looked for where they were
        end = self.num_images if last is None else min(last, self.num_images)
        yield from self._images.batches(self.path, range(first, end, batch_size), end)

    def picked(self, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield some images as `batches` does all of them; rows ascend. A compressed file is read from its start.

        Raises
        ------
        ValueError
            As `batches`.
        """
        if self._images is not None and self._images.stored:
            self.check_unchanged()
            begin = self._images.start + self._images.header_size
            for first in range(0, len(rows), batch_size):
                # A mapping per batch, as in `_read_stored`.
                mapped = np.memmap(self.path, np.uint8, "r", begin, (self.num_images, *self._images.shape[1:]))
                yield np.array(mapped[rows[first : first + batch_size]])
            return
        position, held = 0, list[np.ndarray]()
        for batch in self.batches(batch_size):
            wanted = rows[np.searchsorted(rows, position) : np.searchsorted(rows, position + len(batch))] - position
            held.append(batch[wanted])
            position += len(batch)
            if sum(map(len, held)) >= batch_size:
                found = np.concatenate(held)
                yield found[:batch_size]
                held = [found[batch_size:]]
        if held and (found := np.concatenate(held)).size:
            yield found

    def array(self) -> np.ndarray:
        """All images, uint8 (N, H, W, 3), to be read in any order: mapped if the file stores them as they are.

        Raises
        ------
        ValueError
            If the file holds no images, or a compressed member turns out to be damaged.
        """
        if self._images is None:
            raise ValueError(f"{self.path}: holds statistics only, no images.")
        if self._images.stored:
            start = self._images.start + self._images.header_size
            return np.memmap(self.path, np.uint8, "r", start, (self.num_images, *self._images.shape[1:]))
        return np.concatenate(list(self.batches(1024)))

    def sha256(self, on_progress: Callable[[int, int], None] | None = None) -> str:
        """SHA-256 of the file, after checking the stored images against the zip's own checksum on the way.

        Parameters
        ----------
        on_progress : called with (bytes read, bytes in all)

        Raises
        ------
        ValueError
            If the images are not those that were written, or the file has changed since it was opened.
        """
        digest = hashlib.sha256()
        member, crc, position = self._images, 0, 0
        with open(self.path, "rb") as file:
            total = os.fstat(file.fileno()).st_size
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if member is not None and member.stored:
                    begin = max(member.start - position, 0)
                    end = min(member.start + member.info.file_size - position, len(chunk))
                    if begin < end:
                        crc = zlib.crc32(memoryview(chunk)[begin:end], crc)
                position += len(chunk)
                if on_progress:
                    on_progress(position, total)
        if member is not None and member.stored and crc != member.info.CRC:
            raise ValueError(f"{self.path}: the images do not match the file's own checksum; the file is damaged.")
        self.check_unchanged()
        return digest.hexdigest()

    def check_images(self) -> None:
        """That the images are those that were written; reads all of them.

        Raises
        ------
        ValueError
            If they do not match the zip's own checksum.
        """
        if self._images is not None:
            self._images.check(self.path)

    def check_unchanged(self) -> None:
        """That the file is still the one that was opened.

        Raises
        ------
        ValueError
            If it has been replaced or written to.
        """
        self._watch.check()


def open_batch(path: str | os.PathLike[str], *, role: Role, num_images: int | None = None) -> ImageBatch:
    """Open an ADM batch file and check all that can be checked without reading its images.

    Parameters
    ----------
    path : the `.npz` file
    role : "gen" must hold images; "ref" may hold statistics only
    num_images : use the first `num_images` images in file order; all by default

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a readable batch, or holds fewer images than asked for.
    """
    path = Path(path)
    check_plain(path, f"an .npz {_ROLES[role]} batch")
    watch = Watch(path)
    with open_npz(path, _KEYS) as file:
        made_from = read_made_from(file.archive)
        pool, spatial = (read_statistics(file, names, made_from.network) for names in (POOL, SPATIAL))
        if IMAGES not in file.members and (role == "gen" or pool is spatial is None):
            raise ValueError(_about_missing_images(file, role))
        images = read_images(file)
        stored = images.shape[0] if images else 0
        used = stored if num_images is None else num_images
        check_number(path, used=used, stored=stored)
        warnings = other_images(file)
        labels, remark = read_labels(file, stored)
        if remark:
            warnings.append(f"{path}: {remark}{', so that its images have no labels' if labels is None else ''}.")
        run = read_run(file)
    return ImageBatch(
        path=path,
        num_images=used,
        num_stored=stored,
        image_size=(images.shape[1], images.shape[2]) if images else None,
        labels=None if labels is None else labels[:used],
        labels_problem=remark if labels is None else None,
        pool=pool,
        spatial=spatial,
        run=run,
        made_from=made_from.images_sha256,
        made_crop=made_from.crop,
        warnings=tuple(warnings),
        _images=images,
        _watch=watch,
    )


_ROLES: dict[Role, str] = {"gen": "sample", "ref": "reference"}


def _about_missing_images(file: NpzFile, role: Role) -> str:
    names = file.keys()
    found = ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])]) or "none"
    needed = "arr_0 (uint8 images, N x H x W x 3)" + (" or mu, sigma" if role == "ref" else "")
    return (
        f"{file.path}: no arr_0 in the file; keys found: {found}. Needed {needed}. "
        "Save images with np.savez(path, arr_0=images)."
    )


def _open(path: Path, *, role: Role, num_images: int | None, crop: Crop | None) -> ImageBatch:
    name = path.name.lower()
    if path.is_file() and name.endswith((".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")):
        raise ValueError(f"{path}: an archive of a kind that is not read; needed .zip, .tar or .tar.gz, or the folder.")
    if path.is_file() and name.endswith((".png", ".jpg", ".jpeg")):
        raise ValueError(f"{path}: a single image; pass the folder or archive that holds all of them.")
    return open_batch(path, role=role, num_images=num_images)


# Whatever its name: a file that is none says so best.
NPZ = Reader(name="npz", recognises=lambda path: True, open=_open)


def write_batch(
    path: str | os.PathLike[str],
    *,
    images: Iterable[np.ndarray] | None = None,
    shape: tuple[int, int, int, int] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    comment: str = "",
) -> None:
    """Write an `.npz` atomically: the file appears whole under its name or not at all.

    Parameters
    ----------
    path : target; an existing file is replaced
    images : uint8 batches (B, H, W, 3) that become `arr_0`, streamed and stored uncompressed (so that readers
        can map them)
    shape : (N, H, W, 3) of all images together, needed with `images`
    arrays : further arrays by key (`arr_1`, `mu`, ...)
    comment : of the zip, which leaves the keys as they are

    Raises
    ------
    ValueError
        If the batches do not add up to `shape`, or an array would need pickle.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        if images is not None:
            if shape is None:
                raise ValueError("Images were given without the shape of all of them together.")
            with archive.open("arr_0.npy", "w", force_zip64=True) as out:
                _write_images(out, images, shape)
        _write_arrays(archive, arrays or {})
        archive.comment = comment.encode()


def batch_bytes(*, shape: tuple[int, int, int, int], arrays: Mapping[str, np.ndarray]) -> int:
    """Size of the file that `write_batch` makes of images of this shape; beyond 4 GiB some bytes less than it is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as out:
            _write_header(out, shape)
        _write_arrays(archive, arrays)
    return len(buffer.getvalue()) + math.prod(shape)


def _write_header(out: IO[bytes], shape: tuple[int, int, int, int]) -> None:
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _write_arrays(archive: zipfile.ZipFile, arrays: Mapping[str, np.ndarray]) -> None:
    for key, array in arrays.items():
        with archive.open(f"{key}.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, np.asarray(array), allow_pickle=False)


def _write_images(out: IO[bytes], images: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    _write_header(out, shape)
    written = 0
    for batch in images:
        if batch.dtype != np.uint8 or batch.shape[1:] != shape[1:]:
            raise ValueError(f"Found a batch of {batch.dtype} {batch.shape}; needed uint8 (B, {shape[1:]}).")
        out.write(np.ascontiguousarray(batch).data)
        written += len(batch)
    if written != shape[0]:
        raise ValueError(f"Found {written:,} images in all; needed {shape[0]:,}.")
