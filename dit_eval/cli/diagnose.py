"""`dit-eval diagnose`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.cli.extractor import _check_extractor, _extractor
from dit_eval.cli.options import (
    _IMAGES,
    _add_extractor_options,
    _check_destination,
    _json_file,
    _open_images,
    _reference_path,
)
from dit_eval.cli.output import _tell_json
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.checks.diagnose import Diagnosis
    from dit_eval.checks.expectation import Expectation
    from dit_eval.images import ImageSet
    from dit_eval.results.eval_result import EvalResult

# Option of `diagnose` after --expect-, and the metric.
_PUBLISHED = {
    "fid": "fid",
    "sfid": "sfid",
    "is": "inception_score",
    "precision": "precision",
    "recall": "recall",
}


def _add_diagnose(commands: Any) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="find out why a number is not the published one",
        description="Look at samples, reference, run and result for what may be wrong, and rank it, with the measured "
        "effect of each. Exits with 0 whether or not something is found.",
    )
    diagnose.add_argument("samples", type=Path, metavar="SAMPLES", help=f"generated images: {_IMAGES}")
    diagnose.add_argument("--ref", required=True, help="as of `dit-eval evaluate`")
    published = diagnose.add_argument_group("what the number is compared with")
    published.add_argument("--expect", metavar="NAME", help="a published result, such as dit-xl-2-cfg1.5")
    for option, metric in _PUBLISHED.items():
        published.add_argument(f"--expect-{option}", type=float, metavar="X", help=f"published {metric}")
    published.add_argument(
        "--expect-samples", type=int, metavar="N", help="samples that the published number is of (default: 50,000)"
    )
    diagnose.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="take the result of these samples from here (default: results.jsonl, if it is there)",
    )
    diagnose.add_argument("--num-samples", type=int, metavar="N", help="use the first N samples")
    diagnose.add_argument(
        "--network",
        action="store_true",
        help="also pass 256 reference images through the network, to see whether the statistics are of it",
    )
    _add_extractor_options(diagnose)
    diagnose.add_argument(
        "--json",
        type=_json_file,
        metavar="FILE|-",
        help="also write the findings as one JSON object; - prints only that",
    )
    diagnose.set_defaults(run=_diagnose)


def _diagnose(arguments: argparse.Namespace) -> None:
    gen = _open_images(arguments.samples, "gen", arguments.num_samples)
    _check_destination("--json", arguments.json)
    if arguments.network:
        _check_extractor(arguments)
    ref = _open_images(_reference_path(arguments.ref), "ref")
    from dit_eval.checks.diagnose import diagnose

    expect = _expectation(arguments)
    extractor = _extractor(arguments) if arguments.network else None
    with Progress(names={"ref": "ref images", "gen": "gen images"}) as progress:
        result = _result_of(arguments, gen, progress)
        diagnosis = diagnose(
            gen=gen,
            ref=ref,
            expect=expect,
            result=result,
            extractor=extractor,
            batch_size=arguments.batch_size,
            on_progress=progress.update,
        )
    _tell_json(arguments.json, diagnosis.to_json(), _format_diagnosis(diagnosis))


def _expectation(arguments: argparse.Namespace) -> Expectation | None:
    import dataclasses

    from dit_eval.checks.expectation import Expectation, expectation

    given = {metric: getattr(arguments, f"expect_{option}") for option, metric in _PUBLISHED.items()}
    numbers = {metric: value for metric, value in given.items() if value is not None}
    if arguments.expect_samples is not None and arguments.expect_samples < 1:
        raise ValueError(f"--expect-samples {arguments.expect_samples}: needed at least 1.")
    if arguments.expect is not None:
        if numbers:
            raise ValueError("Pass --expect, which brings its numbers, or numbers of your own, not both.")
        expect = expectation(arguments.expect)
    elif numbers or arguments.expect_samples is not None:
        expect = Expectation(name="the expected number", source="command line", metrics=numbers)
    else:
        return None
    if arguments.expect_samples is not None:
        expect = dataclasses.replace(expect, num_samples=arguments.expect_samples)
    return expect


def _result_of(arguments: argparse.Namespace, gen: ImageSet, progress: Progress) -> EvalResult | None:
    """The latest result of these very samples in the file of results."""
    from dit_eval.results.lines import read_results

    path = arguments.results or Path("results.jsonl")
    if not path.is_file():
        if arguments.results is not None:
            raise FileNotFoundError(f"--results {path}: no such file.")
        return None
    sha256 = gen.sha256(partial(progress.update, "checksums"))
    skip = None if arguments.results is not None else lambda _: None
    found = [result for result in read_results(path, on_bad_line=skip) if result.gen.sha256 == sha256]
    if arguments.results is not None and not found:
        raise ValueError(f"{path}: no result of {gen.path} in it. Score it first: `dit-eval evaluate`.")
    return found[-1] if found else None


def _format_diagnosis(diagnosis: Diagnosis) -> str:
    lines = []
    if diagnosis.expected and diagnosis.comparisons:
        lines.append(f"compared with {diagnosis.expected.name} ({diagnosis.expected.source})")
        for row in diagnosis.comparisons:
            verdict = {True: "inside", False: "outside", None: ""}[row.inside]
            lines.append(
                f"  {row.metric:<16} {row.measured:>10.4f}   published {row.published:g}, difference "
                f"{row.measured - row.published:+.4f}" + (f", {verdict} the 95 % interval" if verdict else "")
            )
    for number, finding in enumerate(diagnosis.findings, start=1):
        lines.append(f"{number}. {finding.id} ({finding.certainty}): {finding.found}")
        for effect in finding.effects:
            pairs = [f"{m} {effect.before[m]:.4g} -> {effect.after[m]:.4g}" for m in effect.after]
            lines.append(f"   measured, {effect.damage}: {', '.join(pairs)}")
            lines.append(f"     ({effect.network}; {effect.images})")
        if not finding.effects:
            lines.append("   effect: not measured")
        lines.append(f"   {finding.advice}")
    if not diagnosis.findings:
        lines.append("Nothing found.")
    lines += [f"not checked: {text}" for text in diagnosis.unchecked]
    return "\n".join(lines) + "\n"
