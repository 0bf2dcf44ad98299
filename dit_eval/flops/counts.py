"""What was counted: multiply-adds by operator, and the conventions of counting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Convention = Literal["paper", "fvcore", "mac"]
CONVENTIONS: tuple[Convention, ...] = ("paper", "fvcore", "mac")
Shape = tuple[int, ...] | None  # None for what is no tensor
Handle = Callable[[Sequence[Shape], Sequence[Shape]], int]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a forward pass, a module or an operator counts.

    Attributes
    ----------
    macs : multiply-adds
    norm_elements : elements that enter a normalisation
    fvcore : what fvcore bills by default
    """

    macs: int = 0
    norm_elements: int = 0
    fvcore: int = 0

    def total(self, convention: Convention = "paper") -> int:
        """Operations in a convention, an exact integer."""
        if convention not in CONVENTIONS:
            raise ValueError(f"Unknown convention {convention!r}; known: {', '.join(CONVENTIONS)}.")
        return {"paper": self.macs + self.norm_elements, "fvcore": self.fvcore, "mac": self.macs}[convention]

    def gflops(self, convention: Convention = "paper") -> float:
        """The same in units of 1e9."""
        return self.total(convention) / 1e9


@dataclass(frozen=True, kw_only=True)
class FlopCount(Counts):
    """The counts of one forward pass, whole and in parts.

    Attributes
    ----------
    params : trainable parameters (the paper counts these; the fixed position table of a DiT is not among them)
    by_operator : counts of each operator, such as "linear" or "scaled_dot_product_attention"
    by_module : counts of each module by its name, those below it included; "" is the whole
    negligible : how often each operator occurred that counts 0; reasons in `NEGLIGIBLE`
    """

    params: int
    by_operator: Mapping[str, Counts]
    by_module: Mapping[str, Counts]
    negligible: Mapping[str, int]
