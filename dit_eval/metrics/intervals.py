"""How sure a metric is: standard errors and 95 % intervals from the features of one pass, and FID without its bias.

What varies is the generated images: they are taken for N independent draws from one generator. The reference is held
fixed, as published comparisons hold it fixed, and so are network and weights. An interval is about the expected value
of the metric *at this N*, E[FID-N], which other files of N images of the same generator would have on average. FID-N is
larger than FID of infinitely many images; that difference is not in the interval, but extrapolated beside it.

Samples with balanced labels vary less than independent draws; their intervals are wider than they need be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.metrics import METRICS
from dit_eval.metrics.halves import recall_variation
from dit_eval.metrics.inception_score import SPLIT_SIZE, split_influence
from dit_eval.metrics.influence import FixedReference, check_images, merged, moments
from dit_eval.metrics.metric import Sides, Z
from dit_eval.metrics.variation import LEAST_IMAGES, NoEstimate, random_quarters
from dit_eval.results.eval_result import Estimate, Uncertainty
from dit_eval.summary import GaussianStats

# A standard error of so many times the value: the upper end of an interval on the logarithm is 3e8 times the value.
_LARGEST_ERROR = 10


@dataclass(frozen=True, kw_only=True)
class FrechetEstimates:
    """A Fréchet distance for the number of images at hand, for infinitely many, and for 50,000.

    The latter two are None where a quarter of the images does not span all dimensions.
    """

    here: Estimate
    infinity: Estimate | None
    at_50k: Estimate | None


def estimate_uncertainty(sides: Sides, *, scores: Mapping[str, float | None]) -> Uncertainty:
    """Standard errors, intervals and extrapolations of all metrics that have a value and an estimator.

    Parameters
    ----------
    sides : with all features that the metrics need; gen with spatial features for sFID
    scores : values by the keys of `METRICS`
    """
    estimates: dict[str, Estimate | None] = {}
    missing: dict[str, str] = {}
    for metric in METRICS:
        value = scores.get(metric.key)
        if value is None or metric.interval is None:
            continue
        try:
            found = metric.interval(value, sides)
        except NoEstimate as reason:
            found = {metric.key: str(reason)}
        for name, estimate in found.items():
            if isinstance(estimate, str):
                missing[name] = estimate
            else:
                estimates[name] = estimate
    return Uncertainty(estimates=estimates, missing=missing)


def frechet_influence(features: np.ndarray, *, gen: GaussianStats, ref: GaussianStats) -> np.ndarray:
    """How much each image moves the Fréchet distance of its set: the derivative in its weight, times N.

    With y = x - mu_g it is 2 (mu_g - mu_r).y + y^T (I - M) y N / (N - 1), less the mean over all images. M is the
    derivative of 2 tr((S_g S_r)^(1/2)) in S_g: B (B^T S_g B)^(-1/2) B^T where B B^T = S_r.

    Parameters
    ----------
    features : (N, D), of which `gen` are the statistics
    gen, ref : with `gen.num` known

    Returns
    -------
    float64 (N,), of mean 0, in squared feature units. Their standard deviation over sqrt(N) is, to first order in
    1/N, the standard error of the distance.

    References
    ----------
    Jaeckel 1972, "The infinitesimal jackknife".
    """
    return FixedReference(ref).distance_and_influence(features, gen, np.arange(len(features)))[1]


def frechet_estimates(value: float, *, gen: np.ndarray, ref: GaussianStats, z: float = Z) -> FrechetEstimates:
    """Standard error and interval of a Fréchet distance, and the distance for other numbers of images.

    The distance is a smooth function of mean and covariance, so that one decomposition gives the influence of every
    image, and J = var(influence) / N estimates its variance (the infinitesimal jackknife). It is right to first order
    in 1/N. The quadratic part of the distance, which shows where N is not many times D or where the two sets hardly
    differ, is counted twice (Efron and Stein 1981): J = V1 + 2 V2 in place of V1 + V2. Where it prevails, the standard
    error is up to 1.6 times too large. That is kept, because a variance with V2 taken off comes out smallest just when
    the distance is too small as well, so that intervals of skewed features held in 87 to 96 % of draws. A distance is
    positive and skewed, so that its interval is even on the logarithm.

    The distance of N images is on average a/N + b/N^2 + ... too large. Its means over the two halves and over the four
    quarters of the images give a and b, and so the distance for any number of images (Richardson's extrapolation).
    Chong and Forsyth fit a alone, to 15 random subsets; this takes 7 decompositions and leaves b out as well. The
    extrapolated numbers have variance V1 + c V2, with the c that holds for quadratic functions; the two parts follow
    from J and the same of the halves, which is 2 V1 + 8 V2.

    Parameters
    ----------
    value : the distance as reported
    gen : (N, D) features of the generated images
    ref : statistics of the reference, held fixed
    z : half width of intervals in standard errors

    Returns
    -------
    FrechetEstimates, in squared feature units.

    Raises
    ------
    NoEstimate
        If half of the images does not span all dimensions (N / 2 > D is needed; N / 4 > D for extrapolations): the
        expansion in 1/N, on which all of this rests, does not hold there. Or if the distance is 0, or much smaller than
        its standard error.

    References
    ----------
    Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score and where to find them"; Efron and Stein
    1981, "The jackknife estimate of variance".
    """
    num, dim = gen.shape
    check_images(num, dim)
    if value <= 0:
        raise NoEstimate("the distance is 0: the two sets are the same")
    reference, quarters = FixedReference(ref), random_quarters(num)
    sums = [moments(gen, rows) for rows in quarters]
    halves = [(np.concatenate(quarters[:2]), sums[:2]), (np.concatenate(quarters[2:]), sums[2:])]
    distances, variances = [], []
    for rows, parts in [*halves, (np.arange(num), sums)]:
        distance, influence = reference.distance_and_influence(gen, merged(parts, dim), rows)
        distances.append(distance)
        variances.append(influence.var(ddof=1) / len(rows))
    here = _logarithmic(value, variances[2], z=z)
    if num // 4 <= dim:
        return FrechetEstimates(here=here, infinity=None, at_50k=None)
    # V2 = (J_h / 2 - J) / 2, and neither part is negative.
    quadratic = min(max(((variances[0] + variances[1]) / 4 - variances[2]) / 2, 0.0), variances[2] / 2)
    linear = variances[2] - 2 * quadratic
    of_quarters = [reference.distance(part.finalize()) for part in sums]
    levels = np.array([distances[2], (distances[0] + distances[1]) / 2, np.mean(of_quarters)])

    def at(images: float) -> Estimate:
        # The curve c0 + c1 / N + c2 / N^2 through the three levels, evaluated at 1 / images.
        per_image = np.array([1.0, 2.0, 4.0]) / num
        weights = np.linalg.solve(np.vander(per_image, 3, increasing=True).T, (1 / images) ** np.arange(3))
        whole, half, quarter = weights
        # The quadratic part is |sum of four quarters' noise|^2 at the first level: three kinds of products.
        same, within, across = whole / 16 + half / 8 + quarter / 4, whole / 8 + half / 4, whole / 8
        factor = 64 * same**2 + 16 * within**2 + 32 * across**2
        # Where two sets hardly differ, noise takes the extrapolation below 0, where no distance is: value and interval
        # are cut there alike.
        extrapolated, error = max(float(weights @ levels), 0.0), math.sqrt(linear + factor * quadratic)
        return _around(extrapolated, error, low=extrapolated - z * error, high=extrapolated + z * error, least=0.0)

    return FrechetEstimates(here=here, infinity=at(math.inf), at_50k=at(50_000))


def inception_score_estimate(
    value: float, *, class_probs: np.ndarray, split_size: int = SPLIT_SIZE, z: float = Z
) -> Estimate:
    """Standard error and interval of the Inception Score by ADM's rule.

    The logarithm of a split's score is a mean over images less a function of the mean probabilities, so each image has
    an influence in closed form, as in `frechet_estimates`. Splits are contiguous, and their images are taken for draws
    from what that part of the file shows: a class-ordered file does not get the width of a mixed one.

    The noise of the mean probabilities has a quadratic part, which is counted twice as there: of 480 digits the
    standard error is 5 to 12 % too large, and 96 % of the intervals held. With that part taken off 93 % did, since the
    error is then smallest where the score is largest. Differences are not skewed so, and take it off.

    Parameters
    ----------
    value : the score as reported
    class_probs : (N, K), in file order
    z : as of `frechet_estimates`

    Raises
    ------
    NoEstimate
        If there are fewer than `LEAST_IMAGES` images.
    """
    num = len(class_probs)
    if num < LEAST_IMAGES:
        raise NoEstimate(f"{num} images; needed at least {LEAST_IMAGES}")
    splits = [class_probs[i : i + split_size] for i in range(0, num, split_size)]
    # The score of one image is 1, whatever it is.
    variances = [split_influence(split).var(ddof=1) / len(split) for split in splits if len(split) > 1]
    return _logarithmic(value, float(sum(variances)) / len(splits) ** 2, z=z, least=1.0)


def precision_estimate(value: float, *, num: int, z: float = Z) -> Estimate:
    """Standard error and interval of precision: a share of N images, each inside the fixed manifold or not.

    Binomial; the interval is Wilson's, which holds near 0 and 1 too.

    Parameters
    ----------
    value : the share
    num : N
    z : as of `frechet_estimates`

    Raises
    ------
    NoEstimate
        If there are fewer than `LEAST_IMAGES` images.
    """
    if num < LEAST_IMAGES:
        raise NoEstimate(f"{num} images; needed at least {LEAST_IMAGES}")
    return _wilson(value, math.sqrt(value * (1 - value) / num), num, z)


def recall_estimate(
    value: float,
    *,
    gen: np.ndarray,
    ref: np.ndarray,
    k: int = 3,
    device: str | torch.device = "cpu",
    z: float = Z,
) -> Estimate:
    """Standard error and interval of recall: a share of fixed reference images, in a manifold that varies.

    Another draw of generated images has other balls, of other radii. Two random halves of the images are two
    independent draws of N/2, so that over many bisections the mean of (R_1 - R_2)^2 / 2 is the variance of recall at
    N/2. It has two parts. A reference image is inside or not by chance of its nearest generated images alone, which
    leaves A/M for M reference images however many are generated (a manifold of more, smaller balls is no surer at one
    place); A is the mean over reference images of the variance of their own indicator, over the same halves. The rest
    comes from generated images that decide about several reference images at once. It would fall as 1/N, by half, but
    for those at the edge of the generated set, which stay few and have large balls; from quarters to halves it was seen
    to fall to between 0.52 and 0.64, so 0.6 is taken. A delete-one jackknife gives more than twice the variance: inside
    or not is far from linear in the images.

    Distances are float32, not float16 as those of the reported value may be.

    Parameters
    ----------
    value : recall as reported
    gen, ref : (N, D) and (M, D) features
    k : which neighbour gives the radius
    device : where the distances are computed
    z : as of `frechet_estimates`

    Raises
    ------
    NoEstimate
        If there are fewer than `LEAST_IMAGES` images on a side, or no reference image is inside in one half and
        outside in the other.
    """
    variance = recall_variation(gen=gen, ref=ref, k=k, device=device).spread().all
    if variance == 0 or not 0 < value < 1:
        raise NoEstimate(f"recall is {value:g}: how far it varies does not show in these images")
    return _wilson(value, math.sqrt(variance), value * (1 - value) / variance, z)


def _around(value: float, error: float, *, low: float, high: float, least: float, most: float = math.inf) -> Estimate:
    """An estimate whose interval is cut at the metric's range, and holds the value whatever rounding does to it."""
    low, high = min(max(low, least), value), max(min(high, most), value)
    return Estimate(value=value, standard_error=error, low=low, high=high)


def _logarithmic(value: float, variance: float, *, z: float, least: float = 0.0) -> Estimate:
    """The interval of a positive number, even around its logarithm.

    Raises
    ------
    NoEstimate
        If the number is so much smaller than its standard error that its logarithm has no meaning.
    """
    error = math.sqrt(variance)
    if error > _LARGEST_ERROR * value:
        raise NoEstimate(f"the standard error, {error:.2g}, is many times the value; it hardly differs from 0")
    reach = math.exp(z * error / value)
    return _around(value, error, low=value / reach, high=value * reach, least=least)


def _wilson(share: float, error: float, num: float, z: float) -> Estimate:
    """Wilson's interval of a share that varies as that of `num` independent images."""
    middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return _around(share, error, low=middle - half, high=middle + half, least=0.0, most=1.0)
