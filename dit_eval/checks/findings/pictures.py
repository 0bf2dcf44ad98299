"""Findings in the pictures: size, copies, blanks, orientation, resizing, JPEG."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dit_eval.checks.findings.case import Case, Cause, Seen


def _size(case: Case) -> Iterator[Seen]:
    if case.reference is not None and case.own.size != case.reference.size:
        gen, ref = (" x ".join(map(str, reversed(p.size))) for p in (case.own, case.reference))
        yield Seen(
            certainty="certain",
            found=f"{case.gen.path} has images of {gen} px, {case.ref.path} of {ref} px",
            advice="Take the reference of the samples' resolution. The network resizes both to its input, and another "
            "size gives other features; published numbers have both alike.",
        )


def _copies(case: Case) -> Iterator[Seen]:
    own = case.own
    copied = 0 if case.reference is None else int(np.isin(own.hashes, case.reference.hashes).sum())
    if copied:
        yield Seen(
            certainty="certain",
            found=f"{copied:,} of {own.num_images:,} samples are images of the reference, pixel by pixel",
            advice="Real images are among the samples, or the reference was passed as the samples. (Held-out real "
            "images must not be in the reference.)",
            share=copied / own.num_images,
        )


def _duplicates(case: Case) -> Iterator[Seen]:
    own = case.own
    distinct, counts = np.unique(own.hashes, return_counts=True)
    surplus = own.num_images - len(distinct)
    blank = int(own.blank.sum())  # are alike; they are told on their own
    surplus -= max(blank - len(np.unique(own.hashes[own.blank])), 0)
    usual = 0.0
    if case.reference is not None:  # small images of few values can be equal by chance
        usual = 1 - len(np.unique(case.reference.hashes)) / case.reference.num_images
    if surplus / own.num_images > 2 * usual:
        order = np.argsort(own.hashes, kind="stable")
        same = own.hashes[order][1:] == own.hashes[order][:-1]
        lags, times = np.unique(np.abs(np.diff(order))[same], return_counts=True)
        lag = int(lags[times.argmax()])
        regular = surplus > 2 and times.max() > 0.9 * times.sum()
        yield Seen(
            certainty="certain",
            found=f"{surplus:,} of {own.num_images:,} samples repeat another one exactly (the commonest occurs "
            f"{counts[~np.isin(distinct, own.hashes[own.blank])].max():,} times)"
            + (f"; a repeat lies {lag:,} images after the first" if regular else ""),
            advice="Processes that share a seed draw the same images: give each its own, or let `dit-eval sample` "
            "number them. Draw the file again.",
            share=surplus / own.num_images,
        )


def _blank(case: Case) -> Iterator[Seen]:
    ref = case.reference
    blank, usual = float(case.own.blank.mean()), 0.0 if ref is None else float(ref.blank.mean())
    # A thousandth, beyond what the reference has, is fifty images of 50,000.
    if blank > 2 * usual + 1e-3:
        yield Seen(
            certainty="certain",
            found=f"{_some(case.own.blank)} are of one colour",
            advice="Not-a-numbers in the sampler or decoder (half precision overflows in Stable Diffusion's) come out "
            "as black or grey images: decode in fp32 or bf16, and draw these again.",
            share=blank,
        )


def _saturated(case: Case) -> Iterator[Seen]:
    ref = case.reference
    # A drawing in black and white is rare, not impossible: a reference of M images without one leaves 3 / M possible.
    saturated, usual = float(case.own.saturated.mean()), 0.0
    if ref is not None:
        usual = min((float(ref.saturated.sum()) + 3) / ref.num_images, 1.0)
    if saturated > 2 * usual + 1e-3:
        yield Seen(
            certainty="possible" if ref is None else "likely",
            found=f"{_some(case.own.saturated)} are 0 or 255 nearly everywhere",
            advice="Guidance far too strong, or values scaled twice, saturate images. Look at them with "
            "`dit-eval grid`.",
            share=saturated,
        )


def _some(concerned: np.ndarray) -> str:
    at = np.flatnonzero(concerned)
    return f"{len(at):,} of {len(concerned):,} samples (the first is image {at[0]:,})"


_TURNS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("mirrored left to right", lambda x: x[:, ::-1]),
    ("upside down", lambda x: x[::-1]),
    ("turned by 180 degrees", lambda x: x[::-1, ::-1]),
    ("transposed (height and width exchanged)", lambda x: x.swapaxes(0, 1)),
    ("turned by 90 degrees", lambda x: np.rot90(x, 1)),
    ("turned by 270 degrees", lambda x: np.rot90(x, 3)),
    ("transposed along the other diagonal", lambda x: np.rot90(x, 2).swapaxes(0, 1)),
)


def _orientation(case: Case) -> Iterator[Seen]:
    """The mean image of a set has a top and a bottom (skies are light); a turned set's fits when it is turned back."""
    own, ref = case.own, case.reference
    if ref is None or own.size[0] != own.size[1] or own.thumbnails.shape[1:] != ref.thumbnails.shape[1:]:
        return
    sets = [p.thumbnails.astype(np.float64).mean(axis=3) for p in (own, ref)]  # (N, h, w)
    error = np.sqrt(sum(x.var(axis=0) / len(x) for x in sets))
    error = np.maximum(error, 0.1)  # grey levels; a cell that is black in every image
    mean, target = (x.mean(axis=0) for x in sets)

    def misfit(image: np.ndarray) -> float:
        difference = image - target
        difference = difference - difference.mean()  # samples may be lighter or darker as a whole
        return float(np.mean((difference / error) ** 2))

    straight = misfit(mean)
    turned = {name: misfit(turn(mean)) for name, turn in _TURNS}
    best = min(turned, key=turned.__getitem__)
    # By chance a misfit is about 1; neighbouring cells are alike, so that it may be that of six free ones only, which
    # stay below 1 + 6 sqrt(2 / 6) = 4.5. And a model that differs from the reference in other ways has no reason to
    # fit four times better when turned.
    if straight > 10 and turned[best] < 0.25 * straight:
        yield Seen(
            certainty="likely",
            found=f"the mean sample fits the reference's mean image {straight / turned[best]:.0f} times better (mean "
            f"square) when {best}",
            advice="Look for exchanged axes between the model's (B, C, H, W) and the file's (N, H, W, C).",
        )


def _repeated_pixels(case: Case) -> Iterator[Seen]:
    own, ref = case.own, case.reference
    even, odd = own.repeats
    usual = 0.0 if ref is None else ref.repeats[0] - ref.repeats[1]
    # Pairs (2i, 2i + 1) equal and pairs (2i + 1, 2i + 2) not: no picture prefers one phase over the other.
    if even - odd > 0.1 and even > 0.98 and usual < 0.05:
        yield Seen(
            certainty="certain",
            found=f"{case.gen.path}: {even:.0%} of the pixels equal their partner in pairs, {odd:.0%} the next one: "
            f"enlarged without interpolation from {own.size[1] // 2} x {own.size[0] // 2} px or less",
            advice="Draw at the resolution of the reference, or score against the reference of the smaller size.",
        )


def _blurred(case: Case) -> Iterator[Seen]:
    own, ref = case.own, case.reference
    if ref is None or own.spectrum is None or ref.spectrum is None or len(own.spectrum) != len(ref.spectrum):
        return
    frequency = np.linspace(0, 0.5, len(own.spectrum))
    ratio = own.spectrum / np.maximum(ref.spectrum, 1e-9)
    coarse = (frequency > 0.03) & (frequency < 0.12)
    ratio = ratio / np.exp(np.log(np.maximum(ratio[coarse], 1e-9)).mean())
    fine = float(np.exp(np.log(np.maximum(ratio[frequency > 0.42], 1e-9)).mean()))
    # A tenth of the reference's power at the finest detail, at equal coarse detail. A factor of 2 or 3 can be the
    # decoder's own softness; linear or cubic enlargement by 1.5 and more leaves a twentieth or less.
    if fine < 0.1:
        yield Seen(
            certainty="likely",
            found=f"{case.gen.path}: fine detail (the top sixth of all frequencies) has {fine:.1%} of the power that "
            "the reference's has, at equal coarse detail",
            advice="The images look enlarged or blurred: draw at the resolution of the reference, without a resize "
            "between decoder and file, and store PNG or npz.",
        )


def _jpeg(case: Case) -> Iterator[Seen]:
    # Sound sets stay near 0, quality 90 is above 0.4 (tests/checks/test_diagnose.py); 95 and above is not seen.
    # Drawings with edges on the grid of blocks can reach some tenths, in the reference as well.
    score = case.own.jpeg
    usual = 0.0 if case.reference is None or case.reference.jpeg is None else case.reference.jpeg
    if score is not None and score > (0.3 if case.reference is None else 0.15 + usual):
        yield Seen(
            certainty="certain" if score > 0.3 else "likely",
            found=f"{case.gen.path}: cosine coefficients of 8 x 8 blocks lie at multiples of a step ({score:.2f} of 1; "
            f"the reference {usual:.2f}): the samples have been JPEG",
            advice="Save samples as PNG or npz; JPEG's loss cannot be undone. Draw the file again.",
        )


RESOLUTION = Cause(
    id="resolution",
    title="samples and reference differ in size",
    look=_size,
    explains=("blurred", "repeated-pixels"),
)
COPIES_OF_REFERENCE = Cause(id="copies-of-reference", title="reference images among the samples", look=_copies)
DUPLICATES = Cause(id="duplicates", title="samples that repeat one another", look=_duplicates)
BLANK = Cause(id="blank", title="images of one colour", look=_blank)
SATURATED = Cause(id="saturated", title="images that are 0 or 255 nearly everywhere", look=_saturated)
REPEATED_PIXELS = Cause(
    id="repeated-pixels", title="enlarged without interpolation", look=_repeated_pixels, explains=("blurred",)
)
BLURRED = Cause(id="blurred", title="enlarged or blurred", look=_blurred)
ORIENTATION = Cause(id="orientation", title="turned, mirrored or transposed", look=_orientation)
JPEG = Cause(id="jpeg", title="samples that have been JPEG", look=_jpeg, explains=("blurred",))
