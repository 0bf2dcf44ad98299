"""Findings in the pixel values: range and clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.checks.findings.case import Finding

if TYPE_CHECKING:
    from dit_eval.checks.findings.case import _Case


def _range(case: _Case) -> Iterator[Finding]:
    """Values that floats of another range leave behind when they are stored as bytes."""
    values = case.own.histogram.sum(axis=0)
    levels = np.flatnonzero(values)
    consequences = (
        *("blank", "saturated", "duplicates", "blurred", "constant-channel", "grey", "orientation", "colour-order"),
        *("order", "narrow-range", "half-range", "clipped", "repeated-pixels", "jpeg"),
    )
    reference = None if case.reference is None else case.reference.histogram.sum(axis=0)
    if len(levels) <= 3 and (reference is None or np.count_nonzero(reference) > 3):
        yield Finding(
            id="float-range",
            certainty="certain",
            found=f"{case.gen.path}: pixels take the value{'s' if len(levels) > 1 else ''} "
            f"{', '.join(map(str, levels))} only, as floats in 0..1 or -1..1 do that are stored as bytes unscaled",
            advice="Scale before you convert: from -1..1 by 127.5 x + 128 (DiT), from 0..1 by 255 x + 0.5; clip both "
            "to 0..255 and truncate.",
            explains=consequences,
        )
        return
    if reference is None:
        return
    total, total_ref = values.sum(), reference.sum()
    low, high = int(levels[0]), int(levels[-1])
    # A range that is half of the reference's: 0..1 taken for -1..1 fills 128..255, the other way round half is lost.
    for name, share, share_ref in (
        ("below 120", values[:120].sum() / total, reference[:120].sum() / total_ref),
        ("above 136", values[137:].sum() / total, reference[137:].sum() / total_ref),
    ):
        if share < 1e-3 and share_ref > 0.1:
            yield Finding(
                id="half-range",
                certainty="certain",
                found=f"{case.gen.path}: values lie in {low}..{high}; {share:.2%} are {name}, {share_ref:.0%} of the "
                "reference's are",
                advice="The samples were scaled by the wrong rule: 127.5 x + 128 is for -1..1, 255 x + 0.5 for 0..1.",
                explains=("narrow-range", "clipped"),
            )
            return
    empty = float(case.own.blank.mean())  # told on their own; at worst all of them lie at this end
    for end, name in ((0, "0"), (255, "255")):
        # Of the channel that has least of it: a single channel that is constant is another cause.
        at_end, per_channel = case.own.histogram[:, end], case.own.histogram.sum(axis=1)
        share, share_ref = max(float((at_end / per_channel).min()) - empty, 0.0), reference[end] / total_ref
        # A quarter of all values at one end, three times the reference's: half of a range of -1..1 cut off is more.
        if share > 0.25 and share > 3 * share_ref + 0.05:
            yield Finding(
                id="clipped",
                certainty="certain" if share > 0.4 else "likely",
                found=f"{case.gen.path}: {share:.0%} of the values of each channel are {name}, "
                f"{share_ref:.0%} of the reference's are",
                advice="Values were cut off before they were stored: floats in -1..1 need 127.5 x + 128, not 255 x.",
                explains=("saturated", "constant-channel", "colour-order", "orientation", "narrow-range"),
            )
            return
    ends = np.flatnonzero(reference)[[0, -1]]
    # Fully used in the reference, and 8 levels of each end not once here: a video range (16..235), say.
    if low >= 8 and high <= 247 and ends[0] < 4 and ends[1] > 251 and total > 100_000:
        yield Finding(
            id="narrow-range",
            certainty="likely",
            found=f"{case.gen.path}: values lie in {low}..{high}, the reference's in {ends[0]}..{ends[1]}",
            advice="Look for a conversion to video range (16..235), or a wrong scale between model and file.",
        )
