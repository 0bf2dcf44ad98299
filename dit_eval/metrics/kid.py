"""KID: kernel distance of Inception features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dit_eval.metrics.metric import BETA, TORCH_FIDELITY, Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    import numpy as np

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1_000
KID_SEED = 2020  # of the draws: torch-fidelity's default


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """Mean and standard deviation over the subsets; the mean may be a little below 0 where two sets hardly differ."""

    mean: float
    std: float


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
    return KernelDistance(mean=float(np.mean(distances)), std=float(np.std(distances)))


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
)
