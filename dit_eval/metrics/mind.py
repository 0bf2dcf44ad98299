"""MIND: Monge Inception distance, between sorted projections of Inception features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_eval.metrics.kid import check_features
from dit_eval.metrics.metric import Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    import numpy as np
    import torch

MIND_DIRECTIONS = 1_000
MIND_SEED = 2020  # of the draws: torch-fidelity's default
_AT_ONCE = 100  # directions whose projections are in memory
_ROWS = 8_192  # of features that are projected at once


def monge_inception_distance(
    *,
    gen: np.ndarray,
    ref: np.ndarray,
    num_directions: int = MIND_DIRECTIONS,
    seed: int = MIND_SEED,
    device: str = "cpu",
) -> float:
    """MIND: 3 D times the mean squared difference of sorted projections on random directions (lower is better).

    An estimate of the sliced 2-Wasserstein distance. The larger side is cut to as many images as the smaller has, at
    random. Computed in float64; torch-fidelity's float32 agrees to some 1e-7.

    Parameters
    ----------
    gen, ref : features of the generated (N, D) and of the reference set (M, D), any float type
    num_directions : unit vectors in D dimensions, drawn as normal vectors
    seed : of the draws
    device : where PyTorch computes

    Raises
    ------
    ValueError
        If the dimensions differ, a side is empty, or features are not finite.

    References
    ----------
    Berthet et al. 2026, arXiv 2605.06797; torch-fidelity `metric_mind.py` at 5e211a9.
    """
    import torch

    check_features(gen=gen, ref=ref)
    draws = torch.Generator().manual_seed(seed)
    num = min(len(gen), len(ref))
    # As torch-fidelity draws: the images of its first input, of its second, then the directions.
    sides = [side[torch.randperm(len(side), generator=draws)[:num]] if len(side) > num else side for side in (gen, ref)]
    directions = torch.randn(num_directions, gen.shape[1], generator=draws)
    directions = (directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)).to(device, torch.float64)
    total = 0.0
    for some in directions.split(_AT_ONCE):
        projected = [_projections(side, some).sort(dim=0).values for side in sides]
        total += float((projected[0] - projected[1]).square().mean(dim=0).sum())
    return 3 * gen.shape[1] * total / num_directions


def _projections(features: np.ndarray, directions: torch.Tensor) -> torch.Tensor:
    """Float64 (N, directions)."""
    import torch

    rows = (torch.from_numpy(features[first : first + _ROWS]) for first in range(0, len(features), _ROWS))
    return torch.cat([each.to(directions) @ directions.T for each in rows])


def _score(sides: Sides) -> Scores:
    gen, ref = sides.gen.features("pool"), sides.ref.features("pool")
    return Scores(values={"mind": monge_inception_distance(gen=gen, ref=ref, device=sides.device)})


MIND = Metric(
    key="mind",
    name="mind",
    label="MIND",
    better="lower",
    digits=4,
    networks=("inception",),
    by_default=(),
    needs=Needs(ref_images=True, least_gen=2, least_ref=2, because="MIND compares sorted projections of at least 2"),
    protocol=f"torch-fidelity 5e211a9: {MIND_DIRECTIONS:,} directions, seed {MIND_SEED}, as many images of each side",
    score=_score,
)
