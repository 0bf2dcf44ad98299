"""Samples and a reference in, an `EvalResult` out. The page to read first.

    result = dit_eval.evaluate("samples.npz", ref="imagenet256")      # or a folder, zip or tar of images, an array, ...
    print(result)

The steps are those of ADM's suite: features of both sets, statistics (stored ones win for the reference), then each of
the chosen metrics. What a metric is stands in its file in `dit_eval/metrics`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dit_eval.features.load import load_network
from dit_eval.features.provenance import against_itself, announce, checksums, extractor_info
from dit_eval.features.seen import Seen, given_sizes, pass_over
from dit_eval.images.encoded import ImageFiles
from dit_eval.images.given import given_images
from dit_eval.images.npz import ImageBatch
from dit_eval.metrics.choose import Choice, check_metrics, chosen
from dit_eval.metrics.intervals import estimate_uncertainty
from dit_eval.metrics.metric import Sides
from dit_eval.reference import given_reference
from dit_eval.results.badge import by_other_protocol, make_badge, precision_warnings, protocol_name
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.references import reference_protocol, reference_warnings
from dit_eval.results.settings import EvaluationSettings, with_metrics
from dit_eval.system.assets import fetch, fetch_aloud
from dit_eval.system.environment import environment, now, peak_memory_bytes
from dit_eval.system.progress import Progress, timed
from dit_eval.system.where import Where, given_where

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.features.network import FeatureExtractor
    from dit_eval.images import ImageSet


def evaluate(
    gen: str | os.PathLike[str] | np.ndarray | ImageSet,
    *,
    ref: str | os.PathLike[str] | np.ndarray | ImageSet | tuple[Any, Any],
    network: str | FeatureExtractor = "inception",
    metrics: str | Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    where: Where | None = None,
    quiet: bool = False,
) -> EvalResult:
    """Score a sample batch against a reference batch by ADM's protocol, and by that of each further metric.

    Parameters
    ----------
    gen : generated images: a path (npz, folder, zip, tar, saved dataset), a uint8 array (N, H, W, 3), or an image set
        of `open_images`, `from_batches` or `from_dataset`
    ref : real images or their statistics: as gen, the name of a public reference batch such as "imagenet256", or the
        address of a file; or a pair of them, statistics and images: the images are for precision, recall and what else
        compares single images
    network : a name of `NETWORKS`, or a loaded network; public references and weights are fetched into the cache
    metrics : names of `METRICS`, each of which must be possible, here or in `settings`; None as in `choose`
    settings : the other choices that decide a number
    where : device, processes, cache
    quiet : say nothing on stderr

    Raises
    ------
    ValueError
        If an argument is of another type or value than stated, or the files do not fit the request or each other,
        before any network runs; after it, if a file cannot be read, or an iterable had too few images for a metric.
    FileNotFoundError, ModuleNotFoundError, OSError
        If a file or a package is missing, or a public file cannot be fetched.
    FailedElsewhere
        In the other processes, if process 0 fails in what it does alone.
    """
    settings, where = with_metrics(settings, metrics), given_where(where)
    aloud = not quiet and where.world.rank == 0
    bring = fetch_aloud if aloud else fetch
    gen = given_images(gen, role="gen", num_images=settings.num_images)
    sizes = given_sizes(network, where)
    check_metrics(settings.metrics, sizes.name, settings.protocol)
    mismatch = settings.allow_size_mismatch
    ref = given_reference(ref, gen=gen, network=sizes.name, bring=bring, allow_size_mismatch=mismatch)
    chosen(settings, gen=gen, ref=ref, network=sizes)
    if isinstance(network, str):
        network = load_network(network, device=where.device, world=where.world, fetch=bring)
    if where.on_progress or not aloud:
        return score(gen=gen, ref=ref, network=network, settings=settings, where=where)
    with Progress(names={"ref": "ref features", "gen": "gen features"}) as progress:
        told = replace(where, on_progress=progress.update, on_note=where.on_note or progress.note)
        return score(gen=gen, ref=ref, network=network, settings=settings, where=told)


def score(
    *,
    gen: ImageSet,
    ref: ImageSet,
    network: FeatureExtractor,
    settings: EvaluationSettings | None = None,
    where: Where | None = None,
) -> EvalResult:
    """`evaluate` with what is opened and loaded already; says nothing but by `where`. Errors as there."""
    settings, where = settings or EvaluationSettings(), where or Where()
    choice = chosen(settings, gen=gen, ref=ref, network=network)
    if where.on_progress:
        announce(where.on_progress, {"ref": ref if choice.reads_ref else None, "gen": gen})
    seconds: dict[str, float] = {}
    with timed(seconds, "checksums"):  # of an iterable it is known once the images have been read
        sha256 = where.world.from_first(lambda: checksums(gen, ref, on_progress=where.on_progress))
    seen = {"gen": Seen(images=gen, sha256=sha256[0]), "ref": Seen(images=ref, sha256=sha256[1])}
    for role in ("ref", "gen"):
        if role == "gen" or choice.reads_ref or ref.read_once:  # nothing but its images tells what an iterable was
            with timed(seconds, f"{role} features"):
                keep = role == "gen" and settings.intervals and choice.takes_spatial
                size = settings.batch_size
                seen[role] = pass_over(role, seen[role], network, batch_size=size, keep_spatial=keep, where=where)
    if choice.stored:
        stored = replace(seen["ref"].features, pool=ref.pool, spatial=ref.spatial, class_probs=None)
        seen["ref"] = replace(seen["ref"], features=stored)
    # Again: only now is it known how many images an iterable has.
    choice = replace(chosen(settings, gen=gen, ref=ref, network=network), reads_ref=choice.reads_ref)
    if where.on_progress:
        where.on_progress("metrics", 0, None)
    return where.world.from_first(lambda: _result(seen["gen"], seen["ref"], network, choice, settings, seconds))


def _result(
    gen: Seen,
    ref: Seen,
    network: FeatureExtractor,
    choice: Choice,
    settings: EvaluationSettings,
    seconds: dict[str, float],
) -> EvalResult:
    """The metrics, and all that a result says beside them; of process 0 alone."""
    info = extractor_info(network)
    gen_source, (ref_source, pr_source) = gen.source("computed"), ref.sources(stored=choice.stored)
    sides = Sides(
        gen=gen.features,
        ref=ref.features,
        gen_labels=gen.images.labels,
        gen_order=gen.images.plain_order() if isinstance(gen.images, ImageFiles) else None,
        stored=choice.stored,
        distances=settings.distances,
        device=network.device if network.backend == "torch" else "cpu",
    )
    warnings = [*choice.warnings, *precision_warnings(info), *gen.images.warnings, *ref.images.warnings]
    warnings += against_itself(gen_source, ref_source, gen.features.pool, ref.features.pool)
    warnings += against_itself(gen_source, pr_source) if pr_source else []
    warnings += reference_warnings(ref_source) if info.name == "inception" else []
    with timed(seconds, "metrics"):
        found: dict[str, float] = {}
        for compute in dict.fromkeys(metric.score for metric in choice.metrics):  # precision and recall share theirs
            scores = compute(sides)
            found |= scores.values
            warnings += scores.warnings
        values: dict[str, float | None] = {
            key: found[key] for metric in choice.metrics for key in (metric.key, *metric.details)
        }
    uncertainty = None
    if settings.intervals:
        with timed(seconds, "intervals"):
            uncertainty = estimate_uncertainty(sides, scores=values)
    badge = make_badge(
        extractor=info,
        gen=gen_source,
        ref=ref_source,
        pr_ref=pr_source,
        distances=settings.distances if choice.protocol is None else "adm-float16",
        needs_classifier=any(metric.needs.class_probs for metric in choice.metrics),
        whole_reference=not isinstance(ref.images, ImageBatch) or ref.images.num_images == ref.images.num_stored,
    )
    if choice.protocol is not None:
        badge = by_other_protocol(badge, choice.protocol)
    return EvalResult(
        scores=values,
        num_samples=gen_source.num_images,
        num_reference=(pr_source or ref_source).num_images if choice.reads_ref else None,
        protocol=protocol_name(badge, info.name, choice.protocol),
        extractor=info,
        gen=gen_source,
        ref=ref_source,
        pr_ref=pr_source,
        badge=badge,
        reference_protocol=reference_protocol(ref_source),
        protocols={metric.name: metric.protocol for metric in choice.metrics if metric.protocol},
        distances=settings.distances,
        uncertainty=uncertainty,
        warnings=tuple(warnings),
        seconds={phase: round(duration, 3) for phase, duration in seconds.items()},
        peak_memory_bytes=peak_memory_bytes(),
        environment=environment(),
        time=now(),
    )
