"""One set of samples against one reference: features of both, then each metric of them. `dit_eval.evaluation` calls it
for a score, `dit_eval.comparison` for each of several sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from dit_eval.features.provenance import against_itself, announce, checksums, extractor_info
from dit_eval.features.seen import Seen, pass_over
from dit_eval.images.encoded import ImageFiles
from dit_eval.images.npz import ImageBatch
from dit_eval.images.picked import Picked
from dit_eval.metrics.choose import Choice, chosen
from dit_eval.metrics.intervals import estimate_uncertainty
from dit_eval.metrics.metric import Metric, Sides
from dit_eval.results.badge import by_other_protocol, make_badge, precision_warnings, protocol_name
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.references import reference_protocol, reference_warnings
from dit_eval.system.environment import environment, now, peak_memory_bytes
from dit_eval.system.progress import timed

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.features.seen import Grown
    from dit_eval.images import ImageSet
    from dit_eval.results.settings import EvaluationSettings
    from dit_eval.system.where import Where

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A result, and what it was computed from.

    Attributes
    ----------
    sides : features
    metrics : those that were computed
    """

    result: EvalResult
    sides: Sides
    metrics: tuple[Metric, ...]


def scored(
    *,
    gen: ImageSet,
    ref: ImageSet,
    network: FeatureExtractor,
    settings: EvaluationSettings,
    where: Where,
    then: Callable[[Scored], T],
    grown: Grown | None = None,
) -> T:
    """Pass two sets through the network and compute the chosen metrics.

    Parameters
    ----------
    then : what to make of it, called in process 0; all processes get what it returns
    grown : features of gen so far, to which those of its other images are added

    Raises
    ------
    As `dit_eval.evaluation.score`.
    """
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
                keep = role == "gen" and settings.keeps_spatial and choice.takes_spatial
                size = settings.batch_size
                seen[role] = pass_over(
                    role,
                    seen[role],
                    network,
                    batch_size=size,
                    keep_spatial=keep,
                    where=where,
                    grown=grown if role == "gen" else None,
                )
    if choice.stored:
        stored = replace(seen["ref"].features, pool=ref.pool, spatial=ref.spatial, class_probs=None)
        seen["ref"] = replace(seen["ref"], features=stored)
    # Again: only now is it known how many images an iterable has.
    choice = replace(chosen(settings, gen=gen, ref=ref, network=network), reads_ref=choice.reads_ref)
    if where.on_progress:
        where.on_progress("metrics", 0, None)
    return where.world.from_first(lambda: then(_scored(seen["gen"], seen["ref"], network, choice, settings, seconds)))


def _scored(
    gen: Seen,
    ref: Seen,
    network: FeatureExtractor,
    choice: Choice,
    settings: EvaluationSettings,
    seconds: dict[str, float],
) -> Scored:
    """The metrics, and all that a result says beside them; of process 0 alone."""
    info = extractor_info(network)
    gen_source, (ref_source, pr_source) = gen.source("computed"), ref.sources(stored=choice.stored)
    sides = Sides(
        gen=gen.features,
        ref=ref.features,
        gen_labels=gen.images.labels,
        gen_order=gen.images.plain_order() if isinstance(gen.images, ImageFiles | Picked) else None,
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
    result = EvalResult(
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
    return Scored(result=result, sides=sides, metrics=choice.metrics)
