"""ADM's file format: sample batches and reference batches as `.npz`.

A batch holds `arr_0`, uint8 (N, H, W, 3), and optionally labels `arr_1` (N,); a reference batch may also, or only,
hold the statistics `mu`, `sigma` (pool features) and `mu_s`, `sigma_s` (spatial features). Our own sample batches say
in `sample_run` how they were drawn, as JSON text. Opening a file reads and
checks headers and statistics only. Images are read batch by batch: memory-mapped inside the zip where the member
is stored, decompressed as a stream where it is not, so that a 10 GB file never sits in RAM.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from dit_eval.files import atomic_file
from dit_eval.results import SampleRun
from dit_eval.stats import GaussianStats

RUN_KEY = "sample_run"  # the member that says how the images were drawn
_CHUNK = 1 << 22  # bytes per read when a file is hashed
_STATISTICS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One array inside the zip: where its data lies and what it is."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # of the member's bytes in the file, npy header included
    header_size: int  # of the npy header

    @property
    def stored(self) -> bool:
        return self.info.compress_type == zipfile.ZIP_STORED


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
    pool, spatial : stored statistics, or None
    run : how the images were drawn, or None where the file does not say
    read_once, warnings : see `dit_eval.images.ImageSet`
    """

    path: Path
    num_images: int
    num_stored: int
    image_size: tuple[int, int] | None
    labels: np.ndarray | None
    pool: GaussianStats | None
    spatial: GaussianStats | None
    run: SampleRun | None
    read_once: bool = False
    warnings: tuple[str, ...] = ()
    _images: _Member | None

    def batches(self, batch_size: int, *, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the images in file order as uint8 (B, H, W, 3); the last batch may be short.

        Parameters
        ----------
        first, last : begin with image `first` and end before image `last`; all images by default

        Raises
        ------
        ValueError
            If `batch_size` is below 1, or a compressed member turns out to be damaged.
        """
        if batch_size < 1:
            raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
        if self._images is None:
            return
        read = _read_stored if self._images.stored else _read_compressed
        end = self.num_images if last is None else min(last, self.num_images)
        yield from read(self.path, self._images, range(first, end, batch_size), end)

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

    def sha256(self) -> str:
        """SHA-256 of the file, after checking the stored images against the zip's own checksum on the way.

        Raises
        ------
        ValueError
            If the images are not those that were written.
        """
        digest = hashlib.sha256()
        member, crc, position = self._images, 0, 0
        with open(self.path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if member is not None and member.stored:
                    begin = max(member.start - position, 0)
                    end = min(member.start + member.info.file_size - position, len(chunk))
                    if begin < end:
                        crc = zlib.crc32(memoryview(chunk)[begin:end], crc)
                position += len(chunk)
        if member is not None and member.stored and crc != member.info.CRC:
            raise ValueError(f"{self.path}: the images do not match the file's own checksum; the file is damaged.")
        return digest.hexdigest()


def open_batch(
    path: str | os.PathLike[str], *, role: Literal["gen", "ref"], num_images: int | None = None
) -> ImageBatch:
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
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; needed an .npz {_role_name(role)} batch.")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(_not_a_zip(path)) from None
    with archive:
        members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
        statistics = {part: _read_statistics(archive, members, path, *keys) for part, keys in _STATISTICS.items()}
        has_statistics = any(statistics.values())
        if "arr_0" not in members and not (role == "ref" and has_statistics):
            found = ", ".join(sorted(i.filename.removesuffix(".npy") for i in archive.infolist())) or "none"
            needed = "arr_0 (uint8 images, N x H x W x 3)" + (" or mu, sigma" if role == "ref" else "")
            raise ValueError(
                f"{path}: no arr_0 in the file; keys found: {found}. Needed {needed}. "
                "Save images with np.savez(path, arr_0=images)."
            )
        images = _image_member(archive, members["arr_0"], path) if "arr_0" in members else None
        stored = images.shape[0] if images else 0
        used = stored if num_images is None else num_images
        if images and used < 1:
            raise ValueError(f"{path}: {used} images asked for; needed at least 1.")
        if used > stored:
            raise ValueError(
                f"{path} holds {stored:,} images, {used:,} were asked for. "
                f"Draw the missing {used - stored:,}, or pass --num-samples {stored}."
            )
        labels = _read_labels(archive, members.get("arr_1"), stored)
        run = _read_run(archive, members.get(RUN_KEY), path)
    return ImageBatch(
        path=path,
        num_images=used,
        num_stored=stored,
        image_size=(images.shape[1], images.shape[2]) if images else None,
        labels=None if labels is None else labels[:used],
        pool=statistics["pool"],
        spatial=statistics["spatial"],
        run=run,
        _images=images,
    )


def write_batch(
    path: str | os.PathLike[str],
    *,
    images: Iterable[np.ndarray] | None = None,
    shape: tuple[int, int, int, int] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write an `.npz` atomically: the file appears whole under its name or not at all.

    Parameters
    ----------
    path : target; an existing file is replaced
    images : uint8 batches (B, H, W, 3) that become `arr_0`, streamed and stored uncompressed (so that readers
        can map them)
    shape : (N, H, W, 3) of all images together, needed with `images`
    arrays : further arrays by key (`arr_1`, `mu`, ...)

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


def _role_name(role: str) -> str:
    return {"gen": "sample", "ref": "reference"}[role]


def _not_a_zip(path: Path) -> str:
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PK\x03\x04"):
        return (
            f"{path}: a truncated .npz ({path.stat().st_size:,} bytes): the zip directory at its end is missing. "
            "Copy or download the file again."
        )
    if magic == b"\x93NUMPY":
        return f"{path}: a single .npy array, not an .npz. Save it again with np.savez(path, arr_0=images)."
    return f"{path}: not a zip file (it starts with {magic!r}); needed an .npz written by np.savez."


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and size in bytes of a member's npy header, without touching its data."""
    key = info.filename.removesuffix(".npy")
    try:
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                raise ValueError(f"npy format {version} is not one of images or statistics")
            size = file.tell()
    except (ValueError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{path}: {key} cannot be read ({error}). Save the file again with np.savez.") from None
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {key} is an object array, which needs pickle and is refused (images of different sizes become "
            "one). Needed one uint8 array N x H x W x 3: bring all images to one size and save them again."
        )
    if fortran:
        raise ValueError(f"{path}: {key} is stored in Fortran order; save np.ascontiguousarray of it.")
    needed = size + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if info.file_size != needed:
        raise ValueError(
            f"{path}: {key} has {info.file_size:,} bytes where its header promises {needed:,}; the file is damaged."
        )
    return shape, dtype, size


def _image_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> _Member:
    shape, dtype, header_size = _read_header(archive, info, path)
    if len(shape) != 4:
        raise ValueError(f"{path}: arr_0 has shape {shape}; needed four axes, N x H x W x 3.")
    if dtype != np.uint8:
        raise ValueError(
            f"{path}: arr_0 is {dtype}; needed uint8 in 0..255. Quantise the images as your sampler does "
            "(DiT: round(127.5 x + 128), clipped) and save them again: ADM would read 0..1 floats as black."
        )
    if shape[3] != 3:
        hint = " The axes look like N x 3 x H x W: transpose with (0, 2, 3, 1)." if shape[1] == 3 else ""
        raise ValueError(f"{path}: arr_0 has shape {shape} with {shape[3]} channels; needed N x H x W x 3, RGB.{hint}")
    if 0 in shape:
        raise ValueError(f"{path}: arr_0 has shape {shape}: there are no images to evaluate.")
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise ValueError(f"{path}: the zip entry of arr_0 is damaged.")
        name_size, extra_size = struct.unpack("<HH", local[26:30])
    start = info.header_offset + 30 + name_size + extra_size
    if start + info.compress_size > path.stat().st_size:
        raise ValueError(f"{path}: arr_0 reaches beyond the end of the file; the file is truncated.")
    return _Member(info=info, shape=shape, dtype=dtype, start=start, header_size=header_size)


def _read_stored(path: Path, member: _Member, begins: range, end: int) -> Iterator[np.ndarray]:
    stride = int(np.prod(member.shape[1:]))
    first = member.start + member.header_size
    for begin in begins:
        size = min(begins.step, end - begin)
        # A mapping per batch, copied and dropped: one mapping of the whole file would count as resident memory
        # page by page until all of it is.
        mapped = np.memmap(path, np.uint8, "r", first + begin * stride, (size, *member.shape[1:]))
        yield np.array(mapped)


def _read_compressed(path: Path, member: _Member, begins: range, end: int) -> Iterator[np.ndarray]:
    stride = int(np.prod(member.shape[1:]))
    with zipfile.ZipFile(path) as archive, archive.open(member.info) as file:
        for begin in begins:
            shape = (min(begins.step, end - begin), *member.shape[1:])
            needed = int(np.prod(shape))
            try:
                if begin == begins.start:  # all before is decompressed and dropped
                    file.seek(member.header_size + begin * stride)
                data = file.read(needed)
            except (EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path}: arr_0 is damaged near image {begin:,} ({error}).") from None
            if len(data) != needed:
                raise ValueError(f"{path}: arr_0 ends early, near image {begin:,}; the file is truncated.")
            yield np.frombuffer(bytearray(data), np.uint8).reshape(shape)  # a bytearray is writable, as torch wants


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    _read_header(archive, info, path)
    try:
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        key = info.filename.removesuffix(".npy")
        raise ValueError(f"{path}: {key} cannot be read ({error}); the file is damaged.") from None


def _read_statistics(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path, mu_key: str, sigma_key: str
) -> GaussianStats | None:
    present = [key for key in (mu_key, sigma_key) if key in members]
    if not present:
        return None
    if len(present) == 1:
        missing = sigma_key if present == [mu_key] else mu_key
        raise ValueError(f"{path}: holds {present[0]} but no {missing}; a mean and a covariance belong together.")
    mu, sigma = (_read_array(archive, members[key], path) for key in (mu_key, sigma_key))
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
        raise ValueError(
            f"{path}: {mu_key} has shape {mu.shape} and {sigma_key} {sigma.shape}; needed (D,) and (D, D)."
        )
    for key, array in ((mu_key, mu), (sigma_key, sigma)):
        if array.dtype.kind != "f":
            raise ValueError(f"{path}: {key} is {array.dtype}; needed floating point statistics.")
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {key} holds NaN or infinite values; make the reference statistics again.")
    if not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-6 * np.abs(sigma).max()):
        raise ValueError(f"{path}: {sigma_key} is not symmetric, so it is not a covariance.")
    return GaussianStats(mu=mu, sigma=sigma)


def _read_run(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, path: Path) -> SampleRun | None:
    if info is None:
        return None
    text = _read_array(archive, info, path)
    if text.shape != () or text.dtype.kind != "U":
        raise ValueError(f"{path}: {RUN_KEY} is {text.dtype} {text.shape}; needed one JSON text.")
    try:
        return SampleRun.from_json(str(text))
    except ValueError as error:
        raise ValueError(f"{path}: {RUN_KEY}: {error}") from None


def _read_labels(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, num_stored: int) -> np.ndarray | None:
    """Labels if `arr_1` is a label per image. ADM ignores the key, so anything else there is no error."""
    if info is None:
        return None
    try:
        labels = _read_array(archive, info, Path(archive.filename or ""))
    except ValueError:
        return None
    return labels.astype(np.int64) if labels.shape == (num_stored,) and labels.dtype.kind in "iu" else None
