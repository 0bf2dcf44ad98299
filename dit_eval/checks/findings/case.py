"""What a finding is, and what it is looked for in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dit_eval.checks.expectation import Expectation
from dit_eval.checks.pixels import PixelFacts
from dit_eval.features.network import FeatureExtractor
from dit_eval.images import ImageSet
from dit_eval.results.eval_result import EvalResult

Certainty = Literal["certain", "likely", "possible"]
INCEPTION_DIM = 2048  # of ADM's statistics of pool features
SIGMAS = 6.0  # a chance in a thousand million, so that the many things looked at do not add up to a false alarm


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a damage did to each metric on a test set, measured.

    Attributes
    ----------
    damage : how much of it, in words
    network, images : which features, and of what images
    before, after : metric -> value on the sound set and on the damaged one
    """

    damage: str
    network: str
    images: str
    before: dict[str, float]
    after: dict[str, float]

    @property
    def size(self) -> float:
        """The largest change of a metric, as |log(after / before)|; values near 0 count as 0.01."""
        pairs = ((self.before[m], self.after[m]) for m in self.after)
        return max((abs(math.log(max(b, 0.01) / max(a, 0.01))) for a, b in pairs), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One likely cause of a number that is off.

    Attributes
    ----------
    id : a fixed name
    certainty : "certain" (seen as such), "likely" or "possible" (something else could look the same)
    found : what was seen, with numbers
    advice : what to do
    share : of the images concerned; 1 where it is not a matter of single images
    effects : of this damage, as measured; empty where it was not
    explains : ids that are consequences of this one and are not reported beside it
    """

    id: str
    certainty: Certainty
    found: str
    advice: str
    share: float = 1.0
    effects: tuple[Effect, ...] = ()
    explains: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a look at a case has seen; with the id and the effects of its cause, it is a `Finding`.

    Attributes
    ----------
    certainty, found, advice, share : see `Finding`
    """

    certainty: Certainty
    found: str
    advice: str
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What findings are looked for in.

    Attributes
    ----------
    gen, ref : the two sets
    own, reference : facts about the pixels of gen, and of ref where it holds images
    expect : what the number is compared with
    result : the evaluation of these samples
    extractor : the network that the statistics of ref should be of
    """

    gen: ImageSet
    ref: ImageSet
    own: PixelFacts
    reference: PixelFacts | None
    expect: Expectation | None
    result: EvalResult | None
    extractor: FeatureExtractor | None

    @property
    def published(self) -> bool:
        """Whether the number is compared with a published one, of ADM's protocol, and not with one of the user's."""
        return self.expect is not None and bool(self.expect.setting)

    @property
    def of_inception(self) -> bool:
        """Whether the published protocol is meant: not with statistics of another network, such as digits."""
        return self.ref.pool is None or self.ref.pool.dim == INCEPTION_DIM


@dataclass(frozen=True, kw_only=True)
class Cause:
    """All that is known of one possible cause of a number that is off; `FINDINGS` has them in order.

    Attributes
    ----------
    id : its name: in the output, in `explains` and in the measured effects
    title : what it is, in a few words
    look : yields what is seen of it in a case, most often nothing or one thing
    explains : ids of its consequences, which are not reported beside it
    """

    id: str
    title: str
    look: Callable[[Case], Iterator[Seen]]
    explains: tuple[str, ...] = ()
