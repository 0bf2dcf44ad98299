"""What a finding is, and what it is looked for in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from dit_eval.checks.pixels import PixelFacts
from dit_eval.features.network import FeatureExtractor
from dit_eval.images.open import ImageSet
from dit_eval.results.eval_result import EvalResult

Certainty = Literal["certain", "likely", "possible"]
_NUM_SAMPLES, _NUM_REFERENCE = 50_000, 10_000  # of the published protocol
_INCEPTION = (2048, 2023)  # dimensions of ADM's statistics
_SIGMAS = 6.0  # a chance in a thousand million, so that the many things looked at do not add up to a false alarm


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
class Expectation:
    """A published number and the setting it was made with; what its source does not say is not in `setting`.

    Attributes
    ----------
    name, source : what it is called here, where it is printed
    setting : field of `SampleRun` -> value
    metrics : metric -> published value
    num_samples : images it was computed from; None: 50,000, unless the reference is of another network than Inception
    """

    name: str
    source: str
    setting: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    num_samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Case:
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
        return self.ref.pool is None or self.ref.pool.dim == _INCEPTION[0]
