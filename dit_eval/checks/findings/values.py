"""Findings in the pixel values: range and clipping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dit_eval.checks.findings.case import Case, Cause, Seen


def _values(case: Case) -> tuple[np.ndarray, np.ndarray | None]:
    """How often each of the 256 values occurs, int64 (256,), in the samples and in the reference."""
    reference = None if case.reference is None else case.reference.histogram.sum(axis=0)
    return case.own.histogram.sum(axis=0), reference


def _float_range(case: Case) -> Iterator[Seen]:
    """Values that floats of another range leave behind when they are stored as bytes."""
    values, reference = _values(case)
    levels = np.flatnonzero(values)
    if len(levels) <= 3 and (reference is None or np.count_nonzero(reference) > 3):
        yield Seen(
            certainty="certain",
            found=f"{case.gen.path}: pixels take the value{'s' if len(levels) > 1 else ''} "
            f"{', '.join(map(str, levels))} only, as floats in 0..1 or -1..1 do that are stored as bytes unscaled",
            advice="Scale before you convert: from -1..1 by 127.5 x + 128 (DiT), from 0..1 by 255 x + 0.5; clip both "
            "to 0..255 and truncate.",
        )


def _half_range(case: Case) -> Iterator[Seen]:
    """Half of the reference's range: 0..1 taken for -1..1 fills 128..255, and the other way round half is lost."""
    values, reference = _values(case)
    if reference is None:
        return
    levels = np.flatnonzero(values)
    for name, part in (("below 120", slice(0, 120)), ("above 136", slice(137, 256))):
        share, share_ref = values[part].sum() / values.sum(), reference[part].sum() / reference.sum()
        if share < 1e-3 and share_ref > 0.1:
            yield Seen(
                certainty="certain",
                found=f"{case.gen.path}: values lie in {levels[0]}..{levels[-1]}; {share:.2%} are {name}, "
                f"{share_ref:.0%} of the reference's are",
                advice="The samples were scaled by the wrong rule: 127.5 x + 128 is for -1..1, 255 x + 0.5 for 0..1.",
            )
            return


def _clipped(case: Case) -> Iterator[Seen]:
    _, reference = _values(case)
    if reference is None or any(_half_range(case)):  # half a range ends at 0 or 255 as well, and explains less
        return
    empty = float(case.own.blank.mean())  # told on their own; at worst all of them lie at this end
    for end in (0, 255):
        # Of the channel that has least of it: a single channel that is constant is another cause.
        at_end, per_channel = case.own.histogram[:, end], case.own.histogram.sum(axis=1)
        share, share_ref = max(float((at_end / per_channel).min()) - empty, 0.0), reference[end] / reference.sum()
        # A quarter of all values at one end, three times the reference's: half of a range of -1..1 cut off is more.
        if share > 0.25 and share > 3 * share_ref + 0.05:
            yield Seen(
                certainty="certain" if share > 0.4 else "likely",
                found=f"{case.gen.path}: {share:.0%} of the values of each channel are {end}, "
                f"{share_ref:.0%} of the reference's are",
                advice="Values were cut off before they were stored: floats in -1..1 need 127.5 x + 128, not 255 x.",
            )
            return


def _narrow_range(case: Case) -> Iterator[Seen]:
    values, reference = _values(case)
    if reference is None:
        return
    levels, ends = np.flatnonzero(values)[[0, -1]], np.flatnonzero(reference)[[0, -1]]
    unused = levels[0] >= 8 and levels[1] <= 247
    # Fully used in the reference, and 8 levels of each end not once here: a video range (16..235), say.
    if unused and ends[0] < 4 and ends[1] > 251 and values.sum() > 100_000:
        yield Seen(
            certainty="likely",
            found=f"{case.gen.path}: values lie in {levels[0]}..{levels[1]}, the reference's in {ends[0]}..{ends[1]}",
            advice="Look for a conversion to video range (16..235), or a wrong scale between model and file.",
        )


FLOAT_RANGE = Cause(
    id="float-range",
    title="floats of 0..1 or -1..1 stored as bytes unscaled",
    look=_float_range,
    explains=(
        *("blank", "saturated", "duplicates", "blurred", "constant-channel", "grey", "orientation", "colour-order"),
        *("order", "narrow-range", "half-range", "clipped", "repeated-pixels", "jpeg"),
    ),
)
HALF_RANGE = Cause(
    id="half-range",
    title="only half of the range of values is used",
    look=_half_range,
    explains=("narrow-range", "clipped"),
)
CLIPPED = Cause(
    id="clipped",
    title="values cut off at 0 or 255",
    look=_clipped,
    explains=("saturated", "constant-channel", "colour-order", "orientation", "narrow-range"),
)
NARROW_RANGE = Cause(id="narrow-range", title="the ends of the range are not used", look=_narrow_range)
