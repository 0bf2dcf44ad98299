"""Which classes are worst: one score per class, from the features that `evaluate` keeps in the cache.

report = score_classes(gen=gen, ref=ref, extractor=extractor, cache=Path("cache"))
for score in report.worst(10):
    print(score.label, score.kid, score.standard_error)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.features.cache import cache_entry, cached_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.features.provenance import against_itself, announce, checksums, extractor_info, image_source
from dit_eval.images import ImageSet
from dit_eval.metrics.per_class import LEAST_IMAGES, ClassScore, class_scores
from dit_eval.results.eval_result import ExtractorInfo, ImageSource
from dit_eval.results.parse import json_text
from dit_eval.system.environment import environment, now
from dit_eval.system.progress import OnProgress

METHOD = "kernel (u.v / D + 1)^3 over all pairs of distinct images of a class, unbiased"


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """Scores of all classes, by ascending label, with their provenance.

    Attributes
    ----------
    scores : one for each class that occurs on a side
    method : what the distance of a class is
    gen, ref : the two sets
    extractor : the network behind the features
    warnings : what a reader of the numbers must know
    environment, time : where and when
    """

    scores: tuple[ClassScore, ...]
    method: str
    gen: ImageSource
    ref: ImageSource
    extractor: ExtractorInfo
    warnings: tuple[str, ...]
    environment: dict[str, Any]
    time: str

    def worst(self, count: int) -> tuple[ClassScore, ...]:
        """Those that lie farthest from the reference, the farthest first."""
        known = [score for score in self.scores if score.kid is not None]
        return tuple(sorted(known, key=lambda score: (-(score.kid or 0.0), score.label))[:count])

    def text(self, count: int = 10) -> str:
        """The numbers of images and the worst classes, as people read them."""
        return "\n".join([*self._lines_of_numbers(), *self._lines_of_worst(count)]) + "\n"

    def _lines_of_numbers(self) -> list[str]:
        numbers = {
            "samples": np.array([score.num_gen for score in self.scores]),
            "reference images": np.array([score.num_ref for score in self.scores]),
        }
        lines = [f"{len(self.scores):,} classes, features of {self.extractor.name}"]
        for what, counts in numbers.items():
            line = f"  {what}: {counts.sum():,}, {counts.min():,} to {counts.max():,} in a class"
            missing = int((counts == 0).sum())
            lines.append(line + (f"; {missing:,} classes have none" if missing else ""))
        return lines

    def _lines_of_worst(self, count: int) -> list[str]:
        lines = []
        known = np.array([score.kid for score in self.scores if score.kid is not None])
        if len(known) < len(self.scores):
            lines.append(
                f"  {len(self.scores) - len(known):,} classes without a distance: fewer than {LEAST_IMAGES} images"
            )
        if len(known):
            low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
            lines.append(f"  KID of a class: median {middle:.4g}, nine tenths within {low:.4g} to {high:.4g}")
            names = ("worst classes", "KID", "standard error", "samples", "reference")
            lines.append("  ".join(f"{name:>{max(len(name), 9)}}" for name in names))
            lines += [
                f"{score.label:>13}  {score.kid:>9.4g}  {score.standard_error:>14.2g}  {score.num_gen:>9,}  "
                f"{score.num_ref:>9,}"
                for score in self.worst(count)
            ]
        return lines

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json_text(asdict(self))


def score_classes(
    *,
    gen: ImageSet,
    ref: ImageSet,
    extractor: FeatureExtractor,
    batch_size: int = 64,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> ClassReport:
    """Compare each class of the samples with the same class of the reference.

    Parameters
    ----------
    gen, ref : opened by `dit_eval.images.open_images`, both with labels and images
    extractor, batch_size, cache, on_progress, on_note : see `dit_eval.evaluation.evaluate`, whose features in the cache
        serve here

    Raises
    ------
    ValueError
        If a side has no labels, no images, unlabelled images among them, or the two have no class in common; before
        any network runs.
    """
    gen_labels, ref_labels = _labels(gen, "gen"), _labels(ref, "ref")
    if not len(np.intersect1d(gen_labels, ref_labels)):
        found = f"gen {gen_labels.min()} to {gen_labels.max()}; ref {ref_labels.min()} to {ref_labels.max()}"
        raise ValueError(f"{gen.path} and {ref.path} have no class in common ({found}). Number both sides alike.")
    features: dict[str, np.ndarray] = {}
    sets = {"ref": ref, "gen": gen}
    if on_progress:
        announce(on_progress, sets)
    sha256 = {role: text or "" for role, text in zip(sets, checksums(ref, gen, on_progress=on_progress), strict=True)}
    for role, images in sets.items():
        report = partial(on_progress, role) if on_progress else None
        summary, kept = cached_features(
            images,
            extractor,
            entry=cache_entry(images, extractor, images_sha256=sha256[role], cache=cache, on_note=on_note),
            batch_size=batch_size,
            on_progress=report,
        )
        if kept and report and images.num_images:
            report(images.num_images, images.num_images)
        if summary.pool_features is None:
            raise RuntimeError("The features of a set with images are missing.")
        features[role] = summary.pool_features
    gen_source = image_source(gen, sha256["gen"], "computed")
    ref_source = image_source(ref, sha256["ref"], "computed")
    scores = class_scores(gen=features["gen"], gen_labels=gen_labels, ref=features["ref"], ref_labels=ref_labels)
    return ClassReport(
        scores=scores,
        method=METHOD,
        gen=gen_source,
        ref=ref_source,
        extractor=extractor_info(extractor),
        warnings=(*_warnings(scores, gen, ref), *against_itself(gen_source, ref_source)),
        environment=environment(),
        time=now(),
    )


def images_of_class(images: ImageSet, label: int, count: int) -> np.ndarray:
    """The first images of a class, uint8 (n, H, W, 3) with n up to `count`; reads no others.

    Raises
    ------
    ValueError
        If the set has no labels, or no image of the class.
    """
    rows = np.flatnonzero(_labels(images, "images") == label)[:count]
    if not len(rows):
        raise ValueError(f"{images.path}: no image of class {label}.")
    return np.concatenate([batch for k in rows for batch in images.batches(1, first=int(k), last=int(k) + 1)])


def _labels(images: ImageSet, role: str) -> np.ndarray:
    if images.read_once or not images.num_images:
        raise ValueError(f"{images.path} ({role}) holds no images that can be read again; pass a file or a folder.")
    if images.labels is None and images.labels_problem:
        raise ValueError(f"{images.path} ({role}) has no labels that can be used: {images.labels_problem}.")
    if images.labels is None:
        raise ValueError(
            f"{images.path} ({role}) has no labels, and classes are compared one by one. Labels are the key arr_1 of "
            "an npz file, or one folder per class; `dit-eval sample` and `dit-eval stats` keep them."
        )
    if images.labels.min() < 0:
        raise ValueError(f"{images.path} ({role}) has labels below 0; classes are numbered from 0.")
    return images.labels


def _warnings(scores: Sequence[ClassScore], gen: ImageSet, ref: ImageSet) -> list[str]:
    warnings = [*gen.warnings, *ref.warnings]
    for role, images, missing in (
        ("samples", gen, sum(not score.num_gen for score in scores)),
        ("reference images", ref, sum(not score.num_ref for score in scores)),
    ):
        if missing:
            warnings.append(f"{missing:,} of {len(scores):,} classes have no {role} in {images.path}.")
    return warnings
