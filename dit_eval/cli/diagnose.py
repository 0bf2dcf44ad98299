"""`dit-eval diagnose`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group

from dit_eval.cli.extractor import check_extractor, load_extractor
from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import tell_json
from dit_eval.cli.shared import (
    Count,
    NetworkOptions,
    NumImages,
    Samples,
    check_destination,
    json_file,
    open_role,
    reference_path,
)
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


PUBLISHED = Group("what the number is compared with", sort_key=2)


@dataclass(frozen=True, kw_only=True)
class Diagnose(NetworkOptions):
    """Look at samples, reference, run and result for what may be wrong, and rank it, with the measured effect of each.

    Example: dit-eval diagnose samples.npz --ref imagenet256 --expect-fid 2.27

    Exits with 0 whether or not something is found.
    """

    samples: Samples
    ref: Annotated[str, Option("as of `dit-eval evaluate`")]
    expect: Annotated[
        str | None, Option("a published result, such as dit-xl-2-cfg1.5", metavar="NAME", group=EVERYDAY)
    ] = None
    expect_fid: Annotated[float | None, Option("published fid", group=PUBLISHED)] = None
    expect_sfid: Annotated[float | None, Option("published sfid", group=PUBLISHED)] = None
    expect_is: Annotated[float | None, Option("published inception_score", group=PUBLISHED)] = None
    expect_precision: Annotated[float | None, Option("published precision", group=PUBLISHED)] = None
    expect_recall: Annotated[float | None, Option("published recall", group=PUBLISHED)] = None
    expect_samples: Annotated[
        Count | None, Option("samples that the published number is of (default: 50,000)", group=PUBLISHED)
    ] = None
    results: Annotated[
        Path | None,
        Option(
            "take the result of these samples from here (default: results.jsonl, if it is there)",
            metavar="FILE",
            group=EVERYDAY,
        ),
    ] = None
    num_images: NumImages = None
    through_network: Annotated[
        bool,
        Option(
            "also pass 256 reference images through the network, to see whether the statistics are of it",
            name="--network",
        ),
    ] = False
    json: Annotated[str | None, json_file("the findings")] = None


def diagnose(arguments: Diagnose) -> None:
    gen = open_role(arguments.samples, "gen", arguments.num_images)
    check_destination("--json", arguments.json)
    if arguments.through_network:
        check_extractor(arguments)
    expect = _expectation(arguments)  # a slip in a name costs no download
    ref = open_role(reference_path(arguments.ref), "ref", network=arguments.network)
    from dit_eval.checks.diagnose import diagnose

    extractor = load_extractor(arguments) if arguments.through_network else None
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
    tell_json(arguments.json, diagnosis.to_json(), _format_diagnosis(diagnosis))


def _expectation(arguments: Diagnose) -> Expectation | None:
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


def _result_of(arguments: Diagnose, gen: ImageSet, progress: Progress) -> EvalResult | None:
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
    expected = diagnosis.expected
    if expected and (diagnosis.comparisons or expected.made_by):
        lines.append(f"compared with {expected.name} ({expected.source})")
        if expected.made_by:
            made_by = f"made by {'; '.join(expected.made_by)}"
            lines += wrap(made_by, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
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
