"""Fréchet distance between Gaussians: FID on pool features, sFID on spatial features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from dit_eval.summary import GaussianStats

# The eigenvalues are right to a few ulps of the traces, summed over up to some thousand dimensions. A distance
# below this share of the traces is rounding, not a difference between the two sets.
_RESOLUTION = 1e-11
# A covariance that was rounded to float32 has eigenvalues below 0; their sum is at most u sqrt(D) times its trace (the
# nuclear norm of D x D is at most sqrt(D) times the Frobenius norm), u = 2^-24. They are left out of the roots and not
# of the traces, so that the distance may come out below 0 by as much. Twice that is allowed, which also covers the
# roots of what should be 0: each is up to sqrt(2^-53) of the largest eigenvalue.
_ROUNDING = 2.0**-23


@dataclass(frozen=True, kw_only=True)
class FrechetDistance:
    """A Fréchet distance in squared feature units, and the number as computed.

    Attributes
    ----------
    value : the distance; 0 where `raw` is below what float64 can tell from 0 (also if `raw` is negative)
    raw : the number before that rule
    """

    value: float
    raw: float


def frechet_distance(*, gen: GaussianStats, ref: GaussianStats) -> FrechetDistance:
    """Fréchet distance between the Gaussians fitted to two feature sets (lower is better).

    |mu_g - mu_r|^2 + tr(S_g + S_r - 2 (S_g S_r)^(1/2)), without a general matrix square root: the trace of the
    root is the sum of the square roots of the eigenvalues of A^T S A, where A A^T is one of the two covariances.
    That product is symmetric, so the result is real whatever the ranks. A set of N images spans at most N - 1
    directions; eigenvalues beyond that known rank are rounding noise, whose square roots would add up (ADM's
    `sqrtm` is off by about 1e-5 for this reason when N < D), so they are not computed at all.

    Parameters
    ----------
    gen, ref : statistics of the generated and of the reference set, of equal dimension D

    Returns
    -------
    FrechetDistance, in squared feature units.

    Raises
    ------
    ValueError
        If the dimensions differ, or the distance comes out below 0 by more than rounding explains.

    References
    ----------
    Heusel et al. 2017, eq. 6 (NeurIPS); Dowson & Landau 1982.
    """
    if gen.dim != ref.dim:
        known = {2048: "pool features (FID)", 2023: "spatial features (sFID)", 64: "digits pool features"}
        raise ValueError(
            f"gen has {gen.dim}-dimensional statistics ({known.get(gen.dim, 'of an unknown network')}), "
            f"ref has {ref.dim} ({known.get(ref.dim, 'of an unknown network')}). Both must come from the same layer "
            "of the same network: mu/sigma are the pool statistics, mu_s/sigma_s the spatial ones."
        )
    mean_term = float(np.sum((gen.mu - ref.mu) ** 2))
    traces = float(np.trace(gen.sigma) + np.trace(ref.sigma))
    raw = mean_term + traces - 2.0 * _trace_of_root(gen, ref)
    below = -_ROUNDING * math.sqrt(gen.dim) * (traces + mean_term)
    if raw < below:
        raise ValueError(
            f"The distance comes out as {raw:.6g}, and rounding explains no less than {below:.2g}: the statistics of "
            "gen or ref are too coarse, or no covariance. Make them again, in float64."
        )
    value = raw if raw > _RESOLUTION * (traces + mean_term) else 0.0
    return FrechetDistance(value=value, raw=raw)


def _trace_of_root(a: GaussianStats, b: GaussianStats) -> float:
    """tr((S_a S_b)^(1/2)). The smaller rank is decomposed first, which makes the second problem small as well."""
    low, high = sorted((a, b), key=_rank_bound)
    rank = _rank_bound(low)
    if rank == 0:
        return 0.0
    factor = _root(low.sigma, rank)
    product = factor.T @ high.sigma @ factor
    roots = linalg.eigvalsh((product + product.T) / 2)
    return float(np.sqrt(roots.clip(min=0.0)).sum())


def _root(sigma: np.ndarray, rank: int) -> np.ndarray:
    """A matrix A (D, at most `rank`) with A A^T = sigma: Cholesky's, ten times faster than that of eigenvectors.

    Pivoting puts the largest remaining variance first, so that what is rounding noise comes last and is left out. Where
    that noise is of float32 and the rank not known, Cholesky's steps make it up to ten times larger, which shows as
    variance that the factor does not give back; then eigenvectors are taken, and eigenvalues below 0 left out.
    """
    lower, pivots, found, _ = lapack.dpstrf(sigma, lower=1)
    factor = np.empty((len(sigma), min(rank, int(found))))
    factor[pivots - 1] = np.tril(lower)[:, : factor.shape[1]]
    variance = float(np.trace(sigma))
    if rank < len(sigma) or abs(variance - float((factor**2).sum())) <= _RESOLUTION * variance:
        return factor
    values, vectors = linalg.eigh(sigma)
    return vectors[:, values > 0.0] * np.sqrt(values[values > 0.0])


def _rank_bound(stats: GaussianStats) -> int:
    return stats.dim if stats.num is None else min(stats.dim, stats.num - 1)
