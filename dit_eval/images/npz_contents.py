"""What the arrays of a batch mean: images, labels, statistics, and how the images were drawn."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_eval.images.npz_file import ImageMember, locate_images
from dit_eval.images.reader import bytes_hint
from dit_eval.results.sample_run import SampleRun
from dit_eval.summary import GaussianStats
from dit_eval.system.reading import Header, NpzFile, parse_json
from dit_eval.system.text import shown

IMAGES, LABELS = "arr_0", "arr_1"
RUN_KEY = "sample_run"  # the member that says how the images were drawn
# Mean and covariance, as ADM and most programs call them; MeanFlow's line of programs has names of its own.
POOL, SPATIAL = (("mu", "sigma"), ("ref_mu", "ref_sigma")), (("mu_s", "sigma_s"),)
_MAX_PIXELS = 1 << 24  # of an image: 4096 x 4096
_MAX_FEATURES = 4096  # D of stored statistics; sigma then takes 128 MiB
_MAX_LABELS = 1 << 24
_MAX_CLASSES = 1 << 16  # of one-hot labels
_CROP = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")


def read_images(file: NpzFile) -> ImageMember | None:
    """Where the images are and how many of which size; None if there are none.

    Raises
    ------
    ValueError
        If `arr_0` is not uint8 (N, H, W, 3), or damaged.
    """
    if IMAGES not in file.members:
        return None
    header, path = file.header(IMAGES), file.path
    shape, dtype = header.shape, header.dtype
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
    return locate_images(file, IMAGES, header)


def other_images(file: NpzFile) -> list[str]:
    """A remark on images beside `arr_0`.

    Raises
    ------
    ValueError
        If they are `arr_1` or a later one, as np.savez(path, *batches) writes them.
    """
    parts, others = list[str](), list[str]()
    if IMAGES not in file.members:
        return []
    for key, header in _headers_of_others(file):
        if len(header.shape) != 4 or 3 not in (header.shape[1], header.shape[3]):
            continue
        found = f"{shown(key)[:40]} ({header.dtype} {' x '.join(map(str, header.shape))})"
        (parts if re.fullmatch(r"arr_[0-9]+", key) and header.dtype == np.uint8 else others).append(found)
    if parts:
        raise ValueError(
            f"{file.path}: holds images not in arr_0 alone but in {_some(parts)} as well; np.savez(path, *batches) "
            "does that. ADM reads arr_0 and leaves the rest out. Save them as one: np.savez(path, "
            "arr_0=np.concatenate(batches)), with labels as arr_1."
        )
    return [f"{file.path}: holds images in {_some(others)} as well; arr_0 alone is read."] if others else []


def _headers_of_others(file: NpzFile) -> Iterator[tuple[str, Header]]:
    for info in file.archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key in (IMAGES, info.filename):
            continue
        try:
            yield key, file.header(info)
        except ValueError:  # what others put beside the images is left alone
            continue


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def read_labels(file: NpzFile, num_stored: int) -> tuple[np.ndarray | None, str | None]:
    """Labels, int64 (N,), and a remark if `arr_1` is of another form; without labels, the remark says why.

    ADM ignores the key, so that nothing there is an error here. In a file without images it is no label of any.
    """
    if not {IMAGES, LABELS} <= file.members.keys():
        return None, None
    try:
        header = file.header(LABELS)
        found = f"arr_1 is {shown(str(header.dtype))[:60]} {header.shape}"
        how = _form_of_labels(header, num_stored)
        labels, problem = (None, "") if how is None else _labels(file, header, num_stored, one_hot=how == "one-hot")
    except ValueError as error:
        return None, str(error).removeprefix(f"{file.path}: ").rstrip(".")
    if labels is None:
        return None, f"{found}{problem}; needed integers ({num_stored},), one label an image"
    return labels, f"{found}, {how}; taken as labels" if how else None


def _form_of_labels(header: Header, num_stored: int) -> str | None:
    """In which form labels are there: "" as integers (N,), else in words; None if they cannot be any."""
    shape, kind = header.shape, header.dtype.kind
    if kind not in "biuf" or num_stored > _MAX_LABELS:
        return None
    if math.prod(shape) == num_stored and max(shape, default=0) == num_stored:
        if shape == (num_stored,) and kind in "iu":
            return ""
        return "whole numbers" if kind == "f" else "one a row"
    one_hot = len(shape) == 2 and shape[0] == num_stored and 1 < shape[1] <= _MAX_CLASSES
    return "one-hot" if one_hot else None


def _labels(file: NpzFile, header: Header, num_stored: int, *, one_hot: bool) -> tuple[np.ndarray | None, str]:
    """Labels, int64 (N,), or None and what is wrong with them."""
    labels, done = np.empty(num_stored, np.int64), 0
    for rows in file.rows(LABELS, header, header.shape[1] if one_hot else 1):
        if one_hot and not ((np.count_nonzero(rows, axis=1) == 1) & (rows.max(axis=1) == 1)).all():
            return None, " with rows that are not one-hot"
        values = rows.argmax(axis=1) if one_hot else rows[:, 0]
        # Beyond 2^53 floats leave out whole numbers; no class is numbered so.
        if not ((np.abs(values.astype(np.float64)) < 2**53) & (values == np.floor(values))).all():
            return None, " of values that are no numbers of classes"
        labels[done : done + len(values)] = values
        done += len(values)
    return labels, ""


def read_statistics(
    file: NpzFile, names: tuple[tuple[str, str], ...], network: str | None = None
) -> GaussianStats | None:
    """Stored statistics, or None where there are none.

    Parameters
    ----------
    names : of mean and covariance, one pair for each program that writes them
    network : whose features they are of, if the file says so

    Raises
    ------
    ValueError
        If one of the two is missing, they are no mean and covariance, or two pairs differ.
    """
    found = [stats for pair in names if (stats := _pair(file, *pair, network)) is not None]
    if len(found) > 1 and len({stats.fingerprint() for stats in found}) > 1:
        pairs = " and ".join(", ".join(pair) for pair in names)
        raise ValueError(f"{file.path}: {pairs} are different statistics. Save those that are meant, under mu, sigma.")
    return found[0] if found else None


def _pair(file: NpzFile, mu_key: str, sigma_key: str, network: str | None) -> GaussianStats | None:
    path = file.path
    present = [key for key in (mu_key, sigma_key) if key in file.members]
    if not present:
        return None
    if len(present) == 1:
        missing = sigma_key if present == [mu_key] else mu_key
        raise ValueError(f"{path}: holds {present[0]} but no {missing}; a mean and a covariance belong together.")
    mu, sigma = file.header(mu_key), file.header(sigma_key)
    check_statistics(path, (mu_key, sigma_key), mu.shape, sigma.shape, (mu.dtype, sigma.dtype))
    try:
        return GaussianStats(
            mu=file.array(mu_key).reshape(-1), sigma=file.array(sigma_key), network=network, names=(mu_key, sigma_key)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_statistics(
    path: Path | str,
    names: tuple[str, str],
    mu: tuple[int, ...],
    sigma: tuple[int, ...],
    dtypes: tuple[np.dtype, np.dtype],
) -> None:
    """That arrays of these shapes can be a mean, (D,) or (1, D), and a covariance, (D, D); ValueError if not."""
    dims = mu[1:] if len(mu) == 2 and mu[0] == 1 else mu
    if len(dims) != 1 or sigma != (*dims, *dims) or not 0 < dims[0] <= _MAX_FEATURES:
        raise ValueError(
            f"{path}: {names[0]} has shape {mu} and {names[1]} {sigma}; needed (D,) and (D, D), with D "
            f"from 1 to {_MAX_FEATURES:,}."
        )
    for name, dtype in zip(names, dtypes, strict=True):
        if dtype.kind != "f":
            raise ValueError(f"{path}: {name} is {dtype}; needed floating point statistics.")


def read_run(file: NpzFile) -> SampleRun | None:
    """How the images were drawn, or None where the file does not say.

    Raises
    ------
    ValueError
        If what is there cannot be read.
    """
    if RUN_KEY not in file.members:
        return None
    text = file.text(RUN_KEY)
    try:
        return SampleRun.from_json(text)
    except ValueError as error:
        raise ValueError(f"{file.path}: {RUN_KEY}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """What `dit_eval.reference` notes in the zip's comment: the images behind statistics, how each was cut ("adm-256",
    None if it was taken whole), and the network."""

    images_sha256: str | None = None
    network: str | None = None
    crop: str | None = None


def read_made_from(archive: zipfile.ZipFile) -> MadeFrom:
    """What the comment says; nothing where it is another program's."""
    try:
        found = parse_json(archive.comment.decode())["made_from"]
        said = found["images_sha256"], found["extractor"]["name"], found.get("crop")
    except (KeyError, RecursionError, TypeError, ValueError):
        return MadeFrom()
    images, network, crop = (text if isinstance(text, str) else None for text in said)
    if crop is not None and not _CROP.fullmatch(crop):
        crop = None
    return MadeFrom(images_sha256=images, network=network, crop=crop)
