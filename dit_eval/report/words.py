"""Names in parts, and numbers as papers write them."""

from __future__ import annotations

import re

from dit_eval.models.names import DIT_NAMES, ModelName, parse_name

SIZES = ("S", "B", "L", "XL")
PATCHES = (16, 8, 4, 2, 1)
THOUSANDS_FROM = 10_000  # training steps, from which they are written in thousands


def model_name(text: str) -> ModelName | None:
    """The parts of a model's name; None if it names neither size nor patch, or a patch that no report shows."""
    name = parse_name(text)
    return name if name and name.patch in PATCHES else None


def is_papers_model(text: str) -> bool:
    """Whether this is the name of one of the paper's twelve models."""
    return text in DIT_NAMES


def better_arrow(better: str) -> str:
    """An arrow towards better values: down for "lower", up for "higher"."""
    return {"lower": "↓", "higher": "↑"}[better]


def true_minus(text: str) -> str:
    """Numbers with a minus sign in place of a hyphen."""
    return re.sub(r"(?<![\w.])-(?=\.?\d)", "\u2212", text)


def fid_label(num_samples: float) -> str:
    """FID-50K, FID-500."""
    return f"FID-{num_samples / 1000:g}K" if num_samples % 1000 == 0 else f"FID-{num_samples:g}"


def steps_text(steps: float) -> str:
    """800, 400K, 2.35M."""
    if steps >= 1e6:
        return f"{steps / 1e6:.3g}M"
    return f"{steps / 1e3:g}K" if steps >= THOUSANDS_FROM else f"{steps:,.0f}"
