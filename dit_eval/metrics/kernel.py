"""Maximum mean discrepancies: KID (cubic kernel, in subsets) and CMMD (Gaussian kernel, all images at once)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.system.switches import arithmetic

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1_000
KID_SEED = 2020  # of the draws: torch-fidelity's default

_CMMD_GAMMA = 1 / (2 * 10**2)  # a bandwidth of 10
_CMMD_SCALE = 1_000
_ROWS = 2_000  # rows and columns of kernel values in memory at once: 32 MB in float64; no effect on the result


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
    from torch_fidelity.metric_kid import kernel_mmd

    _check(gen=gen, ref=ref)
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


def clip_mmd(*, gen: np.ndarray, ref: np.ndarray, device: str | torch.device = "cpu") -> float:
    """CMMD: squared maximum mean discrepancy of CLIP embeddings, times 1,000 (lower is better).

    Gaussian kernel exp(-|u - v|^2 / (2 10^2)); the biased estimator, in which each image also meets itself. All kernel
    values lie near 1 and the distance is what is left of their means, so that float32, in which the original computes,
    keeps four digits or fewer of it; here it is float64.

    Parameters
    ----------
    gen, ref : embeddings of length 1 of the generated (N, D) and of the reference set (M, D)
    device : where the kernel values are computed; one without float64 gives way to the CPU

    Raises
    ------
    ValueError
        If the dimensions differ, a side is empty, or features are not finite.

    References
    ----------
    Jayasumana et al. 2024 (CVPR); google-research `cmmd/distance.py`.
    """
    _check(gen=gen, ref=ref)
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    with torch.inference_mode(), arithmetic("fp32", device):
        u, v = (torch.from_numpy(side.astype(np.float64)).to(device) for side in (gen, ref))
        between = _kernel_sum(u, v) / (len(u) * len(v))
        within = sum(_kernel_sum(side, side) / len(side) ** 2 for side in (u, v))
    return _CMMD_SCALE * (within - 2 * between)


def _kernel_sum(u: torch.Tensor, v: torch.Tensor) -> float:
    """Sum of exp(-gamma |u - v|^2) over all pairs of rows, of which those of a set with itself are formed once."""
    total = 0.0
    u_norms, v_norms = u.square().sum(1), v.square().sum(1)
    for i in range(0, len(u), _ROWS):
        for j in range(i if u is v else 0, len(v), _ROWS):
            rows, columns = slice(i, i + _ROWS), slice(j, j + _ROWS)
            distances = torch.addmm(u_norms[rows, None] + v_norms[columns], u[rows], v[columns].T, alpha=-2)
            part = float(distances.mul_(-_CMMD_GAMMA).exp_().sum())
            total += 2 * part if u is v and j > i else part
    return total


def _check(**sides: np.ndarray) -> None:
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
