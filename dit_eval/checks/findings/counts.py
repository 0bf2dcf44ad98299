"""Findings in the numbers: how many images, of which classes, in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.checks.findings.case import _NUM_REFERENCE, _NUM_SAMPLES, _SIGMAS, Finding
from dit_eval.metrics.inception_score import SPLIT_SIZE

if TYPE_CHECKING:
    from dit_eval.checks.findings.case import _Case


def _numbers(case: _Case) -> Iterator[Finding]:
    count = case.own.num_images
    expected = case.expect.num_samples if case.expect else None
    if expected is None and case.of_inception:
        expected = _NUM_SAMPLES
    if expected is not None and count != expected:
        fewer = count < expected
        yield Finding(
            id="few-samples" if fewer else "more-samples",
            certainty="certain",
            found=f"{count:,} samples; the number to compare with is of {expected:,}",
            advice=f"Draw the missing {expected - count:,}: FID and sFID grow as samples get fewer. Until then compare "
            "only with numbers of as many (pass --expect-samples), or see `dit-eval evaluate --intervals`."
            if fewer
            else f"Pass --num-samples {expected} to `dit-eval evaluate`; more samples give a lower FID.",
            # Half of the samples matter more than some that are missing.
            share=min(1.0, abs(math.log(expected / count)) / math.log(100)),
        )
    if not case.of_inception or case.reference is None:
        return
    images, size = case.reference.num_images, case.reference.size
    usual = 1_000 if size == (512, 512) and case.expect else _NUM_REFERENCE
    if images < usual and (case.expect is None or {"precision", "recall"} & set(case.expect.metrics)):
        yield Finding(
            id="few-reference",
            certainty="certain",
            found=f"{case.ref.path} holds {images:,} images"
            + (", as ADM's file for 512 px does" if images == 1_000 and size == (512, 512) else "")
            + f"; those for 256 px hold {_NUM_REFERENCE:,}",
            advice="Compare precision and recall only with numbers against as many reference images: both depend on "
            "how many there are. FID and sFID use the stored statistics, and IS no reference.",
        )


def _classes(case: _Case) -> Iterator[Finding]:
    labels, run = case.gen.labels, case.gen.run
    if labels is None or labels.min() < 0:
        return
    classes = int(labels.max()) + 1
    if case.ref.labels is not None and case.ref.labels.min() >= 0:
        classes = max(classes, int(case.ref.labels.max()) + 1)
    if run is not None:
        classes = max(classes, int(run.network.get("num_classes", 0)))
    if case.expect is not None and "model" in case.expect.setting:
        classes = max(classes, 1000)
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    target = np.full(classes, len(labels) / classes)
    spread = 1.0
    if case.ref.labels is not None and case.ref.labels.min() >= 0:
        theirs = np.bincount(case.ref.labels, minlength=classes)
        # Both counts vary; and a class that the reference lacks says nothing.
        target = np.maximum(theirs / theirs.sum() * len(labels), 0.5)
        spread = 1 + len(labels) / theirs.sum()
    if len(labels) < 2 * classes:
        return
    chi2 = float(((counts - target) ** 2 / target).sum() / spread)
    freedom = classes - 1
    z = (chi2 - freedom) / math.sqrt(2 * freedom) if freedom else 0.0
    missing = int((counts == 0).sum())
    if z > _SIGMAS and chi2 > 2 * freedom:
        share = float(np.abs(counts - target).sum() / 2 / len(labels))
        yield Finding(
            id="class-balance",
            certainty="certain",
            found=f"classes are not drawn alike: {missing:,} of {classes:,} are missing, the commonest has "
            f"{counts.max():,.0f} of {len(labels):,} images; {share:.0%} of the samples would have to be of another",
            advice="Published sets draw labels uniformly: use `dit-eval sample --labels random`.",
            share=share,
        )


def _order(case: _Case) -> Iterator[Finding]:
    """Class order moves the Inception Score alone, and only of files with more than one split."""
    count, labels = case.own.num_images, case.gen.labels
    if count <= SPLIT_SIZE:
        return
    advice = (
        f"ADM's Inception Score takes contiguous splits of {SPLIT_SIZE:,}, each of which must hold all classes: "
        "shuffle the file (images and labels alike). `evaluate --json` has the order-free score as well; FID stays."
    )
    if labels is not None:
        classes = len(np.unique(labels))
        splits = [labels[k : k + SPLIT_SIZE] for k in range(0, count, SPLIT_SIZE)]
        share = np.bincount(np.unique(labels, return_inverse=True)[1]) / count
        held = np.array([len(np.unique(split)) for split in splits])
        due = np.array([(1 - (1 - share) ** len(split)).sum() for split in splits])  # if the file were mixed
        # In a mixed file the classes held differ from their expectation by a few; a fifth is far beyond that.
        if (held / due).mean() < 0.8:
            yield Finding(
                id="order",
                certainty="certain",
                found=f"the file is class-ordered: a split of {SPLIT_SIZE:,} images holds {held.mean():,.0f} of "
                f"{classes:,} classes on average; {due.mean():,.0f} if it were mixed",
                advice=advice,
            )
        return
    cells = case.own.thumbnails.reshape(count, -1).astype(np.float64)
    cells = (cells - cells.mean(axis=0)) / np.maximum(cells.std(axis=0), 1e-3)

    def alike(rows: np.ndarray) -> float:
        return float((rows[1:] * rows[:-1]).mean())

    rng = np.random.RandomState(0)
    mixed = np.array([alike(cells[rng.permutation(count)]) for _ in range(10)])
    # Without labels: neighbours in the file look alike, more than in ten shuffled orders.
    z = (alike(cells) - mixed.mean()) / max(mixed.std(ddof=1), 1e-9)
    if z > 2 * _SIGMAS and alike(cells) > 0.02:
        yield Finding(
            id="order",
            certainty="likely",
            found=f"images look like their neighbours in the file (correlation {alike(cells):.3f}; in mixed order "
            f"{mixed.mean():.3f}), as in a file in class order",
            advice=advice,
        )
