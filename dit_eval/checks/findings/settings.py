"""Findings in the settings: run and result beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dit_eval.checks.findings.case import Finding

if TYPE_CHECKING:
    from dit_eval.checks.findings.case import Expectation, _Case

# Field of the run -> (id, words, advice); the order is that in which they are told where no effect is measured.
_SETTINGS = {
    "model": ("run-model", "model", "Draw from the model that was published."),
    "image_size": ("run-model", "image size", "Draw at the published resolution."),
    "cfg_scale": ("run-guidance", "guidance scale", "Draw again with the published guidance scale."),
    "cfg_channels": ("run-guidance", "guided channels", "The published number guides the first three channels."),
    "num_sampling_steps": ("run-steps", "sampling steps", "Draw again with the published number of steps."),
    "sampler": ("run-sampler", "sampler", "Draw again with the published sampler."),
    "weights": ("run-weights", "set of weights", "Draw from the averaged weights (EMA)."),
    "vae": ("run-decoder", "decoder", "Decode with the published decoder; the paper's Table 5 compares three."),
    "vae_tiling": ("run-decoder", "tiled decoding", "Decode whole latents; tiles change pixels near the seams."),
    "rounding": ("run-rounding", "rounding to 8 bits", "Round as the published sampler did."),
    "labels": ("run-labels", "labels", "Draw labels as published; balanced ones are not the published protocol."),
}


def _run(case: _Case) -> Iterator[Finding]:
    run = case.gen.run
    if run is None:
        return
    expected = case.expect.setting if case.expect else {}
    for name, (finding, words, advice) in _SETTINGS.items():
        if name == "cfg_channels" and run.cfg_scale == 1.0:  # no guidance, no channels; that is told already
            continue
        if name in expected and getattr(run, name) != expected[name]:
            known = getattr(run, name) is not None
            yield Finding(
                id=finding,
                certainty="certain" if known else "possible",
                found=f"{words}: the samples say {getattr(run, name)!r}, {_name(case.expect)} has {expected[name]!r}",
                advice=advice,
            )
    if not expected and run.weights == "model":
        yield Finding(
            id="run-weights",
            certainty="certain",
            found="the samples are drawn from the trained weights, not from their average (EMA)",
            advice="Published numbers are of the averaged weights: draw again with `--weights ema`.",
        )
    if run.precision != "fp32":
        yield Finding(
            id="run-precision",
            certainty="certain",
            found=f"the samples were drawn in {run.precision}",
            advice="DiT's README warns of TF32; its own figure in PyTorch is of float32. Draw again in fp32.",
        )


def _name(expect: Expectation | None) -> str:
    return expect.name if expect else "the published setting"


def _result(case: _Case) -> Iterator[Finding]:
    result = case.result
    if result is None:
        return
    if result.extractor.name != "inception" and case.published:
        yield Finding(
            id="result-network",
            certainty="certain",
            found=f"the result is of the {result.extractor.name} network; the published number is of Inception",
            advice="Score again with `dit-eval evaluate --extractor inception`.",
        )
    if result.extractor.name == "inception" and result.extractor.precision != "fp32":
        yield Finding(
            id="result-precision",
            certainty="certain",
            found=f"the result's features were computed in {result.extractor.precision}",
            advice="Score again with --precision fp32; published statistics are of fp32.",
        )
    if result.distances != "adm-float16" and (result.precision is not None or result.recall is not None):
        yield Finding(
            id="result-distances",
            certainty="certain",
            found=f"precision and recall are by {result.distances} distances; published ones by ADM's float16",
            advice="Score again with --distances adm-float16.",
        )
    if result.extractor.name == "inception" and result.badge is not None and case.published:
        if not result.badge.weights.as_published:
            yield Finding(
                id="result-weights",
                certainty="likely",
                found=f"the result's weights are not known to be the published ones ({result.badge.weights.reason})",
                advice="Score again without --weights, which fetches the published file and checks it.",
            )
        if not result.badge.reference.as_published:
            yield Finding(
                id="result-reference",
                certainty="likely",
                found=f"the result's reference is not known to be ADM's ({result.badge.reference.reason})",
                advice="Score again with --ref imagenet256 or the like, which fetches ADM's file by its name. Other "
                "statistics of the same images have moved published FIDs by up to 0.2.",
            )
    if result.num_samples != case.own.num_images:
        yield Finding(
            id="result-samples",
            certainty="certain",
            found=f"the result is of {result.num_samples:,} samples, the file has {case.own.num_images:,}",
            advice="Score the whole file, or diagnose the part that was scored.",
        )
