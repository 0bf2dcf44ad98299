"""Gaussian statistics of image features: one pass, float64, mergeable.

Everything the metrics need of an image set is a `FeatureSummary`; the same type serves gen and ref.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class GaussianStats:
    """Mean and covariance of a feature set.

    Attributes
    ----------
    mu : float64 (D,)
    sigma : float64 (D, D), normalised by num - 1
    num : number of images behind it, or None if unknown (ADM's reference files do not say).
        The rank of sigma is at most num - 1, which the Fréchet distance relies on.
    """

    mu: np.ndarray
    sigma: np.ndarray
    num: int | None = None

    def __post_init__(self) -> None:
        mu, sigma = np.asarray(self.mu, dtype=np.float64), np.asarray(self.sigma, dtype=np.float64)
        if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
            raise ValueError(
                f"A mean of shape {mu.shape} and a covariance of shape {sigma.shape} do not belong together; "
                "needed (D,) and (D, D)."
            )
        object.__setattr__(self, "mu", mu)
        object.__setattr__(self, "sigma", sigma)

    @property
    def dim(self) -> int:
        return self.mu.size


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """What one pass over an image set leaves behind. A part that is not known is None.

    Attributes
    ----------
    pool : statistics of the pool features (FID)
    spatial : statistics of the spatial features (sFID)
    pool_features : float32 (N, D), for precision and recall
    spatial_features : float32 (N, S), only where they were asked for: for the standard error of sFID
    class_probs : float32 (N, K), in file order, for the Inception Score
    """

    pool: GaussianStats | None = None
    spatial: GaussianStats | None = None
    pool_features: np.ndarray | None = None
    spatial_features: np.ndarray | None = None
    class_probs: np.ndarray | None = None


class RunningStats:
    """Mean and covariance over batches, in float64, without keeping the features.

    Each batch is centred on its own mean before its products are summed, and batches are combined by the
    pairwise update of Chan, Golub & LeVeque (1983), so that no large sums cancel and two instances that saw
    different images can be merged exactly.

    Examples
    --------
    >>> running = RunningStats(dim=2)
    >>> running.update(np.array([[0.0, 1.0], [2.0, 5.0]]))
    >>> running.finalize().mu
    array([1., 3.])
    """

    def __init__(self, dim: int) -> None:
        self.num = 0
        self._mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))  # sum of (x - mean)(x - mean)^T

    def update(self, features: np.ndarray) -> None:
        """Add a batch of features, (B, D) of any float type."""
        if features.ndim != 2 or features.shape[1] != self._mean.size:
            raise ValueError(f"Found features of shape {features.shape}; needed (B, {self._mean.size}).")
        if len(features) == 0:
            return
        batch = features.astype(np.float64)
        mean = batch.mean(axis=0)
        batch -= mean
        self._combine(len(batch), mean, batch.T @ batch)

    def merge(self, other: RunningStats) -> None:
        """Add all that `other` has seen."""
        if other._mean.size != self._mean.size:
            raise ValueError(f"Found {other._mean.size} feature dimensions; needed {self._mean.size}.")
        if other.num:
            self._combine(other.num, other._mean, other._scatter)

    def state(self) -> np.ndarray:
        """All that was seen, as one float64 row (1 + D + D D,): number, mean, scatter; see `from_state`."""
        return np.concatenate([[float(self.num)], self._mean, self._scatter.ravel()])

    @classmethod
    def from_state(cls, state: np.ndarray) -> RunningStats:
        """The instance whose `state` this is."""
        dim = math.isqrt(len(state))  # D (D + 1) + 1 lies between D^2 and (D + 1)^2
        running = cls(dim)
        running.num = int(state[0])
        running._mean, running._scatter = state[1 : 1 + dim].copy(), state[1 + dim :].reshape(dim, dim).copy()
        return running

    def _combine(self, num: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.num + num
        delta = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(delta, delta * (self.num * num / total))
        self._mean += delta * (num / total)
        self.num = total

    def finalize(self) -> GaussianStats:
        """The statistics of all that was seen; the covariance is normalised by num - 1, as by `np.cov`.

        Raises
        ------
        ValueError
            If fewer than two images were seen: their covariance does not exist.
        """
        if self.num < 2:
            raise ValueError(f"Found {self.num} image(s); a covariance needs at least 2.")
        return GaussianStats(mu=self._mean.copy(), sigma=self._scatter / (self.num - 1), num=self.num)
