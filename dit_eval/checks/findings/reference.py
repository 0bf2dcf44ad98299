"""Findings in the reference: statistics of another network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dit_eval.checks.findings.case import INCEPTION_DIM, Case, Cause, Seen
from dit_eval.features.extract import extract_features
from dit_eval.images import from_batches

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


OTHER_STATISTICS = Cause(id="other-statistics", title="statistics of another network", look=_other_statistics)
NCHW_STATISTICS = Cause(id="nchw-statistics", title="spatial statistics in another order", look=_nchw_statistics)
