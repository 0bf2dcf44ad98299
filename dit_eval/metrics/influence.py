"""How much each image moves a Fréchet distance; `intervals.frechet_influence` states the formula."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from dit_eval.metrics.variation import LEAST_IMAGES, NoEstimate, Smooth, random_quarters, scaled
from dit_eval.summary import GaussianStats, RunningStats

_ROWS = 1_000  # of a block of features
# Singular values below this share of the largest are rounding: square roots of eigenvalues that are right to 1e-16.
_RESOLUTION = 1e-8


def check_images(num: int, dim: int) -> None:
    """That half of so many images spans all dimensions, without which an expansion in 1/N does not hold.

    Raises
    ------
    NoEstimate
        With the number that would do.
    """
    if num < LEAST_IMAGES or num // 2 <= dim:
        least = max(2 * (dim + 1), LEAST_IMAGES)
        raise NoEstimate(f"{num:,} images; a Fréchet distance of {dim:,} dimensions needs at least {least:,} of them")


def frechet_variation(gen: np.ndarray, ref: GaussianStats) -> Smooth:
    """How a Fréchet distance from a fixed reference varies over draws of as many images.

    Parameters
    ----------
    gen : (N, D) features of the generated images
    ref : statistics of the reference

    Raises
    ------
    NoEstimate
        If half of the images does not span all dimensions.
    """
    num, dim = gen.shape
    check_images(num, dim)
    reference, quarters = FixedReference(ref), random_quarters(num)
    parts = [moments(gen, rows) for rows in quarters]

    def shares(rows: np.ndarray, of: list[RunningStats]) -> np.ndarray:
        return scaled(reference.distance_and_influence(gen, merged(of, dim), rows)[1])

    halves = (
        shares(np.concatenate(quarters[:2]), parts[:2]),
        shares(np.concatenate(quarters[2:]), parts[2:]),
    )
    return Smooth(shares=shares(np.arange(num), parts), halves=halves)


class FixedReference:
    """Fréchet distances from one reference, which is decomposed once."""

    def __init__(self, ref: GaussianStats) -> None:
        rank = ref.dim if ref.num is None else min(ref.dim, ref.num - 1)
        values, vectors = linalg.eigh(ref.sigma, subset_by_index=(ref.dim - rank, ref.dim - 1))
        self.mu, self.trace = ref.mu, float(np.trace(ref.sigma))
        self.factor = vectors * np.sqrt(values.clip(min=0.0))  # (D, rank), B of `frechet_influence`

    def distance(self, gen: GaussianStats) -> float:
        """Of a set with these statistics."""
        return self._distance(gen, np.sqrt(linalg.eigvalsh(self._product(gen)).clip(min=0.0)))

    def distance_and_influence(
        self, features: np.ndarray, gen: GaussianStats, rows: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Of some rows of all features, of which `gen` are the statistics."""
        values, vectors = linalg.eigh(self._product(gen))
        roots = np.sqrt(values.clip(min=0.0))
        # A set of n images spans n - 1 directions; roots beyond that, or below what float64 resolves, are noise.
        rank = len(roots) if gen.num is None else min(len(roots), gen.num - 1)
        kept = (np.arange(len(roots)) >= len(roots) - rank) & (roots > _RESOLUTION * roots[-1])
        whitened = (self.factor @ vectors[:, kept]) / np.sqrt(roots[kept])  # (D, rank), its square is M
        shift = 2 * (gen.mu - self.mu)
        scale = len(rows) / (len(rows) - 1)
        influence = np.empty(len(rows))
        for start in range(0, len(rows), _ROWS):
            y = features[rows[start : start + _ROWS]].astype(np.float64) - gen.mu
            quadratic = np.einsum("nd,nd->n", y, y) - np.square(y @ whitened).sum(axis=1)
            influence[start : start + _ROWS] = y @ shift + scale * quadratic
        return self._distance(gen, roots), influence - influence.mean()

    def _product(self, gen: GaussianStats) -> np.ndarray:
        product = self.factor.T @ gen.sigma @ self.factor
        return (product + product.T) / 2

    def _distance(self, gen: GaussianStats, roots: np.ndarray) -> float:
        traces = float(np.trace(gen.sigma)) + self.trace
        return float(np.sum((gen.mu - self.mu) ** 2) + traces - 2 * roots.sum())


def moments(features: np.ndarray, rows: np.ndarray) -> RunningStats:
    """Sums over some rows of features."""
    running = RunningStats(features.shape[1])
    for start in range(0, len(rows), _ROWS):
        running.update(features[rows[start : start + _ROWS]])
    return running


def merged(parts: list[RunningStats], dim: int) -> GaussianStats:
    """Statistics of all parts together."""
    total = RunningStats(dim)
    for part in parts:
        total.merge(part)
    return total.finalize()
