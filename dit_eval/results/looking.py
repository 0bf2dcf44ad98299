"""`Looking`: how a run came to stop before it had seen all images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dit_eval.results.parse import checked
from dit_eval.system.text import duration


@dataclass(frozen=True, kw_only=True)
class Looking:
    """A run that looks at random parts of the images, each with the earlier one in it, and stops when it is decided.

    Every look has a level of its own. They add up to 5 %, so that chance decides at any of them in at most 5 % of runs,
    whatever the looks have in common (Bonferroni).

    Attributes
    ----------
    rule : in words
    seed : of the order in which images are taken
    looks : numbers of images, ascending; the last is all of them
    levels : of the looks
    used : the number at which it stopped
    decided : whether it stopped because all was decided, or as sure as asked for
    seconds_saved : what the features of the other images would have taken, as those of the used ones did
    until : relative half width of intervals that was asked for; None if a verdict was
    """

    rule: str
    seed: int
    looks: tuple[int, ...]
    levels: tuple[float, ...]
    used: int
    decided: bool
    seconds_saved: float
    until: float | None = None

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Looking:
        lists = {name: tuple(data[name]) for name in ("looks", "levels")}
        looking = checked(cls(**data | lists))
        if not looking.looks or len(looking.looks) != len(looking.levels):
            raise TypeError("looks and levels do not belong together")
        return looking

    def text(self) -> str:
        """As a line of output says it, less than two lines long."""
        words = ("decided", "not decided")
        if self.until is not None:
            words = ("intervals as narrow as asked for", "intervals not as narrow as asked for")
        what, total = words[not self.decided], self.looks[-1]
        if self.used == total:
            looks = "1 look" if len(self.looks) == 1 else f"{len(self.looks)} looks"
            return f"{what} with all {total:,} images; {looks}, {100 * self.levels[-1]:.3g} % of error at the last"
        return (
            f"{what} at {self.used:,} of {total:,} images, taken at random (seed {self.seed}); about "
            f"{duration(self.seconds_saved)} saved"
        )
