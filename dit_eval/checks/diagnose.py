"""Why is my number not the published one? Looks at samples, reference, run and result, and ranks what may be wrong.

    for finding in diagnose(gen=gen, ref=ref, expect=expectation("dit-xl-2-cfg1.5")).findings:
        print(finding.certainty, finding.found, finding.advice)

No network is needed, except to see whether stored statistics are of the network at hand. Each finding brings what the
damage did to each metric where `reference_stats/make_effects.py` has measured it (`effects.json`), and nothing where
it has not. Thresholds are set so that a sound file, of whatever model, has no finding; a small damage can stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

from dit_eval.checks.expectation import Expectation
from dit_eval.checks.findings import FINDINGS, Case, Finding
from dit_eval.checks.findings.effects import effects
from dit_eval.checks.pixels import PixelFacts, read_pixels
from dit_eval.features.network import FeatureExtractor
from dit_eval.images import ImageSet
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.parse import json_text
from dit_eval.results.references import NOT_RECORDED

_RANK: dict[str, int] = {"certain": 0, "likely": 1, "possible": 2}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of a result beside the published one; `inside` its 95 % interval, None where the result has none."""

    metric: str
    published: float
    measured: float
    inside: bool | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found, the most certain and largest first; what was compared; and what could not be looked at.

    Attributes
    ----------
    unchecked : what could not be checked, each with the reason
    """

    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...] = ()
    expected: Expectation | None = None
    unchecked: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json_text(asdict(self))


def diagnose(
    *,
    gen: ImageSet,
    ref: ImageSet,
    expect: Expectation | None = None,
    result: EvalResult | None = None,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 64,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Diagnosis:
    """Look for causes of a number that is off.

    Parameters
    ----------
    gen, ref : opened by `dit_eval.images.open_images`; not iterables, which tell nothing before they are read
    expect : what the number is compared with
    result : the evaluation of these samples
    extractor : also see whether the statistics of ref are of this network, by passing some of its images through it
    on_progress : called with role, images done, images in all

    Raises
    ------
    ValueError
        If there is no sample image, or one of the files cannot be read.
    """
    own, reference = _facts(gen=gen, ref=ref, batch_size=batch_size, on_progress=on_progress)
    if own is None:
        raise ValueError(f"{gen.path}: no images to look at; needed sample images.")
    case = Case(gen=gen, ref=ref, own=own, reference=reference, expect=expect, result=result, extractor=extractor)
    return Diagnosis(
        findings=_ranked(_find(case)),
        comparisons=_comparisons(expect, result),
        expected=expect,
        unchecked=tuple(_unchecked(case)),
    )


def _facts(
    *,
    gen: ImageSet,
    ref: ImageSet,
    batch_size: int,
    on_progress: Callable[[str, int, int | None], None] | None,
) -> tuple[PixelFacts | None, PixelFacts | None]:
    """Facts about the pixels of samples and reference, the reference read first; None of a set without images."""
    sets = {"ref": ref, "gen": gen}
    for role, images in sets.items():
        if on_progress and images.num_images:
            on_progress(role, 0, images.num_images)  # so that the time left is of both
    facts: dict[str, PixelFacts | None] = {}
    for role, images in sets.items():
        report = partial(on_progress, role) if on_progress else None
        facts[role] = read_pixels(images, batch_size=batch_size, on_progress=report) if images.num_images else None
    return facts["gen"], facts["ref"]


def _find(case: Case) -> list[Finding]:
    """Findings in the order of `FINDINGS`, without those that are consequences of another one."""
    seen = [(cause, each) for cause in FINDINGS for each in cause.look(case)]
    explained = {name for cause, _ in seen for name in cause.explains}
    measured = effects()
    return [
        Finding(
            id=cause.id,
            certainty=each.certainty,
            found=each.found,
            advice=each.advice,
            share=each.share,
            effects=measured.get(cause.id, ()),
            explains=cause.explains,
        )
        for cause, each in seen
        if cause.id not in explained
    ]


def _ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """The most certain first, then by the measured effect on the share of images concerned.

    Sorting is stable: where neither tells, the order of `FINDINGS` stands.
    """

    def place(finding: Finding) -> tuple[int, float]:
        largest = max((effect.size for effect in finding.effects), default=0.0)
        return _RANK[finding.certainty], -finding.share * largest

    return tuple(sorted(findings, key=place))


def _comparisons(expect: Expectation | None, result: EvalResult | None) -> tuple[Comparison, ...]:
    if expect is None or result is None:
        return ()
    rows = []
    for metric, published in expect.metrics.items():
        value = result.scores.get(metric)
        if value is None and metric == "fid":
            value = result.scores.get("fid_torch_fidelity")  # the same to 1e-5
        if value is None:
            continue
        estimate = getattr(result.uncertainty, metric, None)
        inside = None if estimate is None else estimate.low <= published <= estimate.high
        rows.append(Comparison(metric=metric, published=published, measured=value, inside=inside))
    return tuple(rows)


def _unchecked(case: Case) -> Iterator[str]:
    if case.reference is None:
        yield f"{case.ref.path} holds no images: colours, orientation, sharpness and range are not compared."
    if case.gen.labels is None:
        why = case.gen.labels_problem or "holds no labels (arr_1)"
        yield f"{case.gen.path}: {why}: the balance of classes is not known."
    yield from _unchecked_run(case)
    if min(case.own.size) < 32:
        yield f"{case.gen.path}: images below 32 px are too small to look for a resize or JPEG in them."
    if case.extractor is None and case.ref.pool is not None:
        yield f"{case.ref.path}: whether its statistics are of this Inception takes the network (--network)."
    if case.result is not None and case.result.reference_protocol is None:
        yield f"The result of {case.gen.path} is of an earlier version: {NOT_RECORDED}. Score the samples again."
    if case.result is None and case.expect is not None:
        yield f"No result of {case.gen.path} is known; score it with `dit-eval evaluate`, or name its --results."


def _unchecked_run(case: Case) -> Iterator[str]:
    if case.gen.run is None:
        yield (
            f"{case.gen.path} does not say how it was drawn: guidance, steps, decoder, precision and the rule of "
            "rounding to 8 bits are not known, and pixels alone do not tell them."
        )
    elif case.expect is None or not case.expect.setting:
        yield "No published setting was named (--expect): guidance, steps and decoder have nothing to compare with."
