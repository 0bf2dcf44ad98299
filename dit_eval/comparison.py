"""Several sets of samples and a reference in, a `Comparison` out: which is better, and how sure that is.

    comparison = dit_eval.compare(["a.npz", "b.npz"], ref="imagenet256")
    print(comparison)

Each set is scored as `dit_eval.evaluate` scores it, and what each of its images does to each metric is kept. Where
image i of two sets comes from the same noise and label, most of what it does cancels in the difference, so that few
images decide; that is told from how the files say that they were drawn.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_eval.features.load import load_network
from dit_eval.features.seen import Grown, given_sizes
from dit_eval.images.given import given_images
from dit_eval.images.picked import Picked, whole
from dit_eval.metrics.choose import Choice, FeatureSizes, check_metrics, chosen
from dit_eval.metrics.differences import LEVEL, differences, variations
from dit_eval.reference import given_reference
from dit_eval.results.comparison import Comparison, Pairing
from dit_eval.results.pairing import why_unpaired
from dit_eval.results.settings import ComparisonSettings, with_metrics
from dit_eval.scoring import Scored, scored
from dit_eval.sequential import COMPARISONS, least_images, looks_at
from dit_eval.system.assets import fetch, fetch_aloud
from dit_eval.system.progress import Progress
from dit_eval.system.where import Where, given_where

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.images import ImageSet
    from dit_eval.metrics.variation import Variation
    from dit_eval.results.eval_result import EvalResult

MOST_SETS = 100  # of which there are 4,950 pairs


def compare(
    gens: Sequence[Any],
    *,
    ref: str | os.PathLike[str] | np.ndarray | ImageSet | tuple[Any, Any],
    network: str | FeatureExtractor = "inception",
    metrics: str | Sequence[str] | None = None,
    settings: ComparisonSettings | None = None,
    where: Where | None = None,
    quiet: bool = False,
) -> Comparison:
    """Differences of each metric between sets of as many samples, with standard errors, intervals and verdicts.

    Parameters
    ----------
    gens : two or more sets of generated images, each as `dit_eval.evaluate` takes it
    ref, network, metrics, where, quiet : as of `dit_eval.evaluate`
    settings : the other choices

    Raises
    ------
    ValueError, FileNotFoundError, ModuleNotFoundError, OSError, FailedElsewhere
        As `dit_eval.evaluate`; ValueError also if there are fewer than two sets, or they are of different numbers of
        images, or cannot be paired as asked for.
    """
    asked = with_metrics(settings or ComparisonSettings(), metrics)
    if not isinstance(asked, ComparisonSettings):
        raise ValueError(f"`settings`: expected a ComparisonSettings; got {type(asked).__name__}.")
    settings = asked
    where = given_where(where)
    aloud = not quiet and where.world.rank == 0
    bring = fetch_aloud if aloud else fetch
    if isinstance(gens, str | os.PathLike) or not isinstance(gens, Sequence):
        raise ValueError(f"`gens`: expected a list of two or more sets of samples; got {type(gens).__name__}.")
    opened = [given_images(gen, role="gen", num_images=settings.num_images) for gen in gens]
    check_number_of_sets(opened)
    sizes = given_sizes(network, where)
    check_metrics(settings.metrics, sizes.name, settings.protocol)
    mismatch = settings.allow_size_mismatch
    ref = given_reference(ref, gen=opened[0], network=sizes.name, bring=bring, allow_size_mismatch=mismatch)
    check_sets(opened, ref=ref, network=sizes, settings=settings)
    if isinstance(network, str):
        network = load_network(network, device=where.device, world=where.world, fetch=bring)
    if where.on_progress or not aloud:
        return compare_sets(opened, ref=ref, network=network, settings=settings, where=where)
    with Progress(names={"ref": "ref features", "gen": "gen features"}) as progress:
        told = replace(where, on_progress=progress.update, on_note=where.on_note or progress.note)
        return compare_sets(opened, ref=ref, network=network, settings=settings, where=told)


def compare_sets(
    gens: Sequence[ImageSet],
    *,
    ref: ImageSet,
    network: FeatureExtractor,
    settings: ComparisonSettings,
    where: Where,
) -> Comparison:
    """`compare` with what is opened and loaded already; says nothing but by `where`. Errors as there."""
    choice = check_sets(gens, ref=ref, network=network, settings=settings)
    where = replace(where, references={} if where.references is None else where.references)
    each = _Each(ref=ref, network=network, settings=settings, where=where)
    if not settings.until_decided:
        sets = [each.seen(gen) for gen in gens]
        _check_alike(gens)  # again: only now is it known how many images an iterable has
        return _compared(sets, gens, settings)
    num = gens[0].num_images or 0
    looks = looks_at(num, error=COMPARISONS, least=least_images(choice.metrics, network))
    picked = [(Picked(images=whole(gen), rows=looks.rows(0)), Grown()) for gen in gens]
    seconds: dict[str, float] = {}
    for number, level in zip(looks.numbers, looks.levels, strict=True):
        parts = [images.other(looks.rows(number)) for images, _ in picked]
        sets = [each.seen(part, grown) for part, (_, grown) in zip(parts, picked, strict=True)]
        found = _compared(sets, parts, settings, level)
        seconds = _summed([seconds, found.seconds])
        if found.decided or number == num:
            break
    told = looks.told(number, decided=found.decided, seconds=seconds.get("gen features", 0.0))
    return replace(found, looking=told, seconds=seconds)


def check_number_of_sets(gens: Sequence[object]) -> None:
    """ValueError unless there are sets to compare."""
    if not 2 <= len(gens) <= MOST_SETS:
        raise ValueError(
            f"{len(gens)} set(s) of samples: expected 2 to {MOST_SETS}, to be compared with each other. One set alone "
            "is scored by `dit-eval evaluate`."
        )


def check_sets(
    gens: Sequence[ImageSet], *, ref: ImageSet, network: FeatureSizes, settings: ComparisonSettings
) -> Choice:
    """What will be computed of every set, found out before any network runs.

    Raises
    ------
    ValueError
        As `compare`.
    """
    check_number_of_sets(gens)
    if settings.until_decided:
        for gen in gens:
            whole(gen)
    _check_alike(gens)
    choices = [chosen(settings, gen=gen, ref=ref, network=network) for gen in gens]
    if not any(metric.variation for metric in choices[0].metrics):
        names = ", ".join(choices[0].names)
        raise ValueError(
            f"{names}: expected a metric of which it is known how far it varies; got none. Add one, such as `metrics` "
            f"{names.replace(' ', '')},{'fid' if 'fid' not in names else 'is'}."
        )
    if settings.pairing == "paired":
        _check_labels(gens)
    return choices[0]


def _check_alike(gens: Sequence[ImageSet]) -> None:
    """That all sets have as many images, of one size."""
    first = gens[0]
    for gen in gens[1:]:
        if gen.num_images != first.num_images:
            least = min(each.num_images or 0 for each in gens)
            raise ValueError(
                f"{first.path} holds {first.num_images:,} images and {gen.path} {gen.num_images:,}: expected as many "
                "of each, because distances such as FID grow as images get fewer, and their difference would be that "
                f"of the numbers. Draw the missing ones, or pass `num_images` {least} to compare the first {least:,} "
                "of each."
            )
        if gen.image_size != first.image_size:
            sizes = ["x".join(str(n) for n in reversed(each.image_size or ())) for each in (first, gen)]
            raise ValueError(
                f"{first.path} has images of {sizes[0]} and {gen.path} of {sizes[1]}: expected one size. Draw both at "
                "the same resolution."
            )


def _check_labels(gens: Sequence[ImageSet]) -> None:
    """That sets which are to be paired have the same labels, as far as they have any."""
    first = gens[0]
    for gen in gens[1:]:
        at = _first_difference(first.labels, gen.labels)
        if at is not None and first.labels is not None and gen.labels is not None:
            raise ValueError(
                f"`pairing` paired: expected the same label of image i in all sets; image {at} has {first.labels[at]} "
                f"in {first.path} and {gen.labels[at]} in {gen.path}. Draw both with the same labels, or leave it out."
            )


def _first_difference(mine: np.ndarray | None, theirs: np.ndarray | None) -> int | None:
    if mine is None or theirs is None or np.array_equal(mine, theirs):
        return None
    return int(np.flatnonzero(mine != theirs)[0])


@dataclass(frozen=True, kw_only=True)
class _Set:
    """What is kept of a set: its result, what its images do to each metric, and a checksum of their features."""

    result: EvalResult
    varied: Mapping[str, Variation | str]
    features: str


@dataclass(frozen=True, kw_only=True)
class _Each:
    """How each of the sets is seen."""

    ref: ImageSet
    network: FeatureExtractor
    settings: ComparisonSettings
    where: Where

    def seen(self, gen: ImageSet, grown: Grown | None = None) -> _Set:
        return scored(
            gen=gen,
            ref=self.ref,
            network=self.network,
            settings=self.settings,
            where=self.where,
            then=_kept,
            grown=grown,
        )


def _kept(found: Scored) -> _Set:
    gen, digest = found.sides.gen, hashlib.sha256()
    for part in (gen.pool_features, gen.spatial_features, gen.class_probs):
        if part is not None:
            digest.update(np.ascontiguousarray(part).data)
    varied = variations(found.metrics, found.sides)
    return _Set(result=found.result, varied=varied, features=digest.hexdigest())


def _compared(
    sets: Sequence[_Set], gens: Sequence[ImageSet], settings: ComparisonSettings, level: float = LEVEL
) -> Comparison:
    results = tuple(each.result for each in sets)
    pairings = tuple(_pairing(a, b, sets, gens, settings) for a, b in combinations(range(len(sets)), 2))
    found = differences(results, [each.varied for each in sets], pairings, level=level)
    pairs = len(pairings)
    return Comparison(
        results=results,
        pairings=pairings,
        differences=found,
        correction=f"Holm over the {pairs} pairs of each metric" if pairs > 1 else "none, one pair",
        notes=tuple(_notes(results, pairs)),
        seconds=_summed([result.seconds for result in results]),
    )


def _pairing(a: int, b: int, sets: Sequence[_Set], gens: Sequence[ImageSet], settings: ComparisonSettings) -> Pairing:
    """Whether two of the sets are paired: as asked for, or as the files say."""
    run, other = sets[a].result.gen.run, sets[b].result.gen.run
    same = sets[a].features == sets[b].features
    if settings.pairing is not None:
        return Pairing(a=a, b=b, paired=settings.pairing == "paired", reason="as asked for", same=same)
    if same:
        return Pairing(a=a, b=b, paired=True, reason="the same images", same=True)
    reason = why_unpaired(run, other)
    if reason is None and (at := _first_difference(gens[a].labels, gens[b].labels)) is not None:
        reason = f"image {at} has another label"
    if reason is not None or run is None:
        return Pairing(a=a, b=b, paired=False, reason=reason or "")
    return Pairing(a=a, b=b, paired=True, reason=f"the same noise and labels, seed {run.global_seed}")


def _notes(results: Sequence[EvalResult], pairs: int) -> list[str]:
    first = results[0]
    found = [
        f"about the expected values at N = {first.num_samples:,} against this reference, held fixed; what N images "
        "add to a distance is in both sets, and cancels as far as they are alike"
    ]
    if pairs > 1:
        found.append(f"verdicts and p are by Holm's correction over the {pairs} pairs of a metric; intervals are not")
    return found


def _summed(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    phases = dict.fromkeys(phase for each in seconds for phase in each)
    return {phase: round(sum(each.get(phase, 0.0) for each in seconds), 3) for phase in phases}
