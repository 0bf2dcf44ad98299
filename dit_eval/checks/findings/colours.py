"""Findings in the colours: a lost channel, grey images, red and blue exchanged."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dit_eval.checks.findings.case import SIGMAS, Case, Cause, Seen
from dit_eval.checks.pixels import PixelFacts


def _constant_channel(case: Case) -> Iterator[Seen]:
    own, ref = case.own, case.reference
    variances = own.variances
    flat = (variances < 0.5).mean(axis=0)  # share of images in which a channel hardly varies
    if (flat > 0.9).any() and not (flat > 0.9).all() and (ref is None or (ref.variances < 0.5).mean() < 0.5):
        names = [name for name, share in zip(("red", "green", "blue"), flat, strict=True) if share > 0.9]
        yield Seen(
            certainty="certain",
            found=f"{case.gen.path}: the {' and '.join(names)} channel is constant in nearly all images",
            advice="A channel was lost or overwritten on the way from the model to the file; save all three.",
        )


def _grey(case: Case) -> Iterator[Seen]:
    own, ref = case.own, case.reference
    if ref is not None and own.grey > 0.9 and ref.grey < 0.5:
        yield Seen(
            certainty="certain",
            found=f"{own.grey:.0%} of the samples looked at are grey, {ref.grey:.0%} of the reference images are",
            advice="Colours were lost: look for a conversion to grey (mode L), or one channel repeated three times.",
        )


def _colour_order(case: Case) -> Iterator[Seen]:
    own, ref = case.own, case.reference
    if ref is None:
        return
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
    tinted = min(np.linalg.norm(g), np.linalg.norm(r)) > SIGMAS * error
    if tinted and np.linalg.norm(g + r) < 0.5 * np.linalg.norm(g - r):
        gen_means, ref_means = (p.thumbnails.mean(axis=(0, 1, 2)) for p in (own, ref))
        yield Seen(
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


CONSTANT_CHANNEL = Cause(
    id="constant-channel",
    title="a channel that holds one value",
    look=_constant_channel,
    explains=("colour-order", "duplicates"),
)
GREY = Cause(id="grey", title="colours lost", look=_grey, explains=("colour-order",))
COLOUR_ORDER = Cause(id="colour-order", title="red and blue exchanged", look=_colour_order)
