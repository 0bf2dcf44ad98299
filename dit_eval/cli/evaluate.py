"""`dit-eval evaluate`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dit_eval.cli.declare import EVERYDAY, Option
from dit_eval.cli.extractor import _check_extractor, _extractor, _extractor_class
from dit_eval.cli.options import (
    _FEATURES,
    _METRICS,
    Cache,
    NetworkOptions,
    NumSamples,
    Samples,
    _check_destination,
    _network_line,
    _open_images,
    _reference_path,
    has_ending,
    json_file,
)
from dit_eval.cli.output import _File, _format_cost_of_run, _header, _say, _tell_json
from dit_eval.system.dist import World, join
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.images.open import ImageSet
    from dit_eval.results.eval_result import EvalResult, Uncertainty


@dataclass(frozen=True, kw_only=True)
class Evaluate(NetworkOptions):
    """Score a sample batch against a reference batch, by ADM's protocol.

    Example: dit-eval evaluate samples.npz --ref imagenet256

    SAMPLES are an npz (arr_0, uint8 NHWC); a folder, .zip, .tar or .tar.gz of PNGs, in the order of their names (2.png
    before 10.png); or a saved Hugging Face dataset.
    """

    samples: Samples
    ref: Annotated[
        str,
        Option("an npz, images as SAMPLES, or a name: imagenet64, 128, 256 or 512, or digits"),
    ]
    metrics: Annotated[
        tuple[str, ...] | None,
        Option(
            f"{_METRICS}: some of them (default: the first five, ADM's; of dinov2 and clip all)",
            read=str.lower,
            group=EVERYDAY,
        ),
    ] = None
    num_samples: NumSamples = None
    intervals: Annotated[
        bool,
        Option("also standard errors, 95% intervals, and FID for infinitely many images", group=EVERYDAY),
    ] = False
    results: Annotated[Path, Option("append to FILE", metavar="FILE", group=EVERYDAY, check=has_ending(".jsonl"))] = (
        Path("results.jsonl")
    )
    no_results: Annotated[bool, Option("append to no file")] = False
    json: Annotated[str | None, json_file("the result")] = None
    distances: Annotated[
        Literal["adm-float16", "float32"],
        Option("precision and recall distances: ADM's float16 rule (default), or exact float32"),
    ] = "adm-float16"
    allow_size_mismatch: Annotated[bool, Option("score samples against a reference of another resolution")] = False
    cache: Cache = None
    dry_run: Annotated[
        bool,
        Option("predict time and memory from a short trial; --num-samples may then be more than are drawn yet"),
    ] = False


def evaluate(arguments: Evaluate) -> None:
    with join() as world:
        # Mistakes are told once, by process 0.
        setup = world.first_then_all(lambda: _evaluation_setup(arguments, world))
        world.share_cores()
        if arguments.dry_run:
            _tell_evaluation_cost(arguments, setup, world)
            return
        from dit_eval.evaluation import evaluate

        with Progress(names=_FEATURES) as progress:
            result = evaluate(
                **setup,
                distances=arguments.distances,
                intervals=arguments.intervals,
                batch_size=arguments.batch_size,
                cache=arguments.cache,
                world=world,
                on_progress=progress.update if world.rank == 0 else None,
                on_note=progress.note,
            )
        if world.rank == 0:
            _tell_result(arguments, result)


def _evaluation_setup(arguments: Evaluate, world: World) -> dict[str, Any]:
    """Files, request and extractor: everything a user may have got wrong, in the order of what it costs to find out."""
    count = arguments.num_samples
    if arguments.dry_run and count is not None:  # what is not drawn yet can be predicted from what is
        from dit_eval.images.open import open_images

        count = min(count, open_images(arguments.samples, role="gen").num_images or count)
    gen = _open_images(arguments.samples, "gen", count)
    if world.rank == 0:
        _check_evaluation_destinations(arguments)
    _header(_network_line(arguments))
    from dit_eval.metrics.choose import check_metrics, check_request

    check_metrics(arguments.metrics, _check_extractor(arguments, world))
    _check_named_size(arguments, gen)
    ref = _open_images(_reference_path(arguments.ref), "ref")
    request: dict[str, Any] = {"metrics": arguments.metrics, "allow_size_mismatch": arguments.allow_size_mismatch}
    check_request(gen=gen, ref=ref, sizes=_extractor_class(arguments), **request)
    return {"gen": gen, "ref": ref, "extractor": _extractor(arguments, world), **request}


def _check_evaluation_destinations(arguments: Evaluate) -> None:
    _check_destination("--json", arguments.json)
    if arguments.dry_run:
        return
    _check_destination("--cache", arguments.cache, folder=True)
    if not arguments.no_results:
        instead = ", or pass --no-results to have the result printed only"
        _check_destination("--results", arguments.results, append=True, instead=instead)
        if arguments.json not in (None, "-") and Path(arguments.json).resolve() == arguments.results.resolve():
            raise ValueError(f"--json {arguments.json}: the file of --results, which it would replace. Name another.")


def _check_named_size(arguments: Evaluate, gen: ImageSet) -> None:
    """That the samples have the size of a public reference, which its name says, before that is fetched."""
    from dit_eval.system.assets import assets

    known = {item.name for item in assets() if item.kind == "reference"}
    named = re.fullmatch(r"imagenet(\d+)", arguments.ref) if arguments.ref in known else None
    if named is None or Path(arguments.ref).exists() or arguments.allow_size_mismatch or gen.image_size is None:
        return
    side, (height, width) = int(named[1]), gen.image_size
    if (height, width) != (side, side):
        raise ValueError(
            f"{gen.path} has images of {width}x{height}, {arguments.ref} of {side}x{side}. Take the reference of the "
            "samples' resolution, or pass --allow-size-mismatch to score them as they are (the network resizes both)."
        )


def _tell_evaluation_cost(arguments: Evaluate, setup: dict[str, Any], world: World) -> None:
    from dit_eval.cost import evaluation_cost
    from dit_eval.metrics.choose import check_request

    gen, ref, extractor = setup["gen"], setup["ref"], setup["extractor"]
    request = {name: setup[name] for name in ("metrics", "allow_size_mismatch")}
    metrics, _ = check_request(gen=gen, ref=ref, sizes=extractor, **request)
    cost = evaluation_cost(
        gen=gen,
        ref=ref,
        extractor=extractor,
        metrics=metrics,
        distances=arguments.distances,
        batch_size=arguments.batch_size,
        num_images=arguments.num_samples,
        world=world,
    )
    if world.rank:
        return
    what = f"to score {arguments.num_samples or gen.num_images:,} samples"
    _tell_json(arguments.json, cost.to_json(), _format_cost_of_run(what, cost))


def _tell_result(arguments: Evaluate, result: EvalResult) -> None:
    for warning in result.warnings:
        _say(f"warning: {warning}")
    from dit_eval.results.lines import append_result

    appended = _File(
        option="--results",
        path=arguments.results,
        write=lambda path: append_result(path, result),
        text=result.to_json(),
        told=f"appended to {arguments.results}\n",
    )
    files = [] if arguments.no_results else [appended]
    _tell_json(arguments.json, result.to_json(), _format_result(result), *files)


def _format_result(result: EvalResult) -> str:
    """The result as people read it; see design of the output in the README."""
    extractor = result.extractor.name
    count = f"{result.num_samples // 1000}K" if result.num_samples % 1000 == 0 else str(result.num_samples)
    suffix = "" if extractor == "inception" else f" ({extractor})"
    size = "x".join(str(n) for n in reversed(result.gen.image_size or ()))
    rows: list[tuple[str, str, float | None]] = [
        (f"FID-{count}{suffix}", "fid", result.fid),
        (f"sFID-{count}{suffix}", "sfid", result.sfid),
        (f"Inception Score{suffix}", "inception_score", result.inception_score),
        (f"Precision{suffix}", "precision", result.precision),
        (f"Recall{suffix}", "recall", result.recall),
        (f"KID{suffix}", "kid", result.kid),
        (f"Density{suffix}", "density", result.density),
        (f"Coverage{suffix}", "coverage", result.coverage),
        (f"FD-DINOv2-{count}", "fd_dinov2", result.fd_dinov2),
        ("CMMD", "cmmd", result.cmmd),
    ]
    rows += _extrapolations(result)
    tails = _tails(result.uncertainty)
    images = f"{result.num_reference:,} images" if result.num_reference else "no images used"
    lines = [
        f"gen  {result.gen.path:<28} {result.num_samples:,} images, {size} px"
        + (f"   {result.gen.run.summary()}" if result.gen.run else ""),
        f"ref  {result.ref.path:<28} {images}, {result.ref.statistics} statistics",
    ]
    width = max(len(name) for name, _, _ in rows)
    for name, key, value in rows:
        if value is not None:
            digits = 6 if key == "kid" else 4  # of a good model it is some thousandths
            lines.append(f"  {name:<{width}}  {value:>10.{digits}f}{tails.get(key, '')}")
    lines += _biases(result, count)
    commit = result.environment.get("commit")
    version = f"dit_eval {result.environment['dit_eval']}"
    if commit:
        version += f" ({commit[:7]}{', changed' if result.environment['dirty'] else ''})"
    if result.badge is not None:
        lines.append(f"as published: {result.badge.text()}")
    tail = [result.protocol, f"{extractor} on {result.extractor.backend}, {result.extractor.device}", version]
    lines.append(" · ".join(tail))
    return "\n".join(lines) + "\n"


def _tails(uncertainty: Uncertainty | None) -> dict[str, str]:
    """What stands behind each number: standard error and interval, or why there is none."""
    from dit_eval.results.eval_result import ESTIMATES

    if uncertainty is None:
        return {}
    texts = {name: f"  no interval: {reason}" for name, reason in uncertainty.missing.items()}
    for name in ESTIMATES:
        estimate = getattr(uncertainty, name)
        if estimate is not None:
            texts[name] = f"  ± {estimate.standard_error:.4f}   95 %: {estimate.low:.4f} to {estimate.high:.4f}"
    return texts


def _extrapolations(result: EvalResult) -> list[tuple[str, str, float | None]]:
    """Rows below the metrics: Fréchet distances for 50,000 images, where these are fewer, and for any number."""
    rows: list[tuple[str, str, float | None]] = []
    for title, key in (("FID", "fid"), ("sFID", "sfid")):
        at_50k = getattr(result.uncertainty, f"{key}_50k", None)
        infinity = getattr(result.uncertainty, f"{key}_infinity", None)
        if at_50k is not None and result.num_samples < 50_000:
            rows.append((f"{title}-50K, estimated", f"{key}_50k", at_50k.value))
        if infinity is not None:
            rows.append((f"{title}-infinity", f"{key}_infinity", infinity.value))
    return rows


def _biases(result: EvalResult, count: str) -> list[str]:
    """What having fewer images than 50,000 adds to the distances, or why that is not known."""
    lines = []
    for title, key in (("FID", "fid"), ("sFID", "sfid")):
        value, at_50k = getattr(result, key), getattr(result.uncertainty, f"{key}_50k", None)
        if at_50k is not None and result.num_samples < 50_000:
            more = f"{value - at_50k.value:.4f} larger than {title}-50K"
            lines.append(f"  {title}-{count} is about {more} for having fewer images")
        elif result.uncertainty is not None and f"{key}_50k" in result.uncertainty.missing:
            lines.append(f"  {title} is not extrapolated: {result.uncertainty.missing[f'{key}_50k']}")
    return lines
