"""ADM's file format: sample batches and reference batches as `.npz`.

A batch holds `arr_0`, uint8 (N, H, W, 3), and optionally labels `arr_1`, integers (N,) or what stands for them without
doubt: a column, whole numbers of another type, one-hot rows. Images in further arrays are not passed over without a
word: ADM's evaluator reads `arr_0` alone, and so do we. A reference batch may also, or only,
hold the statistics `mu`, `sigma` (pool features) and `mu_s`, `sigma_s` (spatial features). Our own sample batches say
in `sample_run` how they were drawn, as JSON text. Opening a file reads and
checks headers and statistics only. Images are read batch by batch: memory-mapped inside the zip where the member
is stored, decompressed as a stream where it is not, so that a 10 GB file never sits in RAM.

What a file says of itself is believed up to the limits below only, and never more than its bytes can hold: whatever
it promises, opening it takes no more memory than statistics of the largest size do, and reading it a batch of images.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from warnings import catch_warnings, simplefilter

import numpy as np

from dit_eval.results.parse import parse_json
from dit_eval.results.sample_run import SampleRun
from dit_eval.summary import GaussianStats
from dit_eval.system.files import BROKEN_ARCHIVE, Watch, atomic_file, check_plain, check_whole_zip, open_zip
from dit_eval.system.text import shown

RUN_KEY = "sample_run"  # the member that says how the images were drawn
_CHUNK = 1 << 22  # bytes per read when a file is hashed
_MAX_DIRECTORY = 1 << 20  # bytes of the zip's directory: thousands of members
_MAX_HEADER = 1 << 14  # bytes of an npy header; NumPy itself reads 10,000 characters
_MAX_PIXELS = 1 << 24  # of an image: 4096 x 4096
_MAX_FEATURES = 4096  # D of stored statistics; sigma then takes 128 MiB
_MAX_TEXT = 1 << 22  # bytes of the text that says how the images were drawn
_MAX_LABELS = 1 << 24
_MAX_CLASSES = 1 << 16  # of one-hot labels
_MAX_RATIO = 1032  # that deflate can reach
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
    labels_problem : why `arr_1` gives no labels though it is there, or None
    pool, spatial : stored statistics, or None
    run : how the images were drawn, or None where the file does not say
    made_from : SHA-256 of the images that the statistics were made of, or None where the file does not say
    read_once, warnings : see `dit_eval.images.ImageSet`
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
    read_once: bool = False
    warnings: tuple[str, ...] = ()
    _images: _Member | None
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

    def check_unchanged(self) -> None:
        """That the file is still the one that was opened.

        Raises
        ------
        ValueError
            If it has been replaced or written to.
        """
        self._watch.check()


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
    check_plain(path, f"an .npz {_role_name(role)} batch")
    watch = Watch(path)
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(open_zip(path, max_directory=_MAX_DIRECTORY))
        except BROKEN_ARCHIVE as error:
            raise ValueError(_not_a_zip(path, error)) from None
        check_whole_zip(path, archive)
        members = _members(archive, path)
        statistics = {part: _read_statistics(archive, members, path, *keys) for part, keys in _STATISTICS.items()}
        has_statistics = any(statistics.values())
        if "arr_0" not in members and not (role == "ref" and has_statistics):
            names = sorted(shown(i.filename.removesuffix(".npy"))[:40] for i in archive.infolist())
            found = ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])]) or "none"
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
        warnings = _other_images(archive, path) if images else []
        labels, labels_problem = None, None
        if images and "arr_1" in members:
            labels, remark = _read_labels(archive, members["arr_1"], path, stored)
            labels_problem = remark if labels is None else None
            if remark:
                warnings.append(f"{path}: {remark}{', so that its images have no labels' if labels is None else ''}.")
        run = _read_run(archive, members.get(RUN_KEY), path)
        made_from = _read_made_from(archive.comment)
    return ImageBatch(
        path=path,
        num_images=used,
        num_stored=stored,
        image_size=(images.shape[1], images.shape[2]) if images else None,
        labels=None if labels is None else labels[:used],
        labels_problem=labels_problem,
        pool=statistics["pool"],
        spatial=statistics["spatial"],
        run=run,
        made_from=made_from,
        warnings=tuple(warnings),
        _images=images,
        _watch=watch,
    )


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


def _role_name(role: str) -> str:
    return {"gen": "sample", "ref": "reference"}[role]


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays that mean something here, by key; what others put beside them is left alone."""
    known = {"arr_0", "arr_1", RUN_KEY, *(key for pair in _STATISTICS.values() for key in pair)}
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if not info.filename.endswith(".npy") or key not in known:
            continue
        if key in members:
            raise ValueError(f"{path}: holds {key} twice; readers would not agree on which counts. Save it again.")
        members[key] = info
    return members


def _not_a_zip(path: Path, error: BaseException) -> str:
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"PK\x03\x04") and not isinstance(error, zipfile.BadZipFile):
        return f"{path}: a damaged .npz ({str(error) or type(error).__name__}). Copy or download the file again."
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
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{path}: {key} is packed by method {info.compress_type}; needed np.savez or np.savez_compressed."
        )
    try:
        with archive.open(info) as file:
            prefix = file.read(12)  # magic, version, and the length of the text in 2 bytes or, from version 2 on, 4
            end = int.from_bytes(prefix[8:10], "little") + 10
            if prefix[6:7] != b"\1":
                end = int.from_bytes(prefix[8:12], "little") + 12
            head = io.BytesIO(prefix + file.read(min(max(end - 12, 0), _MAX_HEADER)))
    except BROKEN_ARCHIVE as error:
        raise ValueError(_unreadable(path, key, error)) from None
    try:
        # NumPy hands the text to Python's parser, which has errors and warnings of every kind for what is no header.
        with catch_warnings():
            simplefilter("ignore")
            version = np.lib.format.read_magic(head)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
            else:
                raise ValueError(f"npy format {version} is not one of images or statistics")
    except Exception as error:
        raise ValueError(_unreadable(path, key, error)) from None
    size = head.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {key} is an object array, which needs pickle and is refused"
            + (
                " (images of different sizes become one). Needed one uint8 array N x H x W x 3: bring all images to "
                "one size and save them again."
                if key == "arr_0"
                else "; save it as an array of numbers."
            )
        )
    if fortran:
        raise ValueError(f"{path}: {key} is stored in Fortran order; save np.ascontiguousarray of it.")
    if any(not 0 <= length < 1 << 40 for length in shape):
        raise ValueError(f"{path}: {key} has a shape that no array has; the file is damaged, or made to do harm.")
    needed = size + dtype.itemsize * math.prod(shape)  # NumPy's product would wrap around
    if info.file_size != needed:
        raise ValueError(
            f"{path}: {key} has {info.file_size:,} bytes where its header promises {needed:,}; the file is damaged."
        )
    stored = info.compress_type == zipfile.ZIP_STORED
    most = info.compress_size if stored else _MAX_RATIO * info.compress_size
    if not needed <= most or info.compress_size > path.stat().st_size:
        raise ValueError(
            f"{path}: {key} promises {needed:,} bytes, of which {info.compress_size:,} are said to be in the file of "
            f"{path.stat().st_size:,}; it is truncated, or made to do harm. Copy or download it again."
        )
    return shape, dtype, size


def _unreadable(path: Path, key: str, error: BaseException) -> str:
    reason = shown(str(error).partition("\n")[0][:200]) or type(error).__name__
    return f"{path}: {key} cannot be read ({reason}). Save the file again with np.savez."


def _image_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> _Member:
    shape, dtype, header_size = _read_header(archive, info, path)
    if len(shape) != 4:
        hint = " Of single images, save np.stack(images)." if shape[2:] in ((3,), (4,), (1,)) else ""
        raise ValueError(f"{path}: arr_0 has shape {shape}; needed four axes, N x H x W x 3.{hint}")
    if dtype != np.uint8:
        raise ValueError(f"{path}: arr_0 is {dtype}; needed uint8 in 0..255. {bytes_hint(dtype.kind)}")
    if shape[3] != 3:
        hint = " The axes look like N x 3 x H x W: transpose with (0, 2, 3, 1)." if shape[1] == 3 else ""
        raise ValueError(f"{path}: arr_0 has shape {shape} with {shape[3]} channels; needed N x H x W x 3, RGB.{hint}")
    if 0 in shape:
        raise ValueError(f"{path}: arr_0 has shape {shape}: there are no images to evaluate.")
    if shape[1] * shape[2] > _MAX_PIXELS:
        raise ValueError(f"{path}: arr_0 has shape {shape}; an image may have {_MAX_PIXELS:,} pixels.")
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
            except BROKEN_ARCHIVE as error:
                raise ValueError(f"{path}: arr_0 is damaged near image {begin:,} ({error}).") from None
            if len(data) != needed:
                raise ValueError(f"{path}: arr_0 ends early, near image {begin:,}; the file is truncated.")
            yield np.frombuffer(bytearray(data), np.uint8).reshape(shape)  # a bytearray is writable, as torch wants


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """The data of a member whose header has been read and found good."""
    try:
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except BROKEN_ARCHIVE as error:
        raise ValueError(_unreadable(path, info.filename.removesuffix(".npy"), error)) from None


def _read_statistics(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path, mu_key: str, sigma_key: str
) -> GaussianStats | None:
    present = [key for key in (mu_key, sigma_key) if key in members]
    if not present:
        return None
    if len(present) == 1:
        missing = sigma_key if present == [mu_key] else mu_key
        raise ValueError(f"{path}: holds {present[0]} but no {missing}; a mean and a covariance belong together.")
    (mu_shape, mu_dtype, _), (sigma_shape, sigma_dtype, _) = (
        _read_header(archive, members[key], path) for key in (mu_key, sigma_key)
    )
    if len(mu_shape) != 1 or sigma_shape != (*mu_shape, *mu_shape) or not 0 < mu_shape[0] <= _MAX_FEATURES:
        raise ValueError(
            f"{path}: {mu_key} has shape {mu_shape} and {sigma_key} {sigma_shape}; needed (D,) and (D, D), with D "
            f"from 1 to {_MAX_FEATURES:,}."
        )
    for key, dtype in ((mu_key, mu_dtype), (sigma_key, sigma_dtype)):
        if dtype.kind != "f":
            raise ValueError(f"{path}: {key} is {dtype}; needed floating point statistics.")
    mu, sigma = (_read_array(archive, members[key], path) for key in (mu_key, sigma_key))
    try:
        return GaussianStats(mu=mu, sigma=sigma, names=(mu_key, sigma_key))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_run(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, path: Path) -> SampleRun | None:
    if info is None:
        return None
    shape, dtype, _ = _read_header(archive, info, path)
    if shape != () or dtype.kind != "U" or dtype.itemsize > _MAX_TEXT:
        raise ValueError(
            f"{path}: {RUN_KEY} is {dtype} {shape}; needed one JSON text of at most {_MAX_TEXT // 4:,} characters."
        )
    text = _read_array(archive, info, path)
    # NumPy makes strings of numbers that are no characters, and Python fails at them later.
    letters = np.frombuffer(text.astype(dtype.newbyteorder("=")).tobytes(), np.uint32)
    if letters.max(initial=0) > sys.maxunicode:
        raise ValueError(f"{path}: {RUN_KEY}: holds numbers that are no characters.")
    try:
        return SampleRun.from_json(str(text))
    except ValueError as error:
        raise ValueError(f"{path}: {RUN_KEY}: {error}") from None


def _read_made_from(comment: bytes) -> str | None:
    """What `dit_eval.reference.make_reference` notes in the zip's comment; another program's comment is no error."""
    try:
        made_from = parse_json(comment.decode())["made_from"]["images_sha256"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return made_from if isinstance(made_from, str) else None


def bytes_hint(kind: str, *, tensor: bool = False) -> str:
    """How images of another type become uint8, for messages.

    Parameters
    ----------
    kind : of their type, as `numpy.dtype.kind` has it: "f", "i", "u", "b", ...
    tensor : whether they are a PyTorch tensor, not a NumPy array
    """
    cast = ".to(torch.uint8)" if tensor else ".astype(np.uint8)"
    if kind == "b":
        return f"Make black and white of them: 255 * x{cast}."
    if kind in "iu":
        return f"If they are in 0..255, pass x{cast}; if in 0..65535, (x // 257){cast}."
    return (
        f"Quantise them as your sampler does. DiT, of x in -1..1: (127.5 * x + 128).clip(0, 255){cast}; the same, of x "
        f"in 0..1: (255 * x + 0.5).clip(0, 255){cast}; of whole numbers in 0..255: x{cast}."
    )


def _other_images(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """A remark on images beside `arr_0`.

    Raises
    ------
    ValueError
        If they are `arr_1` or a later one, as np.savez(path, *batches) writes them.
    """
    parts, others = list[str](), list[str]()
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key == "arr_0" or key == info.filename:
            continue
        try:
            shape, dtype, _ = _read_header(archive, info, path)
        except ValueError:  # what others put beside the images is left alone
            continue
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            continue
        found = f"{shown(key)[:40]} ({dtype} {' x '.join(map(str, shape))})"
        (parts if re.fullmatch(r"arr_[0-9]+", key) and dtype == np.uint8 else others).append(found)
    if parts:
        raise ValueError(
            f"{path}: holds images not in arr_0 alone but in {_some(parts)} as well; np.savez(path, *batches) does "
            "that. ADM reads arr_0 and leaves the rest out. Save them as one: np.savez(path, "
            "arr_0=np.concatenate(batches)), with labels as arr_1."
        )
    return [f"{path}: holds images in {_some(others)} as well; arr_0 alone is read."] if others else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _read_labels(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, num_stored: int
) -> tuple[np.ndarray | None, str | None]:
    """Labels, int64 (N,), and a remark if `arr_1` is of another form; without labels, the remark says why.

    ADM ignores the key, so that nothing there is an error here.
    """
    try:
        shape, dtype, start = _read_header(archive, info, path)
        found = f"arr_1 is {shown(str(dtype))[:60]} {shape}"
        needed = f"needed integers ({num_stored},), one label an image"
        per_image = math.prod(shape) == num_stored and max(shape, default=0) == num_stored
        one_hot = len(shape) == 2 and shape[0] == num_stored and 1 < shape[1] <= _MAX_CLASSES and not per_image
        if dtype.kind not in "biuf" or num_stored > _MAX_LABELS or not (per_image or one_hot):
            return None, f"{found}; {needed}"
        width = shape[1] if one_hot else 1
        labels = np.empty(num_stored, np.int64)
        done = 0
        for rows in _read_rows(archive, info, path, start, dtype, width):
            if one_hot and not ((np.count_nonzero(rows, axis=1) == 1) & (rows.max(axis=1) == 1)).all():
                return None, f"{found} with rows that are not one-hot; {needed}"
            values = rows.argmax(axis=1) if one_hot else rows[:, 0]
            # Beyond 2^53 floats leave out whole numbers; no class is numbered so.
            if not ((np.abs(values.astype(np.float64)) < 2**53) & (values == np.floor(values))).all():
                return None, f"{found} of values that are no numbers of classes; {needed}"
            labels[done : done + len(values)] = values
            done += len(values)
    except ValueError as error:
        return None, str(error).removeprefix(f"{path}: ").rstrip(".")
    if shape == (num_stored,) and dtype.kind in "iu":
        return labels, None
    how = "one-hot" if one_hot else "whole numbers" if dtype.kind == "f" else "one a row"
    return labels, f"{found}, {how}; taken as labels"


def _read_rows(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, start: int, dtype: np.dtype, width: int
) -> Iterator[np.ndarray]:
    """Rows (n, width) of an array whose header has been read and found good, some megabytes at a time."""
    size = dtype.itemsize * width
    try:
        with archive.open(info) as file:
            file.read(start)
            while data := file.read(max(1, _CHUNK // size) * size):
                yield np.frombuffer(data, dtype).reshape(-1, width)
    except BROKEN_ARCHIVE as error:
        raise ValueError(_unreadable(path, info.filename.removesuffix(".npy"), error)) from None
