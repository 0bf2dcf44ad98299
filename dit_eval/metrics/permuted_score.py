"""Inception Score of images in a frozen random order, as programs other than ADM's compute it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SPLITS = 10
SEED = 2020  # of the order


@dataclass(frozen=True, kw_only=True)
class PermutedScore:
    """Mean and (population) standard deviation over the splits."""

    mean: float
    std: float


def permuted_inception_score(
    class_probs: np.ndarray, *, drop_rest: bool = False, added_in_logarithms: float = 0.0
) -> PermutedScore:
    """Inception Score of 10 splits of images in the order of ``RandomState(2020).permutation`` (higher is better).

    Classes that follow each other in a folder are mixed by that order, so that class-ordered folders need no care.

    Parameters
    ----------
    class_probs : float (N, K), softmax of the logits without bias, in the order of the files; N is 10 or more
    drop_rest : splits of N // 10 images, and the rest left out; by default split i ends before image (i + 1) N // 10
    added_in_logarithms : to each probability whose logarithm is taken

    Raises
    ------
    ValueError
        If there are fewer images than splits.

    References
    ----------
    Salimans et al. 2016; torch-fidelity 0.4.0 `metric_isc.py`; imeanflow at bf60cd7 `utils/fid_util.py`.
    """
    import numpy as np

    num = len(class_probs)
    if class_probs.ndim != 2 or num < SPLITS:
        raise ValueError(f"Class probabilities of shape {class_probs.shape}: expected (N, K) with N >= {SPLITS}.")
    scores = [
        _split_score(class_probs[rows].astype(np.float64), added_in_logarithms)
        for rows in permuted_splits(num, drop_rest=drop_rest)
    ]
    return PermutedScore(mean=float(np.mean(scores)), std=float(np.std(scores)))


def permuted_splits(num: int, *, drop_rest: bool = False) -> list[np.ndarray]:
    """Rows of each split of so many images; see `permuted_inception_score`."""
    import numpy as np

    order = np.random.RandomState(SEED).permutation(num)  # its stream is frozen
    bounds = [i * (num // SPLITS) if drop_rest else i * num // SPLITS for i in range(SPLITS + 1)]
    return [order[first:last] for first, last in pairwise(bounds)]


def _split_score(probs: np.ndarray, added: float) -> float:
    import numpy as np

    # exp of the mean of sum_k p_k (log p_k - log q_k), with q the mean of p; 0 log 0 = 0
    marginal = probs.mean(axis=0)
    logs = np.log(np.where(probs > 0, probs, 1.0) + added)
    return float(np.exp((probs * (logs - np.log(np.where(marginal > 0, marginal, 1.0) + added))).sum(axis=1).mean()))
