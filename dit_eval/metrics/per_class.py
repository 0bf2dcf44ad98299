"""How far each class of samples lies from the same class of the reference.

A class has some fifty samples and ten reference images at the published numbers: far fewer than features have
dimensions, so that covariances are of low rank and a Fréchet distance says more about the counts than about the images.
The kernel distance of KID needs no covariance and has the same expected value for any number of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST_IMAGES = 2  # of a class on each side: pairs of distinct images are compared


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class.

    Attributes
    ----------
    label : its number
    num_gen, num_ref : images on each side
    kid : squared maximum mean discrepancy under KID's kernel, unbiased, so that it may be below 0 where the two sides
        hardly differ; None if a side has fewer than `LEAST_IMAGES`
    standard_error : of kid over draws of as many images on both sides; None where kid is
    """

    label: int
    num_gen: int
    num_ref: int
    kid: float | None
    standard_error: float | None


def class_scores(
    *, gen: np.ndarray, gen_labels: np.ndarray, ref: np.ndarray, ref_labels: np.ndarray
) -> tuple[ClassScore, ...]:
    """The kernel distance of each class that occurs on a side, by ascending label.

    Kernel (u.v / D + 1)^3 as of KID, over all pairs of distinct images of the class: the unbiased estimator, without
    subsets. Its standard error is that of a U-statistic to first order (Gretton et al. 2012, theorem 9 and Hoeffding
    1948): 4 var(a) / n + 4 var(b) / m, where a_i is the mean kernel value of sample i with the other samples less that
    with the reference, and b_j the same of reference image j. Where the two sides hardly differ it is too large
    rather than too small.

    Parameters
    ----------
    gen, ref : features of the generated (N, D) and of the reference set (M, D), any float type
    gen_labels, ref_labels : integer classes, (N,) and (M,)

    Raises
    ------
    ValueError
        If labels and features do not belong together, dimensions differ, or features are not finite.

    References
    ----------
    Bińkowski et al. 2018 (ICLR), section 4; Gretton et al. 2012 (JMLR 13), lemma 6.
    """
    for role, features, labels in (("gen", gen, gen_labels), ("ref", ref, ref_labels)):
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"{role} has features of shape {features.shape} and labels of shape {labels.shape}; needed (N, D) and "
                "(N,)."
            )
        if not np.isfinite(features).all():
            raise ValueError(f"{role} holds NaN or infinity; all features must be finite.")
    if gen.shape[1] != ref.shape[1]:
        raise ValueError(f"Feature dimensions differ: gen {gen.shape[1]:,}, ref {ref.shape[1]:,}.")
    scores = []
    for label in np.union1d(gen_labels, ref_labels):
        u, v = gen[gen_labels == label].astype(np.float64), ref[ref_labels == label].astype(np.float64)
        enough = min(len(u), len(v)) >= LEAST_IMAGES
        kid, error = _distance(u, v) if enough else (None, None)
        scores.append(ClassScore(label=int(label), num_gen=len(u), num_ref=len(v), kid=kid, standard_error=error))
    return tuple(scores)


def _distance(u: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """Unbiased squared discrepancy of (n, D) and (m, D), and its standard error."""
    between = _kernel(u, v)
    a, b = (
        (within.sum(axis=1) - within.diagonal()) / (len(within) - 1) - across
        for within, across in ((_kernel(u, u), between.mean(axis=1)), (_kernel(v, v), between.mean(axis=0)))
    )
    # mean(a) + mean(b) is within u + within v - 2 between.
    variance = 4 * a.var(ddof=1) / len(a) + 4 * b.var(ddof=1) / len(b)
    return float(a.mean() + b.mean()), math.sqrt(variance)


def _kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u @ v.T / u.shape[1] + 1) ** 3
