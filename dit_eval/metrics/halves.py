"""Recall of random halves of the generated images; `intervals.recall_estimate` says what they tell and why."""

from __future__ import annotations

import numpy as np
import torch

from dit_eval.metrics.variation import LEAST_IMAGES, Halved, NoEstimate
from dit_eval.system.switches import arithmetic

_DISTANCES = 2**25  # of a block, 128 MiB
_BISECTIONS = 200  # of which the standard error of recall has about 5 % of noise itself
# At least three of so many nearest neighbours are in the same random half, but for one row in ten million.
_NEIGHBOURS = 32
# Balls around a reference image that are looked at. If all of them hold it, one is in either half for sure.
_BALLS = 64
_LEAST = 1e-30  # of the largest squared radius, in place of 0: nothing else is so near, and quotients by it are float32


def recall_variation(*, gen: np.ndarray, ref: np.ndarray, k: int = 3, device: str | torch.device = "cpu") -> Halved:
    """Which reference images are inside the manifold of one random half of the images and not of the other.

    Neighbours are found once; radii in every half, and the balls of a half around a reference image, are picked from
    lists. Distances are float32. The bisections are the same for all sets of as many images.

    Parameters
    ----------
    gen, ref : (N, D) and (M, D) features
    k : which neighbour gives the radius
    device : where the distances are computed

    Raises
    ------
    NoEstimate
        If there are fewer than `LEAST_IMAGES` images on a side.
    """
    if min(len(gen), len(ref)) < LEAST_IMAGES:
        raise NoEstimate(f"{len(gen)} generated and {len(ref)} reference images; needed at least {LEAST_IMAGES}")
    center = ref.mean(axis=0, dtype=np.float64).astype(np.float32)  # small norms keep float32 distances exact
    gen_rows, ref_rows = (torch.from_numpy(rows - center).to(device) for rows in (gen, ref))
    near, near_at = _nearest(gen_rows, gen_rows, torch.ones(len(gen), device=device), _NEIGHBOURS, own=True)
    radii = near[:, k - 1].clip(min=max(_LEAST * near.max(), np.finfo(np.float32).tiny))
    held, held_at = _nearest(ref_rows, gen_rows, torch.from_numpy(radii).to(device), _BALLS)
    random = np.random.RandomState(0)
    moves = np.empty((_BISECTIONS, len(ref)), np.int8)
    for moved in moves:
        side = np.zeros(len(gen), bool)
        side[random.permutation(len(gen))[: len(gen) // 2]] = True
        # The k-th of a row's neighbours that is in the row's half; the farthest known if there are too few.
        count = np.cumsum(side[near_at] == side[:, None], axis=1)
        place = np.where(count[:, -1] >= k, (count >= k).argmax(axis=1), near.shape[1] - 1)
        growth = np.take_along_axis(near, place[:, None], axis=1)[:, 0] / radii
        inside, first = held <= growth[held_at], side[held_at]
        moved[:] = (inside & first).any(axis=1).astype(np.int8) - (inside & ~first).any(axis=1)
    return Halved(moves=moves)


def _nearest(
    rows: torch.Tensor, centers: torch.Tensor, radii: torch.Tensor, count: int, *, own: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest squared distances of each row to the centers, in units of the centers' squared radii, ascending.

    Parameters
    ----------
    rows, centers : float32 (R, D), (C, D)
    radii : squared radii (C,)
    count : how many of each row; all, if there are fewer
    own : rows are the centers, and a row's distance to itself does not count

    Returns
    -------
    float32 (R, count), and which centers they belong to, int64 (R, count).
    """
    count = min(count, len(centers) - own)
    distances, places = np.empty((len(rows), count), np.float32), np.empty((len(rows), count), np.int64)
    norms = centers.square().sum(1)
    step = max(1, _DISTANCES // len(centers))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        with arithmetic("fp32", rows.device):
            squared = torch.addmm(norms, chunk, centers.T, alpha=-2).add_(chunk.square().sum(1)[:, None]).clamp_(min=0)
        squared /= radii
        if own:
            squared[torch.arange(len(chunk)), start + torch.arange(len(chunk))] = torch.inf
        found = squared.topk(count, dim=1, largest=False)
        distances[start : start + step], places[start : start + step] = found.values.cpu(), found.indices.cpu()
    return distances, places
