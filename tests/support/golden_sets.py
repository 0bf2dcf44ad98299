"""Synthetic image and feature sets for which the ADM evaluator's own numbers are kept in ``goldens/adm.json``.

The images are drawn by ``dit_eval.checks.golden``, as ``dit-eval verify --offline`` uses them too; the feature sets and
stored statistics are made here. They stand in for photographs and for Inception features: they have the right ranges,
vary from item to item, and `gen` and `ref` are drawn from distributions that differ but overlap, so that no metric sits
at an end of its scale.

All random numbers are integers of the frozen ``RandomState`` stream. Sums of products are formed from integers small
enough that float32 holds every partial sum exactly, and everything else is one correctly rounded operation at a time.
So a set is the same, bit for bit, on every machine and with every BLAS; ``goldens/adm.json`` keeps the SHA-256 of each
and the tests compare it first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dit_eval.checks.golden import image_set

POOL_DIM = 2048
SPATIAL_DIM = 2023


def _gaussian(
    rng: np.random.RandomState, dim: int, mean: float, rank_one: float, diagonal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), float64, from integers times the three units, which are powers of two."""
    mu = rng.randint(20, 60, size=dim) * mean
    factors = rng.randint(-7, 8, size=(64, dim)).astype(np.float64)
    sigma = (factors.T @ factors) * rank_one
    sigma[np.diag_indices(dim)] += rng.randint(1, 17, size=dim) * diagonal
    return mu, sigma


def stored_statistics() -> dict[str, np.ndarray]:
    """Statistics to store in the file of ``ref-256``, as if of a larger set than its own images.

    They come from no images: each covariance is a low-rank part plus a positive diagonal, at about the scale that the
    seeded network's features have. A reader that recomputes statistics from ``arr_0`` is therefore far off.

    Returns
    -------
    dict with ``mu`` (2048,), ``sigma`` (2048, 2048), ``mu_s`` (2023,), ``sigma_s`` (2023, 2023), all float64
    """
    rng = np.random.RandomState(105)
    pool = _gaussian(rng, POOL_DIM, mean=2.0**-7, rank_one=2.0**-16, diagonal=2.0**-11)
    spatial = _gaussian(rng, SPATIAL_DIM, mean=2.0**-6, rank_one=2.0**-12, diagonal=2.0**-7)
    return {"mu": pool[0], "sigma": pool[1], "mu_s": spatial[0], "sigma_s": spatial[1]}


def batch_arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of one image set's npz file, by key, ready for ``np.savez``.

    ``arr_0`` is always there; ``gen-256`` also has labels as ``arr_1`` (N,) int64, ``ref-256`` the `stored_statistics`.
    """
    arrays = {"arr_0": image_set(name)}
    if name == "gen-256":
        arrays["arr_1"] = np.random.RandomState(106).randint(0, 1000, size=len(arrays["arr_0"]), dtype=np.int64)
    if name == "ref-256":
        arrays.update(stored_statistics())
    return arrays


class FeatureSet(NamedTuple):
    """How one set of feature rows is drawn: `shared` percent of the rows come from what gen and ref have in common.

    Attributes
    ----------
    seed, count, dim : of the rows
    centre : seed of the centre of the set's own rows, the same number for gen and ref would make them one distribution
    shared : percentage of common rows
    scale : from the integers of the model to features; sets the length of the rows
    level : added to every integer; the higher, the more rows share a direction
    """

    seed: int
    count: int
    dim: int
    centre: int
    shared: int
    scale: float
    level: int = -12


GEN, REF = 71, 72  # centres of the own rows of each role

# Squared row lengths: about 400, like Inception's, for `score`, `large` and `blocks`; 33,000 to 49,000 for `clip`,
# where no length overflows float16 but twice a product does for some pairs (1 % between the roles, 10 % and 14 %
# within), so that their distances become 0; 75,000 and more for `overflow`, where every length overflows.
FEATURE_SETS = {
    "score-gen": FeatureSet(seed=200, count=11_300, dim=POOL_DIM, centre=GEN, shared=50, scale=1 / 90),
    "large-gen": FeatureSet(seed=201, count=2_300, dim=POOL_DIM, centre=GEN, shared=60, scale=1 / 90),
    "large-ref": FeatureSet(seed=202, count=5_200, dim=POOL_DIM, centre=REF, shared=60, scale=1 / 90),
    "blocks-gen": FeatureSet(seed=203, count=10_600, dim=POOL_DIM, centre=GEN, shared=60, scale=1 / 90),
    "blocks-ref": FeatureSet(seed=204, count=1_200, dim=POOL_DIM, centre=REF, shared=60, scale=1 / 90),
    "clip-gen": FeatureSet(seed=205, count=400, dim=POOL_DIM, centre=GEN, shared=60, scale=7.4 / 90, level=8),
    "clip-ref": FeatureSet(seed=206, count=420, dim=POOL_DIM, centre=REF, shared=60, scale=7.4 / 90, level=8),
    "overflow-gen": FeatureSet(seed=207, count=400, dim=POOL_DIM, centre=GEN, shared=60, scale=16 / 90),
    "overflow-ref": FeatureSet(seed=208, count=420, dim=POOL_DIM, centre=REF, shared=60, scale=16 / 90),
    "short-gen": FeatureSet(seed=209, count=500, dim=64, centre=GEN, shared=60, scale=1 / 90),
    "short-ref": FeatureSet(seed=210, count=700, dim=64, centre=REF, shared=60, scale=1 / 90),
}

FEATURE_PAIRS = ("large", "blocks", "clip", "overflow", "short")  # NAME-gen against NAME-ref

# Rows of `blocks-gen` that overflow float16: beyond the evaluator's first 10,000, so only some blocks contain them.
# They are near one another, or the radius of each would reach over the whole set.
LONG_ROWS = (10_017, 10_018, 10_100, 10_240, 10_431, 10_599)
LATENT = 24


def features(name: str) -> np.ndarray:
    """One set of feature rows, (N, D) float32, not negative; every row a Relu of a few latent factors plus noise.

    Parameters
    ----------
    name : a key of `FEATURE_SETS`, such as "large-gen"
    """
    spec = FEATURE_SETS[name]
    loadings = np.random.RandomState(spec.dim).randint(-4, 5, size=(LATENT + 1, spec.dim)).astype(np.float32)
    centre = np.random.RandomState(spec.centre).randint(-2, 3, size=LATENT)

    rng = np.random.RandomState(spec.seed)
    latent = rng.randint(-1, 2, size=(4, spec.count, LATENT)).sum(axis=0)  # nearly normal
    own = rng.randint(0, 100, size=spec.count) >= spec.shared
    latent = latent + own[:, None] * centre
    noise = rng.randint(0, 64, size=(spec.count, spec.dim), dtype=np.uint8).astype(np.float32)

    rows = latent.astype(np.float32) @ loadings[:LATENT]  # (N, D) integers below 2 ** 24, exact in any order
    rows += 8 * loadings[LATENT] + spec.level
    rows += noise
    np.maximum(rows, 0, out=rows)
    rows *= np.float32(spec.scale)
    if name == "blocks-gen":
        first, *others = LONG_ROWS
        for row in others:
            rows[row] = rows[first] * np.float32(20) + rows[row] * np.float32(0.5)
        rows[first] *= np.float32(20)
    return rows
