"""How a metric varies over draws of as many images, kept so that the difference of two sets can be told from it.

Where image i of two sets comes from the same noise and label, what it does to the one metric it largely does to the
other, and the difference varies less than two metrics do. So what is kept is not a variance but what each image does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

LEAST_IMAGES = 50  # for fewer, the normal approximation has no meaning
_SHARED = 0.6  # what is left of the shared part of recall's variance when N doubles
# The same of pairs, where what remains is more of the few images at the edge: 0.77 to 0.9 from 240 to 480 images.
_SHARED_OF_PAIRS = 0.8


MOST_HOLDERS = 8
# Of n holders: (-1)^(n + 1), times the chance that a fair coin falls heads n times or more in 8 throws.
_HEADS = [math.comb(MOST_HOLDERS, heads) / 2**MOST_HOLDERS for heads in range(MOST_HOLDERS + 1)]
_EULER = np.array([0.0, *((-1) ** (n + 1) * sum(_HEADS[n:]) for n in range(1, MOST_HOLDERS + 1))])


class NoEstimate(ValueError):
    """These images do not tell how sure the metric is; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Variance of a metric, or of a difference of two.

    Attributes
    ----------
    all : the variance at this number of images
    fixed : the part of it that more generated images do not take away
    """

    all: float
    fixed: float = 0.0


class Variation(Protocol):
    """What the images of a set do to a metric."""

    def of_difference(self, other: Self, *, paired: bool) -> Spread:
        """The variance of the difference of two sets of as many images.

        Parameters
        ----------
        paired : whether image i of both sets comes from the same draw
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """Of a metric that is nearly a sum over images.

    A smooth function of means varies by its linear part, V1, and where N is not many times the number of dimensions
    also by its quadratic part, V2. The sum of squares of the shares estimates V1 + 2 V2; over halves of the images it
    estimates 2 V1 + 8 V2 (Efron and Stein 1981). So V2 can be taken off. A difference is not positive and not skewed as
    one distance is, and its interval does not need the margin that counting V2 twice gives.

    Attributes
    ----------
    shares : (N,) how much of the metric's deviation from its expected value each image is, up to a constant
    halves : the same of two random halves, which are those of any set of as many images; None of a linear metric
    draws : (R,) values of random subsets, the same of any two sets, where the metric is their mean
    """

    shares: np.ndarray
    halves: tuple[np.ndarray, np.ndarray] | None = None
    draws: np.ndarray | None = None

    def spread(self) -> Spread:
        """The variance of the metric itself, for an interval: V1 + 2 V2, as the shares say."""
        fixed = 0.0 if self.draws is None else float(np.var(self.draws, ddof=1)) / len(self.draws)
        return Spread(all=float(np.square(self.shares).sum()) + fixed, fixed=fixed)

    def of_difference(self, other: Self, *, paired: bool) -> Spread:
        """As of `Variation`."""
        variance = _squares(self.shares, other.shares, paired)
        if self.halves is not None and other.halves is not None:
            of_half = sum(_squares(a, b, paired) for a, b in zip(self.halves, other.halves, strict=True)) / 2
            variance -= min(max((of_half / 2 - variance) / 2, 0.0), variance / 2)  # neither part is negative
        fixed = 0.0
        if self.draws is not None and other.draws is not None:
            fixed = float(np.var(self.draws - other.draws, ddof=1)) / len(self.draws)
        return Spread(all=variance + fixed, fixed=fixed)


@dataclass(frozen=True, kw_only=True)
class Members:
    """Of a share of the images that are inside something fixed.

    A pair of images is added of which one is inside, and half of one where pairs differ (Agresti and Caffo 2000,
    Agresti and Min 2005): no variation among these images is no certainty.

    Attributes
    ----------
    inside : bool (N,)
    """

    inside: np.ndarray

    def of_difference(self, other: Self, *, paired: bool) -> Spread:
        """As of `Variation`."""
        num = len(self.inside) + 2
        if not paired:
            shares = [(float(side.sum()) + 1) / num for side in (self.inside, other.inside)]
            return Spread(all=sum(share * (1 - share) for share in shares) / num)
        gained = float((self.inside & ~other.inside).sum()) + 0.5
        lost = float((~self.inside & other.inside).sum()) + 0.5
        return Spread(all=((gained + lost) - (gained - lost) ** 2 / num) / num**2)


@dataclass(frozen=True, kw_only=True)
class Halved:
    """Of a share of fixed images that are inside something which varies, from random halves of the images.

    Attributes
    ----------
    moves : int8 (H, M); 1 where a fixed image is inside in the first half alone, -1 in the second alone
    """

    moves: np.ndarray

    def spread(self, shared: float = _SHARED) -> Spread:
        """The variance of the share itself; see `intervals.recall_estimate`.

        Parameters
        ----------
        shared : what is left of the shared part when N doubles
        """
        total = float(np.square(self.moves.mean(axis=1)).mean()) / 2
        own = float(np.square(self.moves, dtype=np.int16).mean()) / 2 / self.moves.shape[1]
        return Spread(all=own + shared * max(total - own, 0.0), fixed=own)

    def of_difference(self, other: Self, *, paired: bool) -> Spread:
        """As of `Variation`."""
        if paired:
            return Halved(moves=self.moves - other.moves).spread(_SHARED_OF_PAIRS)
        mine, theirs = self.spread(), other.spread()
        return Spread(all=mine.all + theirs.all, fixed=mine.fixed + theirs.fixed)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Of a share of fixed balls in which there is at least one image.

    Two balls that are empty by chance vary together by the images that both would hold. Where a and b images are in one
    of them alone and c in both, of means A, B and C over draws, the covariance is e^-(A + B + C) (1 - e^-C), and
    [a = b = 0] (-1)^(c + 1) [c > 0] estimates it without bias: of all pairs of balls, those that hold the same images
    count, positive for an odd number of them (a Good-Toulmin series). Its far terms are mostly noise, and are damped by
    an Euler transformation (Efron and Thisted 1976). The first term alone is the delete-one jackknife, of which the
    variance is up to several times too large. As the number of images is fixed, what it would add is taken off.

    The series may end at 0 or below by chance, and that is no certainty: the variance is no less than if balls that
    hold images of one set alone did so one by one, as of `Members`, or than that of one ball where sets are not paired.

    Attributes
    ----------
    holders : int32 (M, `MOST_HOLDERS`); the images in each ball, ascending, then -1; of balls that hold more, all -1
    covered : bool (M,); which balls hold any
    num : of images
    """

    holders: np.ndarray
    covered: np.ndarray
    num: int

    def of_difference(self, other: Self, *, paired: bool) -> Spread:
        """As of `Variation`."""
        if not paired:
            return Spread(all=self._alone() + other._alone())
        signs = np.repeat([1.0, -1.0], [len(self.holders), len(other.holders)])
        found = self._variance(np.concatenate([self.holders, other.holders]), signs)
        least = Members(inside=self.covered).of_difference(Members(inside=other.covered), paired=True)
        return Spread(all=max(found, least.all))

    def _alone(self) -> float:
        return max(self._variance(self.holders, np.ones(len(self.holders))), 1 / len(self.holders) ** 2)

    def _variance(self, holders: np.ndarray, signs: np.ndarray) -> float:
        sets, which = np.unique(holders, axis=0, return_inverse=True)
        balls = np.bincount(which.ravel(), weights=signs, minlength=len(sets))  # that hold this set of images
        count = (sets >= 0).sum(axis=1)
        total = float(_EULER[count] @ np.square(balls)) - float(balls[count == 1].sum()) ** 2 / self.num
        return total / len(self.holders) ** 2


def scaled(influence: np.ndarray) -> np.ndarray:
    """Shares (N,) from an influence of mean 0: the sum of their squares is var(influence, ddof=1) / N."""
    num = len(influence)
    return influence / np.sqrt(num * (num - 1.0))


def random_quarters(num: int) -> list[np.ndarray]:
    """Four random parts of so many images, of which the first two are a half; rows ascending, the same in any run."""
    # RandomState, not Generator: its stream is frozen, and a published figure must not change with NumPy.
    return [np.sort(rows) for rows in np.array_split(np.random.RandomState(0).permutation(num), 4)]


def _squares(one: np.ndarray, other: np.ndarray, paired: bool) -> float:
    if paired:
        return float(np.square(one - other).sum())
    return float(np.square(one).sum() + np.square(other).sum())
