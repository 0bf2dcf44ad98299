"""Gaussian statistics of image features: one pass, float64, mergeable.

Everything the metrics need of an image set is a `FeatureSummary`; the same type serves gen and ref.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import InitVar, dataclass
from typing import Literal

import numpy as np

# Statistics are often kept as float32. Rounding each entry s by at most u |s|, u = 2^-24, moves an eigenvalue by at
# most u times the Frobenius norm, which is no more than u times the trace. Twice that is allowed, for sums made in
# float32. Of 300 images in 2,048 dimensions, the least eigenvalue over the trace was -7e-10 where a float64 covariance
# was stored as float32, -6e-8 where it was E[x x^T] - E[x] E[x]^T in float32, and -5e-6 where it was stored as float16.
_ROUNDING = 2.0**-23


@dataclass(frozen=True, kw_only=True)
class GaussianStats:
    """Mean and covariance of a feature set; what can be none is refused.

    A covariance is symmetric and has no negative eigenvalue, give or take the rounding of float32. That is found by a
    Cholesky decomposition of sigma plus the rounding allowed, which takes 0.1 s at D = 2,048.

    Attributes
    ----------
    mu : float64 (D,)
    sigma : float64 (D, D), normalised by num - 1
    num : number of images behind it, or None if unknown (ADM's reference files do not say).
        The rank of sigma is at most num - 1, which the Fréchet distance relies on.
    network : name of the network whose features they are of, where that is on record
    names : of mu and sigma in messages; not kept

    Raises
    ------
    ValueError
        If they are no mean and covariance; the message says what was found: type, shapes, NaN, two entries that differ,
        a negative variance, a correlation above 1, or a negative eigenvalue.
    """

    mu: np.ndarray
    sigma: np.ndarray
    num: int | None = None
    network: str | None = None
    names: InitVar[tuple[str, str]] = ("the mean", "the covariance")

    def __post_init__(self, names: tuple[str, str]) -> None:
        mu, sigma = _real(names[0], self.mu), _real(names[1], self.sigma)
        if mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or not mu.size:
            raise ValueError(
                f"{names[0]} of shape {mu.shape} and {names[1]} of shape {sigma.shape} do not belong together; needed "
                "(D,) and (D, D)."
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(4.0 * (mu @ mu) + (mu.size * np.abs(sigma).max()) ** 2):
                raise ValueError(f"{names[0]} or {names[1]} holds numbers whose squares are beyond float64.")
        fault = _fault(sigma)
        if fault:
            raise ValueError(f"{names[1]} is no covariance: {fault}. Make the statistics again, in float64.")
        object.__setattr__(self, "mu", mu)
        object.__setattr__(self, "sigma", sigma)

    @property
    def dim(self) -> int:
        return self.mu.size

    def fingerprint(self) -> str:
        """SHA-256 of mu and sigma as float32 in rows, little-endian: the same however and by which keys they are kept.

        Float32 is the least that files of statistics have; a file of float64 and its copy in float32 have one.
        """
        digest = hashlib.sha256(f"{self.dim}\n".encode())
        with np.errstate(over="ignore", under="ignore"):
            for numbers in (self.mu, self.sigma):
                digest.update(np.ascontiguousarray(numbers, "<f4").data)
        return digest.hexdigest()


def _real(name: str, numbers: np.ndarray) -> np.ndarray:
    """Finite real numbers as float64."""
    found = np.asarray(numbers)
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {found.dtype}; needed real numbers.")
    found = found.astype(np.float64, copy=False)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds NaN or infinite values; needed finite numbers.")
    return found


def _fault(sigma: np.ndarray) -> str:
    """What makes a matrix of finite numbers no covariance; empty if nothing does."""
    from scipy.linalg import lapack  # a fifth of a second to load, which what reads image files has no use for

    apart = np.abs(sigma - sigma.T) - 1e-4 * np.abs(sigma.T)
    if apart.max() > 1e-6 * np.abs(sigma).max():
        i, j = np.unravel_index(apart.argmax(), apart.shape)
        return f"it is not symmetric, entry {i}, {j} is {sigma[i, j]:.6g} and {j}, {i} is {sigma[j, i]:.6g}"
    variances = sigma.diagonal()
    allowed = _ROUNDING * float(np.abs(variances).sum())
    if variances.min() < -allowed:
        return f"the variance of feature {variances.argmin()} is {variances.min():.6g}, and none is below 0"
    lifted = (sigma + sigma.T) / 2  # which the decomposition writes over
    lifted[np.diag_indices_from(lifted)] += allowed + np.finfo(np.float64).tiny
    if lapack.dpotrf(lifted.T, lower=1, clean=0, overwrite_a=1)[1] == 0:
        return ""
    deviations = np.sqrt(variances.clip(min=0.0))
    beyond = np.abs(sigma) - np.outer(deviations, deviations)
    np.fill_diagonal(beyond, 0.0)
    if beyond.max() > allowed:
        i, j = np.unravel_index(beyond.argmax(), beyond.shape)
        return (
            f"entry {i}, {j} is {sigma[i, j]:.6g}, where the variances {variances[i]:.6g} and {variances[j]:.6g} of "
            f"the two features allow {deviations[i] * deviations[j]:.6g} (a correlation above 1)"
        )
    least, *_, most = np.linalg.eigvalsh(sigma)
    return f"its eigenvalues go from {least:.6g} to {most:.6g}, and none is below 0 but for rounding"


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

    def stats(self, space: Literal["pool", "spatial"]) -> GaussianStats:
        """Statistics of one kind of features; ValueError where there are none."""
        found = self.pool if space == "pool" else self.spatial
        if found is None:
            raise ValueError(f"There are no statistics of {space} features here; they come of two images or more.")
        return found

    def features(self, space: Literal["pool", "spatial"]) -> np.ndarray:
        """Features of one kind, float32 (N, D); ValueError where they were not kept."""
        found = self.pool_features if space == "pool" else self.spatial_features
        if found is None:
            raise ValueError(f"The {space} features of single images were not kept here.")
        return found

    def probabilities(self) -> np.ndarray:
        """Class probabilities, float32 (N, K); ValueError where the network gives none."""
        if self.class_probs is None:
            raise ValueError("There are no class probabilities here; the network gives none.")
        return self.class_probs


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
            If fewer than two images were seen, whose covariance does not exist, or the features are not finite.
        """
        if self.num < 2:
            raise ValueError(f"Found {self.num} image(s); a covariance needs at least 2.")
        return GaussianStats(
            mu=self._mean.copy(),
            sigma=self._scatter / (self.num - 1),
            num=self.num,
            names=("the mean of the features", "the covariance of the features"),
        )
