"""Why is my number not the published one? Looks at samples, reference, run and result, and ranks what may be wrong.

    for finding in diagnose(gen=gen, ref=ref, expect=expectation("dit-xl-2-cfg1.5")).findings:
        print(finding.certainty, finding.found, finding.advice)

No network is needed, except to see whether stored statistics are of the network at hand. Each finding brings what the
damage did to each metric where `reference_stats/make_effects.py` has measured it (`effects.json`), and nothing where
it has not. Thresholds are set so that a sound file, of whatever model, has no finding; a small damage can stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

from dit_eval.checks.findings.case import _NUM_SAMPLES, Expectation, Finding, _Case
from dit_eval.checks.findings.counts import _classes, _numbers, _order
from dit_eval.checks.findings.effects import effects
from dit_eval.checks.findings.pictures import _colours, _copies, _empty, _jpeg, _orientation, _resized, _size
from dit_eval.checks.findings.reference import _statistics
from dit_eval.checks.findings.settings import _result, _run
from dit_eval.checks.findings.values import _range
from dit_eval.checks.pixels import PixelFacts, read_pixels
from dit_eval.features.network import FeatureExtractor
from dit_eval.images.open import ImageSet
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.parse import json_text
from dit_eval.system.text import did_you_mean

_RANK: dict[str, int] = {"certain": 0, "likely": 1, "possible": 2}
_METRICS = ("fid", "sfid", "inception_score", "precision", "recall")


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


def expectations() -> dict[str, Expectation]:
    """The paper's results with DiT-XL/2, with their settings (Tables 2 and 3 and the text around them)."""
    from dit_eval.paper import load_table

    known = {}
    for table, size in ((2, 256), (3, 512)):
        for row in load_table(table).itertuples():
            if not str(row.model).startswith("DiT-XL/2"):
                continue
            scale = float(str(row.model).rpartition("=")[2].rstrip(")")) if "=" in str(row.model) else 1.0
            name = f"dit-xl-2{'' if size == 256 else '-512'}{'' if scale == 1.0 else f'-cfg{scale:g}'}"
            guided = {"cfg_channels": 3} if scale != 1.0 else {}
            known[name] = Expectation(
                name=name,
                source=str(row.source),
                setting={
                    **{"model": "DiT-XL/2", "image_size": size, "cfg_scale": scale, **guided},
                    **{"num_sampling_steps": "250", "sampler": "ddpm", "vae": "ema", "weights": "ema"},
                    **{"labels": "random", "rounding": "dit", "vae_tiling": False},
                },
                metrics={metric: float(getattr(row, metric)) for metric in _METRICS},
                num_samples=_NUM_SAMPLES,
            )
    return known


def expectation(name: str) -> Expectation:
    """The published result of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    known = expectations()
    if name not in known:
        raise ValueError(
            f"No published result called {name!r}; known: {', '.join(known)}. Or pass --expect-fid X."
            f"{did_you_mean(name, known)}"
        )
    return known[name]


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
    pixels: dict[str, PixelFacts | None] = {}
    sets = {"ref": ref, "gen": gen}
    for role, images in sets.items():
        if on_progress and images.num_images:
            on_progress(role, 0, images.num_images)  # so that the time left is of both
    for role, images in sets.items():
        report = partial(on_progress, role) if on_progress else None
        pixels[role] = read_pixels(images, batch_size=batch_size, on_progress=report) if images.num_images else None
    own, reference = pixels["gen"], pixels["ref"]
    if own is None:
        raise ValueError(f"{gen.path}: no images to look at; needed sample images.")
    case = _Case(gen=gen, ref=ref, own=own, reference=reference, expect=expect, result=result, extractor=extractor)
    found = [finding for check in _CHECKS for finding in check(case)]
    explained = {name for finding in found for name in finding.explains}
    measured = effects()
    known = [replace(f, effects=measured.get(f.id, ())) for f in found if f.id not in explained]
    # Sorting is stable: where neither certainty nor size tells, the order of _CHECKS stands.
    ranked = sorted(known, key=lambda f: (_RANK[f.certainty], -f.share * max((e.size for e in f.effects), default=0.0)))
    return Diagnosis(
        findings=tuple(ranked),
        comparisons=_comparisons(expect, result),
        expected=expect,
        unchecked=tuple(_unchecked(case)),
    )


_CHECKS = (
    *(_range, _size, _copies, _empty, _colours, _resized, _orientation, _jpeg),
    *(_statistics, _result, _run, _classes, _order, _numbers),
)


def _comparisons(expect: Expectation | None, result: EvalResult | None) -> tuple[Comparison, ...]:
    if expect is None or result is None:
        return ()
    rows = []
    for metric, published in expect.metrics.items():
        value = getattr(result, metric)
        if value is None:
            continue
        estimate = getattr(result.uncertainty, metric, None)
        inside = None if estimate is None else estimate.low <= published <= estimate.high
        rows.append(Comparison(metric=metric, published=published, measured=value, inside=inside))
    return tuple(rows)


def _unchecked(case: _Case) -> Iterator[str]:
    if case.reference is None:
        yield f"{case.ref.path} holds no images: colours, orientation, sharpness and range are not compared."
    if case.gen.labels is None:
        why = case.gen.labels_problem or "holds no labels (arr_1)"
        yield f"{case.gen.path}: {why}: the balance of classes is not known."
    if case.gen.run is None:
        yield (
            f"{case.gen.path} does not say how it was drawn: guidance, steps, decoder, precision and the rule of "
            "rounding to 8 bits are not known, and pixels alone do not tell them."
        )
    elif case.expect is None or not case.expect.setting:
        yield "No published setting was named (--expect): guidance, steps and decoder have nothing to compare with."
    if min(case.own.size) < 32:
        yield f"{case.gen.path}: images below 32 px are too small to look for a resize or JPEG in them."
    if case.extractor is None and case.ref.pool is not None:
        yield f"{case.ref.path}: whether its statistics are of this Inception takes the network (--network)."
    if case.result is None and case.expect is not None:
        yield f"No result of {case.gen.path} is known; score it with `dit-eval evaluate`, or name its --results."
