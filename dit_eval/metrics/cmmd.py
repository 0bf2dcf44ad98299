"""CMMD: maximum mean discrepancy of CLIP embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_eval.metrics.kid import check_features, kernel_variation
from dit_eval.metrics.metric import Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dit_eval.metrics.variation import Variation

_CMMD_GAMMA = 1 / (2 * 10**2)  # a bandwidth of 10
_CMMD_SCALE = 1_000
_ROWS = 2_000  # rows and columns of kernel values in memory at once: 32 MB in float64; no effect on the result


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
    import numpy as np
    import torch

    from dit_eval.system.switches import arithmetic

    check_features(gen=gen, ref=ref)
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    with torch.inference_mode(), arithmetic("fp32", device):
        u, v = (torch.from_numpy(side.astype(np.float64)).to(device) for side in (gen, ref))
        between = _kernel_sum(u, v) / (len(u) * len(v))
        within = sum(_kernel_sum(side, side) / len(side) ** 2 for side in (u, v))
    return _CMMD_SCALE * (within - 2 * between)


def _kernel_sum(u: torch.Tensor, v: torch.Tensor) -> float:
    """Sum of exp(-gamma |u - v|^2) over all pairs of rows, of which those of a set with itself are formed once."""
    import torch

    total = 0.0
    u_norms, v_norms = u.square().sum(1), v.square().sum(1)
    for i in range(0, len(u), _ROWS):
        for j in range(i if u is v else 0, len(v), _ROWS):
            rows, columns = slice(i, i + _ROWS), slice(j, j + _ROWS)
            distances = torch.addmm(u_norms[rows, None] + v_norms[columns], u[rows], v[columns].T, alpha=-2)
            part = float(distances.mul_(-_CMMD_GAMMA).exp_().sum())
            total += 2 * part if u is v and j > i else part
    return total


def _score(sides: Sides) -> Scores:
    found = clip_mmd(gen=sides.gen.features("pool"), ref=sides.ref.features("pool"), device=sides.device)
    return Scores(values={"cmmd": found})


def _variation(sides: Sides) -> Variation:
    import numpy as np

    def gaussian(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        u, v = u.astype(np.float64), v.astype(np.float64)
        squared = np.square(u).sum(axis=1)[:, None] + np.square(v).sum(axis=1) - 2 * u @ v.T
        return _CMMD_SCALE * np.exp(-_CMMD_GAMMA * squared)

    return kernel_variation(sides.gen.features("pool"), sides.ref.features("pool"), gaussian)


def _few_samples(num: int, network: str) -> str:
    return (
        f"{num:,} samples: CMMD counts each image as its own neighbour, which adds the more to it the fewer there are; "
        "compare at equal numbers only."
    )


CMMD = Metric(
    key="cmmd",
    name="cmmd",
    label="CMMD",
    better="lower",
    digits=3,
    networks=("clip",),
    by_default=("clip",),
    needs=Needs(ref_images=True, least_gen=1, least_ref=1, because="CMMD needs at least 1 on each side"),
    protocol="google-research/cmmd: CLIP ViT-L/14-336, Gaussian kernel of bandwidth 10, biased, times 1,000",
    few_samples=_few_samples,
    score=_score,
    variation=_variation,
)
