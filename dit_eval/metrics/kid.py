"""KID: kernel distance of Inception features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dit_eval.metrics.metric import BETA, TORCH_FIDELITY, Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from dit_eval.metrics.variation import Smooth
    from dit_eval.results.eval_result import Estimate

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1_000
_ROWS = 2_000  # rows and columns of kernel values in memory at once
KID_SEED = 2020  # of the draws: torch-fidelity's default


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """Mean and standard deviation over the subsets, and the distance of each of these.

    The mean may be a little below 0 where two sets hardly differ.
    """

    mean: float
    std: float
    draws: tuple[float, ...] = ()


def kernel_distance(
    *,
    gen: np.ndarray,
    ref: np.ndarray,
    num_subsets: int = KID_SUBSETS,
    subset_size: int = KID_SUBSET_SIZE,
    seed: int = KID_SEED,
) -> KernelDistance:
    """KID: squared maximum mean discrepancy under the kernel (u.v / D + 1)^3 (lower is better).

    The unbiased estimator, on random subsets of both sides; the work is torch-fidelity's. It is handed float64, so
    that the figure does not depend on the matrix library at hand; torch-fidelity's own, in float32, differs in its
    fifth or sixth digit.

    Parameters
    ----------
    gen, ref : features of the generated (N, D) and of the reference set (M, D), any float type
    num_subsets, subset_size : how many subsets are drawn, and of how many images each, without replacement
    seed : of the draws

    Returns
    -------
    KernelDistance

    Raises
    ------
    ValueError
        If the dimensions differ, a side has fewer than `subset_size` images, or features are not finite.

    References
    ----------
    Bińkowski et al. 2018 (ICLR), section 4; torch-fidelity `metric_kid.py`.
    """
    import numpy as np
    from torch_fidelity.metric_kid import kernel_mmd

    check_features(gen=gen, ref=ref)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(f"{num_subsets} subsets of {subset_size} images: needed at least 1 subset of at least 2.")
    for role, features in (("gen", gen), ("ref", ref)):
        if len(features) < subset_size:
            raise ValueError(
                f"{role} has {len(features):,} images; KID draws subsets of {subset_size:,}. Pass more images, or a "
                "smaller subset size and say so where you report the number."
            )
    draws = np.random.RandomState(seed)  # gen first, then ref, as torch-fidelity draws its two inputs
    kernel = {
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    distances = [
        kernel_mmd(
            *(side[draws.choice(len(side), subset_size, replace=False)].astype(np.float64) for side in (gen, ref)),
            **kernel,
        )
        for _ in range(num_subsets)
    ]
    return KernelDistance(
        mean=float(np.mean(distances)), std=float(np.std(distances)), draws=tuple(map(float, distances))
    )


def check_features(**sides: np.ndarray) -> None:
    """That features are rows of finite numbers, of one dimension on all sides.

    Raises
    ------
    ValueError
        Naming the side, and what was found.
    """
    import numpy as np

    for role, features in sides.items():
        if features.ndim != 2 or not len(features):
            raise ValueError(f"{role} has shape {features.shape}; needed (images, features) with at least one image.")
        if not np.isfinite(features).all():
            raise ValueError(
                f"{role} holds NaN or infinity; all features must be finite. Check the images and weights."
            )
    dims = {role: features.shape[1] for role, features in sides.items()}
    if len(set(dims.values())) > 1:
        found = ", ".join(f"{role} {dim:,}" for role, dim in dims.items())
        raise ValueError(f"Feature dimensions differ: {found}. Extract both with the same network and layer.")


def kernel_variation(
    gen: np.ndarray, ref: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Smooth:
    """What each image does to the squared maximum mean discrepancy from a fixed reference.

    Its influence is 2 (mean of k(x, gen) - mean of k(x, ref)), less the mean over all images; an image's kernel with
    itself is left out, as the unbiased estimator does.

    Parameters
    ----------
    gen, ref : (N, D), (M, D)
    kernel : of rows (R, D) and (C, D), to float64 (R, C)

    Raises
    ------
    NoEstimate
        If there are too few images.
    """
    import numpy as np

    from dit_eval.metrics.variation import LEAST_IMAGES, NoEstimate, Smooth, random_quarters, scaled

    num = len(gen)
    if num < LEAST_IMAGES:
        raise NoEstimate(f"{num} images; needed at least {LEAST_IMAGES}")
    halves = np.zeros((num, 2))  # one-hot: in which half an image is
    quarters = random_quarters(num)
    for half in (0, 1):
        halves[np.concatenate(quarters[2 * half : 2 * half + 2]), half] = 1
    sums, to_ref = np.zeros((num, 2)), np.zeros(num)  # of kernels with each half, without the image itself
    for rows in _blocks(num):
        for columns in _blocks(rows.stop):  # each pair of blocks once
            among = kernel(gen[rows], gen[columns])
            if rows.start == columns.start:
                np.fill_diagonal(among, 0.0)
            else:
                sums[columns] += among.T @ halves[rows]
            sums[rows] += among @ halves[columns]
        for columns in _blocks(len(ref)):
            to_ref[rows] += kernel(gen[rows], ref[columns]).sum(axis=1)

    def shares(rows: np.ndarray, within: np.ndarray) -> np.ndarray:
        influence = 2 * (within / (len(rows) - 1) - to_ref[rows] / len(ref))
        return scaled(influence - influence.mean())

    parts = [np.concatenate(quarters[2 * half : 2 * half + 2]) for half in (0, 1)]
    return Smooth(
        shares=shares(np.arange(num), sums.sum(axis=1)),
        halves=(shares(parts[0], sums[parts[0], 0]), shares(parts[1], sums[parts[1], 1])),
    )


def _blocks(num: int) -> list[slice]:
    return [slice(first, min(first + _ROWS, num)) for first in range(0, num, _ROWS)]


def _variation(sides: Sides) -> Smooth:
    from dataclasses import replace

    import numpy as np

    def cubed(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u.astype(np.float64) @ v.astype(np.float64).T / u.shape[1] + 1) ** 3

    gen, ref = sides.gen.features("pool"), sides.ref.features("pool")
    return replace(kernel_variation(gen, ref, cubed), draws=np.array(kernel_distance(gen=gen, ref=ref).draws))


def _interval(value: float, sides: Sides) -> dict[str, Estimate | str]:
    """Even around the value: the unbiased estimator of a distance that is 0 is negative as often as positive.

    The variance has a closed form: of what each image does, of what is quadratic in the images, and of the subsets that
    were drawn. The quadratic part, which is most of it where the two sets hardly differ, is counted twice as that of a
    Fréchet distance is, for the same reason (see `intervals.frechet_estimates`): taken off once, 90 % of the intervals
    held there. KID has no covariance, so that as few images as it takes have an interval, whatever the dimensions.

    References
    ----------
    Bounliphone et al. 2016 (ICLR), "A Test of Relative Similarity For Model Selection in Generative Models"; Sutherland
    et al. 2017 (ICLR), "Generative Models and Model Criticism via Optimized Maximum Mean Discrepancy", equation 5.
    """
    import math

    from dit_eval.results.eval_result import Estimate

    error = math.sqrt(_variation(sides).spread().all)
    reach = sides.z * error
    return {"kid": Estimate(value=value, standard_error=error, low=value - reach, high=value + reach)}


def _score(sides: Sides) -> Scores:
    found = kernel_distance(gen=sides.gen.features("pool"), ref=sides.ref.features("pool"))
    return Scores(values={"kid": found.mean, "kid_std": found.std})


KID = Metric(
    key="kid",
    name="kid",
    label="KID",
    better="lower",
    digits=6,  # of a good model it is some thousandths
    networks=("inception", "dinov2"),
    by_default=("dinov2",),
    suites=(TORCH_FIDELITY, BETA),
    needs=Needs(
        ref_images=True,
        least_gen=KID_SUBSET_SIZE,
        least_ref=KID_SUBSET_SIZE,
        because=f"KID draws subsets of {KID_SUBSET_SIZE:,}",
    ),
    protocol=f"torch-fidelity: kernel (u.v / D + 1)^3, {KID_SUBSETS} subsets of {KID_SUBSET_SIZE:,}, seed {KID_SEED}",
    details=("kid_std",),
    score=_score,
    interval=_interval,
    variation=_variation,
)
