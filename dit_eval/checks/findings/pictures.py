"""Findings in the pictures: copies, blanks, colours, orientation, resizing, JPEG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.checks.findings.case import _SIGMAS, Finding
from dit_eval.checks.pixels import PixelFacts

if TYPE_CHECKING:
    from dit_eval.checks.findings.case import _Case


def _size(case: _Case) -> Iterator[Finding]:
    if case.reference is not None and case.own.size != case.reference.size:
        gen, ref = (" x ".join(map(str, reversed(p.size))) for p in (case.own, case.reference))
        yield Finding(
            id="resolution",
            certainty="certain",
            found=f"{case.gen.path} has images of {gen} px, {case.ref.path} of {ref} px",
            advice="Take the reference of the samples' resolution. The network resizes both to its input, and another "
            "size gives other features; published numbers have both alike.",
            explains=("blurred", "repeated-pixels"),
        )


def _copies(case: _Case) -> Iterator[Finding]:
    own = case.own
    distinct, counts = np.unique(own.hashes, return_counts=True)
    if case.reference is not None:
        copied = int(np.isin(own.hashes, case.reference.hashes).sum())
        if copied:
            yield Finding(
                id="copies-of-reference",
                certainty="certain",
                found=f"{copied:,} of {own.num_images:,} samples are images of the reference, pixel by pixel",
                advice="Real images are among the samples, or the reference was passed as the samples. (Held-out real "
                "images must not be in the reference.)",
                share=copied / own.num_images,
            )
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
        yield Finding(
            id="duplicates",
            certainty="certain",
            found=f"{surplus:,} of {own.num_images:,} samples repeat another one exactly (the commonest occurs "
            f"{counts[~np.isin(distinct, own.hashes[own.blank])].max():,} times)"
            + (f"; a repeat lies {lag:,} images after the first" if regular else ""),
            advice="Processes that share a seed draw the same images: give each its own, or let `dit-eval sample` "
            "number them. Draw the file again.",
            share=surplus / own.num_images,
        )


def _empty(case: _Case) -> Iterator[Finding]:
    ref = case.reference
    blank, usual = float(case.own.blank.mean()), 0.0 if ref is None else float(ref.blank.mean())
    # A thousandth, beyond what the reference has, is fifty images of 50,000.
    if blank > 2 * usual + 1e-3:
        yield Finding(
            id="blank",
            certainty="certain",
            found=f"{_some(case.own.blank)} are of one colour",
            advice="Not-a-numbers in the sampler or decoder (half precision overflows in Stable Diffusion's) come out "
            "as black or grey images: decode in fp32 or bf16, and draw these again.",
            share=blank,
        )
    # A drawing in black and white is rare, not impossible: a reference of M images without one leaves 3 / M possible.
    saturated, usual = float(case.own.saturated.mean()), 0.0
    if ref is not None:
        usual = min((float(ref.saturated.sum()) + 3) / ref.num_images, 1.0)
    if saturated > 2 * usual + 1e-3:
        yield Finding(
            id="saturated",
            certainty="possible" if ref is None else "likely",
            found=f"{_some(case.own.saturated)} are 0 or 255 nearly everywhere",
            advice="Guidance far too strong, or values scaled twice, saturate images. Look at them with "
            "`dit-eval grid`.",
            share=saturated,
        )


def _some(concerned: np.ndarray) -> str:
    at = np.flatnonzero(concerned)
    return f"{len(at):,} of {len(concerned):,} samples (the first is image {at[0]:,})"


def _colours(case: _Case) -> Iterator[Finding]:
    own, ref = case.own, case.reference
    variances = own.variances
    flat = (variances < 0.5).mean(axis=0)  # share of images in which a channel hardly varies
    if (flat > 0.9).any() and not (flat > 0.9).all() and (ref is None or (ref.variances < 0.5).mean() < 0.5):
        names = [name for name, share in zip(("red", "green", "blue"), flat, strict=True) if share > 0.9]
        yield Finding(
            id="constant-channel",
            certainty="certain",
            found=f"{case.gen.path}: the {' and '.join(names)} channel is constant in nearly all images",
            advice="A channel was lost or overwritten on the way from the model to the file; save all three.",
            explains=("colour-order", "duplicates"),
        )
    if ref is None:
        return
    if own.grey > 0.9 and ref.grey < 0.5:
        yield Finding(
            id="grey",
            certainty="certain",
            found=f"{own.grey:.0%} of the samples looked at are grey, {ref.grey:.0%} of the reference images are",
            advice="Colours were lost: look for a conversion to grey (mode L), or one channel repeated three times.",
            explains=("colour-order",),
        )
    gen_tint, ref_tint = _tint(own), _tint(ref)
    pooled = np.cov(np.concatenate([gen_tint - gen_tint.mean(0), ref_tint - ref_tint.mean(0)]).T)
    if np.linalg.eigvalsh(pooled).min() <= 1e-9 * max(np.trace(pooled), 1e-9):  # grey images have no tint
        return
    whiten = np.linalg.inv(np.linalg.cholesky(pooled))
    g, r = whiten @ gen_tint.mean(axis=0), whiten @ ref_tint.mean(axis=0)
    # In standard deviations of an image. Exchanging red and blue turns the sign of both tints, so the samples' would
    # be near -r. Both must be far from 0 by chance alone, and -r clearly nearer than r: a model of other colours than
    # the reference's has no reason to mirror them.
    error = math.sqrt(1 / len(gen_tint) + 1 / len(ref_tint))
    if min(np.linalg.norm(g), np.linalg.norm(r)) > _SIGMAS * error and np.linalg.norm(g + r) < 0.5 * np.linalg.norm(
        g - r
    ):
        gen_means, ref_means = (p.thumbnails.mean(axis=(0, 1, 2)) for p in (own, ref))
        yield Finding(
            id="colour-order",
            certainty="likely",
            found="mean colours (R, G, B): samples "
            + f"{', '.join(f'{x:.0f}' for x in gen_means)}; reference {', '.join(f'{x:.0f}' for x in ref_means)}; "
            "red and blue fit better when exchanged",
            advice="The samples look like BGR (OpenCV's order). Store RGB: images[..., ::-1].",
        )


def _tint(facts: PixelFacts) -> np.ndarray:
    """Of each image: mean red less mean blue, and how much more red varies between cells than blue; (N, 2)."""
    cells = facts.thumbnails.reshape(facts.num_images, -1, 3).astype(np.float64)
    means, spreads = cells.mean(axis=1), cells.std(axis=1)
    return np.stack([means[:, 0] - means[:, 2], spreads[:, 0] - spreads[:, 2]], axis=1)


_TURNS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("mirrored left to right", lambda x: x[:, ::-1]),
    ("upside down", lambda x: x[::-1]),
    ("turned by 180 degrees", lambda x: x[::-1, ::-1]),
    ("transposed (height and width exchanged)", lambda x: x.swapaxes(0, 1)),
    ("turned by 90 degrees", lambda x: np.rot90(x, 1)),
    ("turned by 270 degrees", lambda x: np.rot90(x, 3)),
    ("transposed along the other diagonal", lambda x: np.rot90(x, 2).swapaxes(0, 1)),
)


def _orientation(case: _Case) -> Iterator[Finding]:
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
        yield Finding(
            id="orientation",
            certainty="likely",
            found=f"the mean sample fits the reference's mean image {straight / turned[best]:.0f} times better (mean "
            f"square) when {best}",
            advice="Look for exchanged axes between the model's (B, C, H, W) and the file's (N, H, W, C).",
        )


def _resized(case: _Case) -> Iterator[Finding]:
    own, ref = case.own, case.reference
    even, odd = own.repeats
    usual = 0.0 if ref is None else ref.repeats[0] - ref.repeats[1]
    # Pairs (2i, 2i + 1) equal and pairs (2i + 1, 2i + 2) not: no picture prefers one phase over the other.
    if even - odd > 0.1 and even > 0.98 and usual < 0.05:
        yield Finding(
            id="repeated-pixels",
            certainty="certain",
            found=f"{case.gen.path}: {even:.0%} of the pixels equal their partner in pairs, {odd:.0%} the next one: "
            f"enlarged without interpolation from {own.size[1] // 2} x {own.size[0] // 2} px or less",
            advice="Draw at the resolution of the reference, or score against the reference of the smaller size.",
            explains=("blurred",),
        )
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
        yield Finding(
            id="blurred",
            certainty="likely",
            found=f"{case.gen.path}: fine detail (the top sixth of all frequencies) has {fine:.1%} of the power that "
            "the reference's has, at equal coarse detail",
            advice="The images look enlarged or blurred: draw at the resolution of the reference, without a resize "
            "between decoder and file, and store PNG or npz.",
        )


def _jpeg(case: _Case) -> Iterator[Finding]:
    # Sound sets stay near 0, quality 90 is above 0.4 (tests/test_diagnose.py); 95 and above is not seen. Drawings with
    # edges on the grid of blocks can reach some tenths, in the reference as well.
    score = case.own.jpeg
    usual = 0.0 if case.reference is None or case.reference.jpeg is None else case.reference.jpeg
    if score is not None and score > (0.3 if case.reference is None else 0.15 + usual):
        yield Finding(
            id="jpeg",
            certainty="certain" if score > 0.3 else "likely",
            found=f"{case.gen.path}: cosine coefficients of 8 x 8 blocks lie at multiples of a step ({score:.2f} of 1; "
            f"the reference {usual:.2f}): the samples have been JPEG",
            advice="Save samples as PNG or npz; JPEG's loss cannot be undone. Draw the file again.",
            explains=("blurred",),
        )
