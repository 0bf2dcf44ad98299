"""Density and coverage: precision and recall of Naeem et al., by the rule of their program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dit_eval.metrics.metric import Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dit_eval.metrics.variation import Variation

NEIGHBOURS = 5
# A normal interval of coverage takes so many balls with an image, and as many without one: where 5 to 17 of 300 or 400
# had none, 70 to 85 % of the intervals of differences held, where 21 or more had none 92 to 97 %.
_LEAST_BALLS = 30
_ROWS, _COLUMNS = 1_000, 4_000  # distances in memory at once: 32 MB in float64; no effect on the result


@dataclass(frozen=True, kw_only=True)
class DensityCoverage:
    """Density and coverage of generated features.

    Attributes
    ----------
    density : mean number of reference balls that a generated image lies in, over k; above 1 where gen crowds together
        in dense parts of ref
    coverage : share of the reference images with a generated image in their ball, 0 to 1
    covered : the count behind the coverage
    balls : int64 (N,), the number of reference balls that each generated image lies in
    """

    density: float
    coverage: float
    covered: int
    balls: np.ndarray = field(repr=False, compare=False)


def density_coverage(
    *, gen: np.ndarray, ref: np.ndarray, k: int = NEIGHBOURS, device: str | torch.device = "cpu"
) -> DensityCoverage:
    """Density and coverage of generated features in the manifold of the reference (higher is better).

    A ball around each reference image reaches to its k-th nearest neighbour in the reference (itself not counted).
    Balls are open: an image whose distance equals the radius is outside. Distances are formed in float64 and compared
    in float32, as scikit-learn hands them to the authors' program.

    Parameters
    ----------
    gen, ref : features of the generated (N, D) and of the reference set (M, D), float32 (other types are converted)
    k : which neighbour gives the radius
    device : where the distances are computed; one without float64 gives way to the CPU

    Raises
    ------
    ValueError
        If the dimensions differ, gen is empty, ref has fewer than k + 1 images, features are not finite, or k < 1.

    References
    ----------
    Naeem et al. 2020 (ICML), equations 5 and 6; clovaai/generative-evaluation-prdc `prdc.py`.
    """
    import torch

    from dit_eval.system.switches import arithmetic

    if k < 1:
        raise ValueError(f"k={k} gives no neighbour: pass k >= 1 (the published protocol uses 5).")
    gen, ref = _checked(gen, "gen", 1), _checked(ref, "ref", k + 1)
    if gen.shape[1] != ref.shape[1]:
        raise ValueError(
            f"gen has {gen.shape[1]:,} feature dimensions, ref has {ref.shape[1]:,}; both need the same. "
            "Extract both with the same network and layer."
        )
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    with torch.inference_mode(), arithmetic("fp32", device):
        balls, covered = torch.zeros(len(gen), dtype=torch.int64, device=device), 0
        columns = _blocks(len(gen), _COLUMNS)
        for rows in _blocks(len(ref), _ROWS):
            radii = _radii(ref, rows, k, device)
            nearest = torch.zeros(len(radii), dtype=torch.bool, device=device)
            for part in columns:
                within = _distances(ref[rows], gen[part], device) < radii[:, None]  # (rows, columns)
                balls[part] += within.sum(0)
                nearest |= within.any(1)
            covered += int(nearest.sum())
    density = int(balls.sum()) / (k * len(gen))
    return DensityCoverage(density=density, coverage=covered / len(ref), covered=covered, balls=balls.cpu().numpy())


def _radii(ref: np.ndarray, rows: slice, k: int, device: torch.device) -> torch.Tensor:
    """Distance of some rows (R,) to their k-th nearest neighbour in the whole set, float32."""
    import torch

    near = torch.full((rows.stop - rows.start, k + 1), torch.inf, device=device)  # the row itself is one of them
    for part in _blocks(len(ref), _COLUMNS):
        distances = _distances(ref[rows], ref[part], device)
        first, last = max(rows.start, part.start), min(rows.stop, part.stop)
        itself = torch.arange(first, max(first, last), device=device)  # none where the blocks have no row in common
        distances[itself - rows.start, itself - part.start] = 0
        near = torch.cat([near, distances], dim=1).topk(k + 1, dim=1, largest=False).values
    return near[:, k]


def _distances(u: np.ndarray, v: np.ndarray, device: torch.device) -> torch.Tensor:
    """Euclidean distances (U, V) float32; their squares are formed in float64 and rounded."""
    import numpy as np
    import torch

    left, right = (torch.from_numpy(side.astype(np.float64)).to(device) for side in (u, v))
    squares = torch.addmm(left.square().sum(1)[:, None] + right.square().sum(1), left, right.T, alpha=-2)
    return squares.float().clamp_min_(0).sqrt_()


def _blocks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _checked(features: np.ndarray, role: str, least: int) -> np.ndarray:
    import numpy as np

    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 2 or len(features) < least:
        raise ValueError(f"{role} has shape {features.shape}; needed (images, features) with at least {least} images.")
    if not np.isfinite(features).all():
        raise ValueError(f"{role} holds NaN or infinity; all features must be finite. Check the images and weights.")
    return features


def _score(sides: Sides) -> Scores:
    found = density_coverage(gen=sides.gen.features("pool"), ref=sides.ref.features("pool"), device=sides.device)
    return Scores(values={"density": found.density, "coverage": found.coverage})


def _density_variation(sides: Sides) -> Variation:
    from dit_eval.metrics.variation import LEAST_IMAGES, NoEstimate, Smooth, scaled

    gen = sides.gen.features("pool")
    if len(gen) < LEAST_IMAGES:
        raise NoEstimate(f"{len(gen)} images; needed at least {LEAST_IMAGES}")
    balls = density_coverage(gen=gen, ref=sides.ref.features("pool"), device=sides.device).balls / NEIGHBOURS
    return Smooth(shares=scaled(balls - balls.mean()))


def holders(*, gen: np.ndarray, ref: np.ndarray, device: str | torch.device = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """The generated images in the ball of each reference image, by the rule of `density_coverage`.

    Returns
    -------
    int32 (M, `MOST_HOLDERS`), ascending, then -1; of balls that hold more, all -1. And which balls hold any, bool (M,).
    """
    import numpy as np
    import torch

    from dit_eval.metrics.variation import MOST_HOLDERS
    from dit_eval.system.switches import arithmetic

    gen, ref = _checked(gen, "gen", 1), _checked(ref, "ref", NEIGHBOURS + 1)
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    found, covered = np.full((len(ref), MOST_HOLDERS), -1, np.int32), np.zeros(len(ref), bool)
    with torch.inference_mode(), arithmetic("fp32", device):
        for rows in _blocks(len(ref), _ROWS):
            radii = _radii(ref, rows, NEIGHBOURS, device)[:, None]
            within = [_distances(ref[rows], gen[part], device) < radii for part in _blocks(len(gen), _COLUMNS)]
            inside = torch.cat(within, dim=1)
            covered[rows] = inside.any(1).cpu().numpy()
            inside &= (inside.sum(1) <= MOST_HOLDERS)[:, None]
            balls, images = (each.cpu().numpy() for each in inside.nonzero(as_tuple=True))  # ascending
            place = np.arange(len(balls)) - np.searchsorted(balls, balls)
            found[rows.start + balls, place] = images
    return found, covered


def _coverage_variation(sides: Sides) -> Variation:
    from dit_eval.metrics.variation import LEAST_IMAGES, Held, NoEstimate

    gen, ref = sides.gen.features("pool"), sides.ref.features("pool")
    if len(gen) < LEAST_IMAGES:
        raise NoEstimate(f"{len(gen)} images; needed at least {LEAST_IMAGES}")
    held, covered = holders(gen=gen, ref=ref, device=sides.device)
    if min(covered.sum(), (~covered).sum()) < _LEAST_BALLS:
        raise NoEstimate(
            f"{covered.sum():,} of {len(ref):,} reference images are covered; how far that varies shows where "
            f"{_LEAST_BALLS} are, and as many are not"
        )
    return Held(holders=held, covered=covered, num=len(gen))


_NEEDS = Needs(
    ref_images=True, least_ref=NEIGHBOURS + 1, because=f"density and coverage need at least {NEIGHBOURS + 1}"
)
DENSITY = Metric(
    key="density",
    name="density",
    label="Density",
    better="higher",
    digits=3,
    networks=("inception", "dinov2"),
    by_default=("dinov2",),
    needs=_NEEDS,
    protocol=f"prdc: k = {NEIGHBOURS}",
    score=_score,
    variation=_density_variation,
)
COVERAGE = Metric(
    key="coverage",
    name="coverage",
    label="Coverage",
    better="higher",
    digits=3,
    networks=("inception", "dinov2"),
    by_default=("dinov2",),
    needs=_NEEDS,
    protocol=f"prdc: k = {NEIGHBOURS}",
    score=_score,
    variation=_coverage_variation,
)
