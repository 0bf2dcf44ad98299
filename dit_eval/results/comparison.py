"""`Comparison`: which of several sets of samples is better by each metric, and how sure that is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from dit_eval.results.eval_result import EvalResult
from dit_eval.results.looking import Looking
from dit_eval.results.parse import json_text

# How differences are estimated; another estimator is another text.
METHOD = (
    "influence functions less their quadratic part, discordant images, bisections, and balls of the same images; "
    "normal intervals, 2026-11"
)
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Whether image i of two sets comes from the same draw, and why that is thought.

    Attributes
    ----------
    a, b : places of the two sets in `Comparison.results`
    same : whether both are the same images, so that a paired difference is 0 for sure
    """

    a: int
    b: int
    paired: bool
    reason: str
    same: bool = False

    @property
    def word(self) -> Literal["paired", "unpaired"]:
        """As differences have it."""
        return "paired" if self.paired else "unpaired"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric of one set less that of another.

    Attributes
    ----------
    metric : its key
    a, b : places of the two sets in `Comparison.results`
    num_images : N of either set, which belongs to the name of a distance
    pairing : whether image i of both was taken for the same draw
    value : of a less that of b
    standard_error : of the value over draws of as many images, with the reference held fixed
    low, high : ends of the 95 % interval, of this difference alone; of the level of the look where there are several
    p_value : two-sided, that such a difference or a larger one is chance
    p_corrected : the same by Holm's correction over the pairs of this metric; the verdict goes by it
    verdict : of a, against b; None where there is no estimate
    images_to_decide : of either set, with which such a difference would be found four times in five; None if no number
        of images would do, or more than 10 million
    variance_ratio : variance of the difference of independent sets over that of these pairs; None where they
        are not paired
    missing : why there is no estimate
    method : version of the estimators
    """

    metric: str
    a: int
    b: int
    num_images: int
    pairing: Literal["paired", "unpaired"]
    value: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    verdict: Verdict | None = None
    images_to_decide: int | None = None
    variance_ratio: float | None = None
    missing: str | None = None
    method: str = METHOD


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Sets of samples against one reference, and against each other.

    Attributes
    ----------
    results : of each set, in the order given
    pairings : of each pair of sets, in the order of the differences
    differences : of every metric and pair
    correction : for many pairs, in words
    notes : what a reader should know
    looking : where the run was to stop when it is decided
    """

    results: tuple[EvalResult, ...]
    pairings: tuple[Pairing, ...]
    differences: tuple[Difference, ...]
    correction: str
    notes: tuple[str, ...] = ()
    looking: Looking | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text()

    @property
    def decided(self) -> bool:
        """Whether each difference that has an estimate has a verdict."""
        return all(each.verdict != "undecided" for each in self.differences)

    def text(self) -> str:
        """As `dit-eval compare` prints it, without the newline at the end."""
        from dit_eval.metrics.compared import comparison_text  # which knows the metrics' names; results know none

        return comparison_text(self)

    def to_json(self) -> str:
        """One line of JSON with every field; numbers in full precision."""
        data: dict[str, Any] = {
            each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self) if each.name != "results"
        }
        return json_text(data | {"results": [result.to_dict() for result in self.results]})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
