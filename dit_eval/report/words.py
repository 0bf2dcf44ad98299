"""Names in parts, and numbers as papers write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

SIZES = ("S", "B", "L", "XL")
PATCHES = (16, 8, 4, 2, 1)
THOUSANDS_FROM = 10_000  # training steps, from which they are written in thousands
# Names of models: of a family in the paper's manner, and of the paper itself.
_MODEL = re.compile(r"([^/]+)-(S|B|L|XL)/(1|2|4|8|16)")
_PAPERS_MODEL = re.compile(r"DiT-(S|B|L|XL)/(2|4|8)")


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A name such as "DiT-XL/2" or "mini-S/4" in its parts."""

    family: str
    size: str
    patch: int


def model_name(text: str) -> ModelName | None:
    """The parts of a model's name; None if it names neither size nor patch."""
    found = _MODEL.fullmatch(text)
    return ModelName(family=found[1], size=found[2], patch=int(found[3])) if found else None


def is_papers_model(text: str) -> bool:
    """Whether this is the name of one of the paper's twelve models."""
    return _PAPERS_MODEL.fullmatch(text) is not None


def better_arrow(better: str) -> str:
    """An arrow towards better values: down for "lower", up for "higher"."""
    return {"lower": "↓", "higher": "↑"}[better]


def fid_label(num_samples: float) -> str:
    """FID-50K, FID-500."""
    return f"FID-{num_samples / 1000:g}K" if num_samples % 1000 == 0 else f"FID-{num_samples:g}"


def steps_text(steps: float) -> str:
    """800, 400K, 2.35M."""
    if steps >= 1e6:
        return f"{steps / 1e6:.3g}M"
    return f"{steps / 1e3:g}K" if steps >= THOUSANDS_FROM else f"{steps:,.0f}"
