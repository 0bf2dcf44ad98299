"""Findings in the reference: of another network, of another protocol, of the validation set."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from dit_eval.checks.findings.case import INCEPTION_DIM, Case, Cause, Seen
from dit_eval.features.extract import extract_features
from dit_eval.features.provenance import image_source
from dit_eval.images import ImageSet, from_batches
from dit_eval.results.references import known_reference, named_reference, reference_title

_NETWORK_IMAGES = 256  # reference images that pass through the network to check its statistics


def _other_statistics(case: Case) -> Iterator[Seen]:
    pool = case.ref.pool
    if pool is not None and case.published and pool.dim != INCEPTION_DIM:
        yield Seen(
            certainty="certain",
            found=f"{case.ref.path}: statistics of {pool.dim} dimensions; published FIDs are of {INCEPTION_DIM}",
            advice="These are of another network or layer. Take ADM's reference batch (`dit-eval weights list`).",
        )
    if pool is not None and case.of_inception and pool.mu.min() < 0:
        yield Seen(
            certainty="certain",
            found=f"{case.ref.path}: mu has values below 0 ({(pool.mu < 0).sum():,} of {pool.dim:,}); the pool "
            "features of Inception come after a Relu and have none",
            advice="These are of another network or layer of 2048 dimensions (a ResNet, logits). Take ADM's batch.",
        )
    if case.extractor is not None and pool is not None and case.reference is not None:
        yield from _of_this_network(case)


def _of_this_network(case: Case) -> Iterator[Seen]:
    """Whether the images of the reference have features that its statistics can be of."""
    extractor, pool = case.extractor, case.ref.pool
    if extractor is None or pool is None or pool.dim != extractor.pool_dim:
        return
    total = case.ref.num_images or 0
    step = max(total // _NETWORK_IMAGES, 1)
    # Evenly spaced, for the file may be in class order.
    wanted = np.arange(0, total, step)[:_NETWORK_IMAGES]
    picked = [next(case.ref.batches(1, first=int(k), last=int(k) + 1)) for k in wanted]
    summary = extract_features(from_batches(picked, num_images=len(picked)), extractor)
    own = summary.pool
    if own is None:
        return
    distance, expected = float(((own.mu - pool.mu) ** 2).sum()), float(np.trace(pool.sigma)) / len(wanted)
    spread = float(np.trace(own.sigma) / np.trace(pool.sigma))
    # The mean of n images lies tr(sigma) / n from that of all, squared, give or take little; images of the validation
    # set in place of the training set's, or a JPEG on the way, stay within a few times that.
    if distance > 10 * expected or not 1 / 3 < spread < 3:
        yield Seen(
            certainty="certain",
            found=f"{case.ref.path}: its statistics are not those of its images by the {extractor.name} network at "
            f"hand: means differ by {distance:.4g} (squared) where {len(wanted)} images give {expected:.4g}, variances "
            f"by a factor of {spread:.3g}",
            advice="They come from another port of Inception, other weights or another resize. Use ADM's own file, or "
            "make the statistics with `dit-eval stats`.",
        )


def _nchw_statistics(case: Case) -> Iterator[Seen]:
    spatial = case.ref.spatial
    side = 0 if spatial is None else math.isqrt(spatial.dim // 7)
    if spatial is not None and spatial.dim == 7 * side**2:
        nhwc, nchw = spatial.mu.reshape(side, side, 7), spatial.mu.reshape(7, side, side).transpose(1, 2, 0)
        rough = [float(np.mean(np.diff(x, axis=0) ** 2) + np.mean(np.diff(x, axis=1) ** 2)) for x in (nhwc, nchw)]
        # A channel's mean changes little from one place to the next, and from one channel to the next a lot: the wrong
        # reading is 11 times rougher with three pictures alone (tests/checks/test_diagnose.py), and more with many.
        if rough[1] * 4 < rough[0]:
            yield Seen(
                certainty="certain",
                found=f"{case.ref.path}: mu_s is smooth over the picture when read as channels x rows x columns, and "
                f"{rough[0] / rough[1]:,.0f} times rougher when read as ADM flattens it, rows x columns x channels",
                advice="These spatial statistics were made by a PyTorch port without the transposition; sFID against "
                "them means nothing. Make them again with `dit-eval stats`, or take ADM's file.",
            )


def _other_reference(case: Case) -> Iterator[Seen]:
    """A public reference, other than the one that the published number is against."""
    expect, ref = case.expect, case.ref
    if expect is None or expect.reference is None or ref.pool is None:
        return
    source = image_source(ref, ref.sha256(), "stored")
    proved, named = known_reference(source), named_reference(source)
    known = proved or named
    if known is not None and known.protocol != expect.reference:
        name = "is" if proved else "has the name of"
        yield Seen(
            certainty="certain" if proved else "likely",
            found=f"{ref.path} {name} {reference_title(known.protocol)} ({known.name}); {expect.name} is against "
            f"{reference_title(expect.reference)}",
            advice=f"Score again against {reference_title(expect.reference)}. Of the same images, FID against JiT's "
            "statistics and against ADM's has differed by 0.01 to 0.2, in both directions: no constant corrects it.",
        )


_VALIDATION = re.compile(r"(^|[^a-z])val(id(ation)?)?([^a-z]|$)")


def _val_reference(case: Case) -> Iterator[Seen]:
    """The validation set in the place of the training set, which published numbers of generation are against."""
    expect, result = case.expect, case.result
    if expect is None or expect.reference is None:
        return
    why = _of_validation(case.ref)
    if why is not None:
        certainty, words = why
        yield Seen(
            certainty=certainty,
            found=f"{case.ref.path}: {words}; {expect.name} is against {reference_title(expect.reference)}, which is "
            "of the training set",
            advice="FID of generated images is against the training set; the validation set is what FID of "
            "reconstructions (rFID) is against. Score again against the published reference.",
        )
    pair = result.pr_ref if result is not None else None
    if (
        pair is not None
        and _VALIDATION.search(Path(pair.path).name.lower())
        and {"precision", "recall"} & {*expect.metrics}
    ):
        yield Seen(
            certainty="likely",
            found=f"precision and recall are against {pair.path}, by its name the validation set; those of "
            f"{expect.name} are against {reference_title(expect.reference)}",
            advice="Score again without --pr-ref, against a reference that holds images.",
        )


def _of_validation(ref: ImageSet) -> tuple[Literal["certain", "likely"], str] | None:
    """Why a reference is taken for ImageNet's validation set, and how surely; None if nothing says so."""
    names = getattr(ref, "names", ())  # an npz has none
    if names and all("ILSVRC2012_val_" in name for name in (names[0], names[-1])):
        return "certain", "its files are those of ImageNet's validation set (ILSVRC2012_val_...)"
    if _VALIDATION.search(Path(ref.path).name.lower()):
        return "likely", "by its name the validation set"
    labels = ref.labels
    if labels is not None and len(labels) == 50_000 and np.array_equal(np.bincount(labels), np.full(1_000, 50)):
        return "likely", "50 images of each of 1,000 classes, as ImageNet's validation set has"
    return None


OTHER_STATISTICS = Cause(id="other-statistics", title="statistics of another network", look=_other_statistics)
NCHW_STATISTICS = Cause(id="nchw-statistics", title="spatial statistics in another order", look=_nchw_statistics)
OTHER_REFERENCE = Cause(
    id="other-reference",
    title="a public reference that is not the published one",
    look=_other_reference,
    explains=("result-reference",),
)
VAL_REFERENCE = Cause(id="val-reference", title="the validation set as reference", look=_val_reference)
