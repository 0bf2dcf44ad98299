"""What one pass over a set of images tells about its pixels, without a network: the facts that `diagnose` judges.

Each image is hashed and shrunk to a grid of 8 x 8 colours. What needs all pixels (values, spectra, traces of JPEG) is
taken from at most `LOOKED_AT` images, evenly spaced over the set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from dit_eval.images import ImageSet

GRID = 8  # cells of a thumbnail, across and down
LOOKED_AT = 1_000  # enough that shares are known to about a percent; the rest of a file is only hashed and shrunk
_BLANK_SPREAD = 2  # grey levels between the darkest and the lightest value of an image that shows nothing
_SATURATED = 0.9  # share of an image's values at 0 or 255
_MIN_SPECTRUM = 32  # pixels; below it there are too few frequencies, and too few blocks of 8 x 8
_LUMA = np.array([0.299, 0.587, 0.114])  # of JPEG


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """Facts about N images of H x W, of which L were looked at closely.

    Attributes
    ----------
    num_images : N
    size : (H, W)
    hashes : (N,) bytes, equal where the pixels are
    thumbnails : float32 (N, h, w, 3), mean colours of 8 x 8 cells (fewer where the image has fewer pixels), 0..255
    blank : bool (N,), images of one value
    saturated : bool (N,), images nearly all of which is 0 or 255, but not blank
    histogram : int64 (3, 256), values of the images looked at, by channel
    variances : float64 (L, 3), of the values of each channel of an image
    grey : share of the images looked at whose three channels are equal
    repeats : share of pixel pairs (2i, 2i + 1), across and down, that are equal; and of the pairs (2i + 1, 2i + 2)
    spectrum : float64 (F,), median power of the luma along rows and columns at the frequencies f = 0 .. 1/2 per pixel,
        of which there are W // 2 + 1; None where images are not square or too small
    jpeg : how far the cosine coefficients of 8 x 8 blocks lie at multiples of one number, more than those of blocks
        that are shifted by half a block: 0 (not at all) to about 1; None where images are too small
    """

    num_images: int
    size: tuple[int, int]
    hashes: np.ndarray
    thumbnails: np.ndarray
    blank: np.ndarray
    saturated: np.ndarray
    histogram: np.ndarray
    variances: np.ndarray
    grey: float
    repeats: tuple[float, float]
    spectrum: np.ndarray | None
    jpeg: float | None


def read_pixels(
    images: ImageSet, *, batch_size: int = 64, on_progress: Callable[[int, int | None], None] | None = None
) -> PixelFacts:
    """Look at a set of images once.

    Parameters
    ----------
    batch_size : images in memory at a time; changes no fact
    on_progress : called with (images done, images in all)

    Raises
    ------
    ValueError
        If there is no image, their number is not known before they are read, or one cannot be read.
    """
    total, size = images.num_images, images.image_size
    if not total or size is None:
        raise ValueError(f"{images.path}: no images to look at; needed a file or folder with at least one.")
    looked_at = np.unique(np.linspace(0, total - 1, min(LOOKED_AT, total)).round().astype(int))
    hashes: list[bytes] = []
    thumbnails: list[np.ndarray] = []
    blank: list[np.ndarray] = []
    saturated: list[np.ndarray] = []
    close = _Close(size)
    done = 0
    for batch in images.batches(batch_size):
        hashes += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in batch]
        thumbnails.append(_shrunk(batch))
        flat = batch.reshape(len(batch), -1)
        empty = flat.max(axis=1).astype(int) - flat.min(axis=1) <= _BLANK_SPREAD
        blank.append(empty)
        saturated.append((((flat == 0) | (flat == 255)).mean(axis=1) > _SATURATED) & ~empty)
        mine = looked_at[(looked_at >= done) & (looked_at < done + len(batch))] - done
        if len(mine):
            close.add(batch[mine])
        done += len(batch)
        if on_progress:
            on_progress(done, total)
    images.check_unchanged()
    return PixelFacts(
        num_images=done,
        size=size,
        hashes=np.array(hashes, dtype="V16"),
        thumbnails=np.concatenate(thumbnails),
        blank=np.concatenate(blank),
        saturated=np.concatenate(saturated),
        histogram=close.histogram,
        variances=np.concatenate(close.variances),
        grey=float(np.mean(np.concatenate(close.grey))),
        repeats=close.repeats(),
        spectrum=close.spectrum(),
        jpeg=close.jpeg(),
    )


def _shrunk(batch: np.ndarray) -> np.ndarray:
    """Mean colours of the cells of a grid, float32 (B, h, w, 3)."""
    sums, area = batch, np.ones((1, 1))
    for axis in (1, 2):
        edges = np.unique(np.linspace(0, batch.shape[axis], GRID + 1).astype(int)[:-1])
        sums = np.add.reduceat(sums, edges, axis=axis, dtype=np.uint32)
        lengths = np.diff(np.append(edges, batch.shape[axis]))
        area = area * (lengths[:, None] if axis == 1 else lengths[None, :])
    return (sums / area[None, :, :, None]).astype(np.float32)


class _Close:
    """Sums over the images that are looked at closely."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.histogram = np.zeros((3, 256), np.int64)
        self.variances: list[np.ndarray] = []
        self.grey: list[np.ndarray] = []
        self._equal = np.zeros((2, 2))  # pairs that are equal, pairs; by phase
        self._spectral = min(size) >= _MIN_SPECTRUM
        self._square = size[0] == size[1]
        self._power: list[np.ndarray] = []
        self._blocks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, batch: np.ndarray) -> None:
        for channel in range(3):
            self.histogram[channel] += np.bincount(batch[..., channel].ravel(), minlength=256)
        self.variances.append(batch.reshape(len(batch), -1, 3).var(axis=1))
        self.grey.append((batch == batch[..., :1]).all(axis=(1, 2, 3)))
        for images in (batch, batch.swapaxes(1, 2)):
            same = (images[:, 1:] == images[:, :-1]).all(axis=-1)  # (B, H - 1, W)
            for phase in (0, 1):
                self._equal[phase] += same[:, phase::2].sum(), same[:, phase::2].size
        if not self._spectral:
            return
        luma = batch @ _LUMA - 128.0  # (B, H, W)
        if self._square:
            self._power.append((_line_power(luma) + _line_power(luma.swapaxes(1, 2))) / 2)
        for offset, blocks in zip((0, 4), self._blocks, strict=True):
            blocks.append(_low_coefficients(luma[:, offset:, offset:]))

    def repeats(self) -> tuple[float, float]:
        even, odd = (float(equal / pairs) if pairs else 0.0 for equal, pairs in self._equal)
        return even, odd

    def spectrum(self) -> np.ndarray | None:
        # The median over images: one noisy or one blank image among many is not what is asked about.
        return np.median(np.concatenate(self._power), axis=0) if self._power else None

    def jpeg(self) -> float | None:
        if not self._spectral:
            return None
        aligned, shifted = (np.concatenate(blocks) for blocks in self._blocks)
        return _comb(aligned, shifted)


def _line_power(luma: np.ndarray) -> np.ndarray:
    """Power along the rows of each image, float64 (B, W // 2 + 1)."""
    rows = (luma - luma.mean(axis=2, keepdims=True)) * np.hanning(luma.shape[2] + 2)[1:-1]
    return (np.abs(fft.rfft(rows, axis=2)) ** 2).mean(axis=1)


def _low_coefficients(luma: np.ndarray) -> np.ndarray:
    """Cosine coefficients of low frequency of the 8 x 8 blocks, float32 (blocks, 9)."""
    images, height, width = luma.shape
    rows, columns = min(height // 8, 32), min(width // 8, 32)  # a corner is enough of a large image
    blocks = luma[:, : rows * 8, : columns * 8].reshape(images, rows, 8, columns, 8).swapaxes(2, 3)
    coefficients = fft.dctn(blocks, axes=(3, 4), norm="ortho")
    low = [coefficients[..., u, v] for u in range(4) for v in range(4) if 1 <= u + v <= 3]
    return np.stack(low, axis=-1).reshape(-1, len(low)).astype(np.float32)


def _comb(aligned: np.ndarray, shifted: np.ndarray) -> float:
    """How much more the aligned blocks' coefficients lie at multiples of a step than those of the shifted blocks.

    JPEG rounds each coefficient to a multiple of its step q, and decoding to 8 bits blurs that by less than 0.3. For
    such values the mean of cos(2 pi c / q) is near 1, for others near 0. Values below 3/4 q are left out, for they say
    nothing. Blocks shifted by half a block hold the same pictures and no grid: whatever the pictures themselves do to
    the mean is in both.
    """
    found = []
    for a, s in zip(aligned.T, shifted.T, strict=True):
        best = 0.0
        for step in range(1, 41):
            near = [c[np.abs(c) > 0.75 * step] for c in (a, s)]
            if min(map(len, near)) < 200:  # the mean of fewer is too uncertain
                break
            means = [float(np.cos(2 * np.pi / step * c).mean()) for c in near]
            # Three standard errors of the difference: the best of 40 steps is taken.
            doubt = 3 * math.sqrt(sum(0.5 / len(c) for c in near))
            best = max(best, means[0] - max(means[1], 0.0) - doubt)
        found.append(best)
    # The median: pictures with edges on the grid have combs in some coefficients, JPEG in all.
    return float(np.median(found))
