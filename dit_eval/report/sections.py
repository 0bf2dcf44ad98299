"""The page of a report: which sections it has, and what stands in each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dit_eval
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.law import Law, scaling_law
from dit_eval.report.sample_images import Thumbnail
from dit_eval.report.samplers import sampler_points, sentences
from dit_eval.report.sampling import compare_pairs, pareto_front
from dit_eval.report.setting import Setting, select
from dit_eval.report.tables.analysis import law_tables, sampling_tables
from dit_eval.report.tables.runs import best_of
from dit_eval.report.tables.samplers import samplers_table
from dit_eval.report.tables.table import PAPER_TITLE, Table
from dit_eval.report.templating import base64_text, render
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.references import reference_title
from dit_eval.system.seals import file_digest
from dit_eval.system.text import shown, slug

_TEMPLATES = Path(__file__).with_name("templates")
_MOST_BYTES = 400_000  # of a picture or of data within the page; of larger ones it shows the PNG, or names the file


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A question to the points of a setting: sentences that answer it, and their tables."""

    question: str
    sentences: Sequence[str]
    tables: Sequence[Table]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, in this order: a sentence, figures, what is missing of them, analyses, tables.

    Attributes
    ----------
    key : of its address in the page, `#part-KEY`
    figures : see `page.draw_setting`; None for a section that has no place for them
    """

    key: str
    title: str
    about: str = ""
    figures: Sequence[Mapping[str, Any]] | None = None
    missing: Sequence[str] = ()
    analyses: Sequence[Analysis] = ()
    tables: Sequence[Table] = ()


def setting_ending(setting: Setting) -> str:
    """What the file names of a setting end with; nothing for the paper's own."""
    whose = f"{setting.protocol} {setting.reference}".strip()
    return "" if setting.is_papers else f"-{slug(whose)}-{setting.image_size}"


def law_analysis(setting: Setting) -> Analysis | None:
    """Does quality follow compute? The paper's law first, then the measured one; None without enough models."""
    found = (scaling_law(setting, source) for source in ("paper", "measured"))
    laws: list[Law] = [law for law in found if law is not None]
    if not laws:
        return None
    return Analysis(
        question="Does FID follow model size, patch size and training? Counted over all points that differ in one of "
        "them alone:",
        sentences=[sentence for law in laws for sentence in law.sentences(most=5)],
        tables=_named_by_setting(law_tables(laws), setting),
    )


def sampling_analysis(setting: Setting) -> Analysis | None:
    """Can more sampling steps make up for a smaller model? None without points."""
    points = setting.sweep
    if points.empty:
        return None
    sentences = [verdict.sentence() for verdict in compare_pairs(points)]
    front = list(dict.fromkeys(pareto_front(select(points, source="measured"))["model"]))
    if front:
        sentences.append(f"On the measured Pareto front, from the cheapest point to the best: {', '.join(front)}.")
    return Analysis(
        question="Can more sampling steps make up for a smaller model? For each two models, at equal sampling compute, "
        "of the points there are:",
        sentences=sentences,
        tables=_named_by_setting(sampling_tables(setting), setting),
    )


def sampler_analysis(setting: Setting) -> Analysis | None:
    """Which sampler gives the best quality for its compute? None without a network that was drawn by several."""
    points = sampler_points(setting.points)
    if points.empty:
        return None
    return Analysis(
        question="Which sampler, at which number of evaluations of the network, gives the best FID for its compute? Of "
        "the points there are:",
        sentences=[*sentences(points)],
        tables=_named_by_setting([samplers_table(points)], setting),
    )


@dataclass(frozen=True, kw_only=True)
class Own:
    """What the page knows of the user's results.

    Attributes
    ----------
    results : in the order of the file
    sources : the files that they and the losses were read from
    left_out : messages on lines that could not be read
    thumbnails : by the number of a result
    """

    results: Sequence[EvalResult] = ()
    sources: Sequence[Path] = ()
    left_out: Sequence[str] = ()
    thumbnails: Mapping[int, Thumbnail] = field(default_factory=dict)


def own_sections(
    where: Sequence[Setting],
    *,
    tables: Mapping[str, Sequence[Table]],
    drawn: Sequence[Sequence[Mapping[str, Any]]],
    laws: Sequence[Analysis | None],
    sweeps: Sequence[Analysis | None],
    samplers: Sequence[Analysis | None],
) -> Iterator[Section]:
    """The user's part of the page: the leaderboards, then each setting with its figures and analyses.

    Parameters
    ----------
    where : the paper's setting first
    tables : by group
    drawn, laws, sweeps, samplers : of each setting
    """
    yield Section(key="runs", title="Your runs", tables=tables["runs"])
    if tables["seeds"]:
        yield Section(key="seeds", title="Seeds", tables=tables["seeds"])
    beside = Section(
        key="beside",
        title="Beside the paper",
        about="Measured by the paper's protocol: open marks are published, filled ones yours.",
        figures=[figure for figure in drawn[0] if figure["own"]],
        analyses=[each for each in (laws[0], sweeps[0], samplers[0]) if each is not None and _has_own(each.tables)],
        tables=[table for table in tables["paper"] if _has_own([table])],
    )
    if beside.figures or beside.analyses or beside.tables:
        yield beside
    for number, setting in enumerate(where[1:], start=1):
        yield Section(
            key=f"setting{number + 1}",
            title=setting.name,
            about="Measured by another protocol or at another size: no number here compares with the paper's.",
            figures=drawn[number],
            analyses=[each for each in (laws[number], sweeps[number], samplers[number]) if each is not None],
        )


def context_sections(
    *,
    tables: Mapping[str, Sequence[Table]],
    drawn: Sequence[Sequence[Mapping[str, Any]]],
    laws: Sequence[Analysis | None],
    sweeps: Sequence[Analysis | None],
    missing: Sequence[str],
    has_runs: bool,
) -> Iterator[Section]:
    """The paper's part of the page: what nothing of the user's stands in, where there is anything of the user's."""
    figures = [figure for figure in drawn[0] if not (has_runs and figure["own"])]
    yield Section(key="figures", title="Figures", figures=figures, missing=missing)
    for key, title, analysis in (
        ("scaling", "Quality and model compute", laws[0]),
        ("sampling", "Sampling against model compute", sweeps[0]),
    ):
        if analysis is not None and not _has_own(analysis.tables):
            yield Section(key=key, title=title, analyses=[analysis])
    yield Section(key="tables", title="Tables", tables=[table for table in tables["paper"] if not _has_own([table])])
    yield Section(key="stated", title="Numbers of the text", tables=tables["stated"])
    yield Section(key="later", title="Later papers", tables=tables["later"])


def missing_figures(figures: Iterable[PaperFigure], drawn: Iterable[Mapping[str, Any]]) -> list[str]:
    """What it takes to draw the figures that are in no setting."""
    there = {figure["figure"] for figure in drawn}
    return [figure.missing for figure in figures if figure.missing and figure.name not in there]


def page_html(own: Iterable[Section], context: Iterable[Section], *, files: Mapping[str, bytes], given: Own) -> str:
    """The page.

    Parameters
    ----------
    own, context : the user's sections and the paper's
    files : of the report; the page holds the pictures and the data among them
    given : the user's results
    """
    own = [*own]
    css, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    board = own[0].tables[0] if own else None
    return render(
        "page.html.j2",
        {
            "own": own,
            "context": [*context],
            "best": best_of(board) if board else [],
            "board": board,
            "boards": [table.name for table in own[0].tables] if own else [],
            "files": files,
            "left_out": given.left_out,
            "thumbnails": given.thumbnails,
            "paper": PAPER_TITLE,
            "version": dit_eval.__version__,
            "sources": [(shown(path.name), file_digest(path)) for path in given.sources],
            "made": [_how_made(result) for result in given.results],
            "most_bytes": _MOST_BYTES,
            "css": css,
            "script": script,
            "script_digest": base64_text(hashlib.sha256(f"\n{script}".encode()).digest()),
        },
    )


def _has_own(tables: Iterable[Table]) -> bool:
    """Whether something of the user's stands in one of the tables."""
    return any(row.measured for table in tables for row in table.rows)


def _named_by_setting(tables: Iterable[Table], setting: Setting) -> list[Table]:
    """Tables of a setting, under names that differ from those of others."""
    return [replace(table, name=table.name + setting_ending(setting)) for table in tables]


def _how_made(result: EvalResult) -> tuple[str, dict[str, str]]:
    """A title and facts on how a result was made."""
    run, features = result.gen.run, result.extractor
    commit = result.environment.get("commit") or "not known"
    facts = {
        "samples": f"{result.gen.path}, SHA-256 {result.gen.sha256}",
        "reference": f"{result.ref.path}, {result.ref.statistics} statistics, SHA-256 {result.ref.sha256}; "
        + reference_title(result.reference_protocol),
        "features": f"{features.name} on {features.backend}, weights {features.weights_sha256}",
        "checkpoint": f"{run.checkpoint} ({run.weights}), SHA-256 {run.checkpoint_sha256}" if run else "not known",
        "program": f"dit_eval {result.environment.get('dit_eval', 'not known')}, commit {commit}",
        "time": result.time or "not known",
        "warnings": "; ".join(result.warnings) or "none",
    }
    title = run.summary() if run else Path(result.gen.path).name
    return shown(title), {key: shown(value) for key, value in facts.items()}
