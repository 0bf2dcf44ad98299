"""Inception Score by ADM's rule, and the same figure made independent of the order of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_eval.metrics.metric import ADM, Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from dit_eval.metrics.variation import Variation
    from dit_eval.results.eval_result import Estimate

SPLIT_SIZE = 5_000
# Relative gap between the two Inception Scores from which a file counts as class-ordered. Mixed files of two splits
# stay within 0.01 (tests/metrics/test_inception_score.py); class order costs a factor.
_ORDER_TOLERANCE = 0.05


def inception_score(class_probs: np.ndarray, *, split_size: int = SPLIT_SIZE) -> float:
    """Inception Score as ADM computes it (higher is better).

    The file is cut into contiguous splits of `split_size` images in file order, without shuffling; the last may
    be short. The score is the mean over splits of exp(mean KL(p(y|x) || p(y))), with p(y) taken within the split.
    A class-ordered file therefore scores far too low: see `order_free_inception_score`.

    Parameters
    ----------
    class_probs : float (N, K), softmax of the logits without bias, in file order

    Returns
    -------
    float, between 1 and K.

    Raises
    ------
    ValueError
        If there is no image, or a row is not a probability distribution.

    References
    ----------
    Salimans et al. 2016; guided-diffusion `evaluations/evaluator.py`, `compute_inception_score`.
    """
    import numpy as np

    if class_probs.ndim != 2 or len(class_probs) == 0:
        raise ValueError(f"Found class probabilities of shape {class_probs.shape}; needed (N, K) with N >= 1.")
    if not np.allclose(class_probs.sum(axis=1, dtype=np.float64), 1.0, atol=1e-3):
        raise ValueError("Class probabilities must sum to 1 in every row; are these logits?")
    splits = (class_probs[i : i + split_size] for i in range(0, len(class_probs), split_size))
    return float(np.mean([_split_score(split.astype(np.float64)) for split in splits]))


def order_free_inception_score(class_probs: np.ndarray, *, split_size: int = SPLIT_SIZE) -> float:
    """Inception Score with splits that do not depend on the order of the images in the file.

    The rows are brought into a canonical order (by their own values), shuffled by a fixed seed and cut into
    splits of ADM's size, so that the figure compares with `inception_score` of a well-mixed file.

    Parameters and errors as `inception_score`.
    """
    import numpy as np

    negentropy = _xlogx(class_probs.astype(np.float64)).sum(axis=1)
    canonical = np.lexsort((class_probs.max(axis=1), class_probs.argmax(axis=1), negentropy))
    # RandomState, not Generator: its stream is frozen, and a published figure must not change with NumPy.
    shuffle = np.random.RandomState(0).permutation(len(class_probs))
    return inception_score(class_probs[canonical[shuffle]], split_size=split_size)


def split_influence(probs: np.ndarray) -> np.ndarray:
    """How much each image moves the score of its split: the derivative in its weight, times n.

    exp(L) (sum_k p_k log(p_k / pbar_k) - L), with L the mean over the split of that sum: (n,) float64, of mean 0.
    """
    import numpy as np

    probs = probs.astype(np.float64)
    marginal = probs.mean(axis=0)
    divergence = _xlogx(probs).sum(axis=1) - probs @ np.log(np.where(marginal > 0, marginal, 1.0))
    mean = divergence.mean()
    return np.exp(mean) * (divergence - mean)


def score_variation(class_probs: np.ndarray, splits: Sequence[np.ndarray]) -> Variation:
    """What each image does to a mean of the scores of splits, and to that of the same splits with half of the images.

    The marginal of n images is itself a mean: its noise lowers the score by a quadratic part. Where images are sure of
    their classes and classes are even, that is most of what varies, and shares alone say 10 % too much at 480 digits.

    Parameters
    ----------
    class_probs : (N, K)
    splits : rows of each; images of no split do nothing

    Raises
    ------
    NoEstimate
        If there are too few images.
    """
    import numpy as np

    from dit_eval.metrics.variation import LEAST_IMAGES, NoEstimate, Smooth, random_quarters, scaled

    num = len(class_probs)
    if num < LEAST_IMAGES:
        raise NoEstimate(f"{num} images; needed at least {LEAST_IMAGES}")
    whole, first, second = np.zeros(num), np.zeros(num), np.zeros(num)
    for rows in splits:
        quarters = random_quarters(len(rows))
        parts = (rows, rows[np.concatenate(quarters[:2])], rows[np.concatenate(quarters[2:])])
        for shares, part in zip((whole, first, second), parts, strict=True):
            if len(part) > 1:  # the score of one image is 1, whatever it is
                shares[part] = scaled(split_influence(class_probs[part])) / len(splits)
    return Smooth(shares=whole, halves=(first, second))


def _split_score(probs: np.ndarray) -> float:
    import numpy as np

    # mean KL(p || mean p) = mean sum p log p - sum (mean p) log (mean p); 0 log 0 = 0, where ADM's float32 gives NaN
    marginal = probs.mean(axis=0)
    kl = _xlogx(probs).sum(axis=1).mean() - _xlogx(marginal).sum()
    return float(np.exp(kl))


def _xlogx(p: np.ndarray) -> np.ndarray:
    import numpy as np

    return p * np.log(np.where(p > 0, p, 1.0))


def _score(sides: Sides) -> Scores:
    """ADM's figure and the order-free one; a warning if the file's order alone accounts for the difference."""
    probs = sides.gen.probabilities()
    score, order_free = inception_score(probs), order_free_inception_score(probs)
    values = {"inception_score": score, "inception_score_order_free": order_free}
    if len(probs) <= SPLIT_SIZE or score >= order_free * (1 - _ORDER_TOLERANCE):
        return Scores(values=values)
    labels = sides.gen_labels
    by_label = " (its labels are sorted)" if labels is not None and (labels[1:] >= labels[:-1]).all() else ""
    warning = (
        f"the file looks class-ordered{by_label}: ADM's Inception Score takes contiguous splits of {SPLIT_SIZE:,} and "
        f"gives {score:.2f}; in mixed order it is {order_free:.2f}. Shuffle the file before you publish it."
    )
    return Scores(values=values, warnings=(warning,))


def _interval(value: float, sides: Sides) -> dict[str, Estimate | str]:
    from dit_eval.metrics.intervals import inception_score_estimate

    return {"inception_score": inception_score_estimate(value, class_probs=sides.gen.probabilities(), z=sides.z)}


def _variation(sides: Sides) -> Variation:
    import numpy as np

    probs = sides.gen.probabilities()
    return score_variation(probs, np.split(np.arange(len(probs)), range(SPLIT_SIZE, len(probs), SPLIT_SIZE)))


INCEPTION_SCORE = Metric(
    key="inception_score",
    name="is",
    label="Inception Score",
    short="IS",
    better="higher",
    networks=("inception",),
    by_default=("inception",),
    suites=(ADM,),
    needs=Needs(class_probs=True),
    details=("inception_score_order_free",),
    other_names=("inception_score", "isc"),
    score=_score,
    interval=_interval,
    variation=_variation,
)
