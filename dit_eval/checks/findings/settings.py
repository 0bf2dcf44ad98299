"""Findings in the settings: run and result beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dit_eval.checks.expectation import INCEPTION_SCORES, rule_of
from dit_eval.checks.findings.case import Case, Cause, Seen
from dit_eval.results.eval_result import PROTOCOL, Badge
from dit_eval.results.references import foreign_title, named_reference, reference_title

# Field of the run -> words, advice.
_SETTINGS = {
    "model": ("model", "Draw from the model that was published."),
    "image_size": ("image size", "Draw at the published resolution."),
    "cfg_scale": ("guidance scale", "Draw again with the published guidance scale."),
    "cfg_channels": ("guided channels", "The published number guides the first three channels."),
    "guidance_interval": ("interval of guidance", "The published number guides every step."),
    "guide_ckpt": ("guiding model", "The published number guides by the model without label."),
    "num_sampling_steps": ("sampling steps", "Draw again with the published number of steps."),
    "sampler": ("sampler", "Draw again with the published sampler."),
    "weights": ("set of weights", "Draw from the averaged weights (EMA)."),
    "vae": ("decoder", "Decode with the published decoder; the paper's Table 5 compares three."),
    "vae_tiling": ("tiled decoding", "Decode whole latents; tiles change pixels near the seams."),
    "rounding": ("rounding to 8 bits", "Round as the published sampler did."),
    "labels": ("labels", "Draw labels as published; balanced ones are not the published protocol."),
}


def _differs(case: Case, *, names: tuple[str, ...]) -> Iterator[Seen]:
    """Where the run's settings of these names are not the published ones."""
    run, expect = case.gen.run, case.expect
    if run is None or expect is None:
        return
    for name in names:
        if name == "cfg_channels" and run.cfg_scale == 1.0:  # no guidance, no channels; that is told already
            continue
        value = getattr(run, name)
        if name in expect.setting and value != expect.setting[name]:
            words, advice = _SETTINGS[name]
            yield Seen(
                certainty="possible" if value is None else "certain",
                found=f"{words}: the samples say {value!r}, {expect.name} has {expect.setting[name]!r}",
                advice=advice,
            )


def _weights(case: Case) -> Iterator[Seen]:
    yield from _differs(case, names=("weights",))
    nothing_expected = case.expect is None or not case.expect.setting
    if case.gen.run is not None and nothing_expected and case.gen.run.weights == "model":
        yield Seen(
            certainty="certain",
            found="the samples are drawn from the trained weights, not from their average (EMA)",
            advice="Published numbers are of the averaged weights: draw again with `--weights ema`.",
        )


def _precision(case: Case) -> Iterator[Seen]:
    if case.gen.run is not None and case.gen.run.precision != "fp32":
        yield Seen(
            certainty="certain",
            found=f"the samples were drawn in {case.gen.run.precision}",
            advice="DiT's README warns of TF32; its own figure in PyTorch is of float32. Draw again in fp32.",
        )


def _result_network(case: Case) -> Iterator[Seen]:
    if case.result is not None and case.result.extractor.name != "inception" and case.published:
        yield Seen(
            certainty="certain",
            found=f"the result is of the {case.result.extractor.name} network; the published number is of Inception",
            advice="Score again with `dit-eval evaluate --extractor inception`.",
        )


def _result_precision(case: Case) -> Iterator[Seen]:
    if case.result is None:
        return
    extractor = case.result.extractor
    if extractor.name == "inception" and extractor.precision != "fp32":
        yield Seen(
            certainty="certain",
            found=f"the result's features were computed in {extractor.precision}",
            advice="Score again with --precision fp32; published statistics are of fp32.",
        )


def _result_distances(case: Case) -> Iterator[Seen]:
    result = case.result
    if result is None or result.distances == "adm-float16":
        return
    if result.precision is not None or result.recall is not None:
        yield Seen(
            certainty="certain",
            found=f"precision and recall are by {result.distances} distances; published ones by ADM's float16",
            advice="Score again with --distances adm-float16.",
        )


def _badge(case: Case) -> Badge | None:
    """What the result says of itself, where it is of the published network and compared with a published number."""
    result = case.result
    return result.badge if result is not None and result.extractor.name == "inception" and case.published else None


def _result_weights(case: Case) -> Iterator[Seen]:
    badge = _badge(case)
    if badge is not None and not badge.weights.as_published:
        yield Seen(
            certainty="likely",
            found=f"the result's weights are not known to be the published ones ({badge.weights.reason})",
            advice="Score again without --weights, which fetches the published file and checks it.",
        )


def _result_reference(case: Case) -> Iterator[Seen]:
    badge, result, expect = _badge(case), case.result, case.expect
    if badge is None or result is None or expect is None:
        return
    if expect.reference in (None, PROTOCOL):
        whose = foreign_title(result.reference_protocol)
        if not badge.reference.as_published:
            yield Seen(
                certainty="likely",
                found=f"the result's reference is not known to be ADM's ({badge.reference.reason})"
                + (f": its distances are FID and sFID against {whose}" if whose else ""),
                advice="Score again with --ref imagenet256 or the like, which fetches ADM's file by its name. Other "
                "statistics of the same images have moved published FIDs by up to 0.2.",
            )
        return
    named = named_reference(result.ref)  # the best that can be known of it
    if expect.reference not in (result.reference_protocol, named and named.protocol):
        yield Seen(
            certainty="likely",
            found=f"the result is against {reference_title(result.reference_protocol)}; {expect.name} is against "
            f"{reference_title(expect.reference)}",
            advice=f"Score again with {reference_title(expect.reference)} as --ref; its program publishes the file.",
        )


def _result_inception_score(case: Case) -> Iterator[Seen]:
    """The Inception Score by another rule than the published one."""
    result, expected = case.result, case.expect.inception_score if case.expect is not None else None
    if result is None or expected is None or not case.published:
        return
    scores = {key for key in INCEPTION_SCORES if result.scores.get(key) is not None}
    if scores and expected not in scores:
        protocol = INCEPTION_SCORES[expected]
        yield Seen(
            certainty="certain",
            found=f"the result's Inception Score is by {rule_of(sorted(scores)[0])} rule, the published one by "
            f"{rule_of(expected)}",
            advice=f"Score again with `--protocol {protocol}`, or `--protocol adm,{protocol}` for both from one pass. "
            "ADM's rule takes the images as they lie in the file, and is far too low where that is in class order."
            if protocol != "adm"
            else "Score again without --protocol, or with `--protocol adm`.",
        )


def _result_samples(case: Case) -> Iterator[Seen]:
    if case.result is not None and case.result.num_samples != case.own.num_images:
        yield Seen(
            certainty="certain",
            found=f"the result is of {case.result.num_samples:,} samples, the file has {case.own.num_images:,}",
            advice="Score the whole file, or diagnose the part that was scored.",
        )


RESULT_NETWORK = Cause(id="result-network", title="a result of another network", look=_result_network)
RESULT_PRECISION = Cause(id="result-precision", title="features of lower precision", look=_result_precision)
RESULT_DISTANCES = Cause(id="result-distances", title="distances that are not ADM's", look=_result_distances)
RESULT_WEIGHTS = Cause(id="result-weights", title="weights that are not the published ones", look=_result_weights)
RESULT_REFERENCE = Cause(id="result-reference", title="a reference that is not ADM's", look=_result_reference)
RESULT_SAMPLES = Cause(id="result-samples", title="a result of another number of samples", look=_result_samples)
RESULT_INCEPTION_SCORE = Cause(
    id="result-inception-score", title="an Inception Score by another rule", look=_result_inception_score
)
RUN_MODEL = Cause(
    id="run-model", title="another model or image size", look=partial(_differs, names=("model", "image_size"))
)
RUN_GUIDANCE = Cause(
    id="run-guidance",
    title="another guidance",
    look=partial(_differs, names=("cfg_scale", "cfg_channels", "guidance_interval", "guide_ckpt")),
)
RUN_STEPS = Cause(
    id="run-steps", title="another number of sampling steps", look=partial(_differs, names=("num_sampling_steps",))
)
RUN_SAMPLER = Cause(id="run-sampler", title="another sampler", look=partial(_differs, names=("sampler",)))
RUN_WEIGHTS = Cause(id="run-weights", title="weights that are not averaged", look=_weights)
RUN_DECODER = Cause(
    id="run-decoder", title="another decoder, or tiles", look=partial(_differs, names=("vae", "vae_tiling"))
)
RUN_ROUNDING = Cause(id="run-rounding", title="another rounding to 8 bits", look=partial(_differs, names=("rounding",)))
RUN_LABELS = Cause(
    id="run-labels",
    title="labels drawn by another rule",
    look=partial(_differs, names=("labels",)),
    explains=("label-rule",),
)
RUN_PRECISION = Cause(id="run-precision", title="samples of lower precision", look=_precision)
