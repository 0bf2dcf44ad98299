"""Findings in the numbers: how many images, of which classes, in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dit_eval.checks.expectation import INCEPTION_SCORE, PUBLISHED_SAMPLES
from dit_eval.checks.findings.case import SIGMAS, Case, Cause, Seen
from dit_eval.metrics.inception_score import SPLIT_SIZE
from dit_eval.results.settings import LABEL_RULES

_REFERENCE_IMAGES = 10_000  # of ADM's files for 256 px and below


def _expected_samples(case: Case) -> int | None:
    expected = case.expect.num_samples if case.expect else None
    return PUBLISHED_SAMPLES if expected is None and case.of_inception else expected


def _few_samples(case: Case) -> Iterator[Seen]:
    count, expected = case.own.num_images, _expected_samples(case)
    if expected is not None and count < expected:
        yield _other_number(
            count,
            expected,
            f"Draw the missing {expected - count:,}: FID and sFID grow as samples get fewer. Until then compare "
            "only with numbers of as many (pass --expect-samples), or see `dit-eval evaluate --intervals`.",
        )


def _more_samples(case: Case) -> Iterator[Seen]:
    count, expected = case.own.num_images, _expected_samples(case)
    if expected is not None and count > expected:
        advice = f"Pass --num-images {expected} to `dit-eval evaluate`; more samples give a lower FID."
        yield _other_number(count, expected, advice)


def _other_number(count: int, expected: int, advice: str) -> Seen:
    return Seen(
        certainty="certain",
        found=f"{count:,} samples; the number to compare with is of {expected:,}",
        advice=advice,
        # Half of the samples matter more than some that are missing.
        share=min(1.0, abs(math.log(expected / count)) / math.log(100)),
    )


def _few_reference(case: Case) -> Iterator[Seen]:
    if not case.of_inception or case.reference is None:
        return
    images, size = case.reference.num_images, case.reference.size
    usual = 1_000 if size == (512, 512) and case.expect else _REFERENCE_IMAGES
    if images < usual and (case.expect is None or {"precision", "recall"} & set(case.expect.metrics)):
        yield Seen(
            certainty="certain",
            found=f"{case.ref.path} holds {images:,} images"
            + (", as ADM's file for 512 px does" if images == 1_000 and size == (512, 512) else "")
            + f"; those for 256 px hold {_REFERENCE_IMAGES:,}",
            advice="Compare precision and recall only with numbers against as many reference images: both depend on "
            "how many there are. FID and sFID use the stored statistics, and IS no reference.",
        )


def _reference_labels(case: Case) -> np.ndarray | None:
    labels = case.ref.labels
    return None if labels is None or labels.min() < 0 else labels


def _num_classes(case: Case, labels: np.ndarray) -> int:
    """The most that samples, reference, network or published model have."""
    reference, run, expect = _reference_labels(case), case.gen.run, case.expect
    said = 0 if run is None else run.network.get("num_classes")  # whatever a file says
    return max(
        int(labels.max()) + 1,
        0 if reference is None else int(reference.max()) + 1,
        said if isinstance(said, int) else 0,
        1000 if expect is not None and "model" in expect.setting else 0,
    )


def _classes(case: Case) -> Iterator[Seen]:
    labels, reference = case.gen.labels, _reference_labels(case)
    if labels is None or labels.min() < 0:
        return
    classes = _num_classes(case, labels)
    if len(labels) < 2 * classes:
        return
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    target = np.full(classes, len(labels) / classes)
    spread = 1.0
    if reference is not None:
        theirs = np.bincount(reference, minlength=classes)
        # Both counts vary; and a class that the reference lacks says nothing.
        target = np.maximum(theirs / theirs.sum() * len(labels), 0.5)
        spread = 1 + len(labels) / theirs.sum()
    chi2 = float(((counts - target) ** 2 / target).sum() / spread)
    freedom = classes - 1
    z = (chi2 - freedom) / math.sqrt(2 * freedom) if freedom else 0.0
    missing = int((counts == 0).sum())
    if z > SIGMAS and chi2 > 2 * freedom:
        share = float(np.abs(counts - target).sum() / 2 / len(labels))
        yield Seen(
            certainty="certain",
            found=f"classes are not drawn alike: {missing:,} of {classes:,} are missing, the commonest has "
            f"{counts.max():,.0f} of {len(labels):,} images; {share:.0%} of the samples would have to be of another",
            advice="Published sets draw labels uniformly: use `dit-eval sample --labels random`.",
            share=share,
        )


def _label_rule(case: Case) -> Iterator[Seen]:
    """As many images of each class where published labels are random, or the other way round, by the labels' counts."""
    labels, expect = case.gen.labels, case.expect
    rule = expect.setting.get("labels") if expect is not None else None
    if labels is None or labels.min() < 0 or expect is None or rule not in LABEL_RULES:
        return
    counts = np.bincount(labels, minlength=_num_classes(case, labels))
    each = len(labels) / len(counts)
    # Random labels of ten classes and more are never as many of each by chance; images that no class can have as many
    # of as another are told nothing of.
    if len(counts) < 10 or each < 2 or each != int(each):
        return
    is_balanced = bool((counts == each).all())
    if is_balanced == (rule == "balanced"):
        return
    found = f"{each:.0f} samples of each class" if is_balanced else f"{counts.min():,} to {counts.max():,} of a class"
    theirs = "drawn at random" if rule == "random" else f"as many of each class ({each:.0f})"
    yield Seen(
        certainty="certain",
        found=f"{found}; labels of {expect.name} are {theirs}",
        advice=f"Draw labels as published: `dit-eval sample --labels {rule}`. As many of each class have given an FID "
        "about 0.1 lower than random labels (README of RAE).",
    )


def _order(case: Case) -> Iterator[Seen]:
    """Class order moves ADM's Inception Score alone, and only of files with more than one split."""
    expected = case.expect.inception_score if case.expect is not None else None
    if expected not in (None, INCEPTION_SCORE):  # by a rule that mixes the images itself
        return
    if case.own.num_images > SPLIT_SIZE:
        yield from _order_of_pictures(case) if case.gen.labels is None else _order_of_labels(case.gen.labels)


_MIX = (
    f"ADM's Inception Score takes contiguous splits of {SPLIT_SIZE:,}, each of which must hold all classes: "
    "shuffle the file (images and labels alike). `evaluate --json` has the order-free score as well; FID stays."
)


def _order_of_labels(labels: np.ndarray) -> Iterator[Seen]:
    count, classes = len(labels), len(np.unique(labels))
    splits = [labels[k : k + SPLIT_SIZE] for k in range(0, count, SPLIT_SIZE)]
    share = np.bincount(np.unique(labels, return_inverse=True)[1]) / count
    held = np.array([len(np.unique(split)) for split in splits])
    due = np.array([(1 - (1 - share) ** len(split)).sum() for split in splits])  # if the file were mixed
    # In a mixed file the classes held differ from their expectation by a few; a fifth is far beyond that.
    if (held / due).mean() < 0.8:
        yield Seen(
            certainty="certain",
            found=f"the file is class-ordered: a split of {SPLIT_SIZE:,} images holds {held.mean():,.0f} of "
            f"{classes:,} classes on average; {due.mean():,.0f} if it were mixed",
            advice=_MIX,
        )


def _order_of_pictures(case: Case) -> Iterator[Seen]:
    """Without labels: neighbours in the file look alike, more than in ten shuffled orders."""
    count = case.own.num_images
    cells = case.own.thumbnails.reshape(count, -1).astype(np.float64)
    cells = (cells - cells.mean(axis=0)) / np.maximum(cells.std(axis=0), 1e-3)
    rng = np.random.RandomState(0)
    mixed = np.array([_alike(cells[rng.permutation(count)]) for _ in range(10)])
    as_stored = _alike(cells)
    z = (as_stored - mixed.mean()) / max(mixed.std(ddof=1), 1e-9)
    if z > 2 * SIGMAS and as_stored > 0.02:
        yield Seen(
            certainty="likely",
            found=f"images look like their neighbours in the file (correlation {as_stored:.3f}; in mixed order "
            f"{mixed.mean():.3f}), as in a file in class order",
            advice=_MIX,
        )


def _alike(rows: np.ndarray) -> float:
    return float((rows[1:] * rows[:-1]).mean())


CLASS_BALANCE = Cause(id="class-balance", title="classes that are not drawn alike", look=_classes)
LABEL_RULE = Cause(id="label-rule", title="as many samples of each class, or not", look=_label_rule)
ORDER = Cause(id="order", title="a file in class order", look=_order)
FEW_SAMPLES = Cause(id="few-samples", title="fewer samples than the published number is of", look=_few_samples)
MORE_SAMPLES = Cause(id="more-samples", title="more samples than the published number is of", look=_more_samples)
FEW_REFERENCE = Cause(id="few-reference", title="fewer reference images than ADM's", look=_few_reference)
