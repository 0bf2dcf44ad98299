"""The page of a report: which sections it has, and what stands in each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import dit_eval
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.law import Law, scaling_law
from dit_eval.report.sampling import compare_pairs, pareto_front
from dit_eval.report.setting import Setting, select
from dit_eval.report.tables.analysis import law_tables, sampling_tables
from dit_eval.report.tables.table import PAPER_TITLE, Table
from dit_eval.report.templating import base64_text, render
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.references import reference_title
from dit_eval.system.seals import file_digest
from dit_eval.system.text import shown, slug


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


def missing_figures(figures: Iterable[PaperFigure], drawn: Iterable[Mapping[str, Any]]) -> list[str]:
    """What it takes to draw the figures that are in no setting."""
    there = {figure["figure"] for figure in drawn}
    return [figure.missing for figure in figures if figure.missing and figure.name not in there]


def page_html(
    sections: Sequence[Section],
    *,
    files: Mapping[str, bytes],
    measured: Sequence[EvalResult],
    sources: Sequence[Path],
    left_out: Sequence[str],
) -> str:
    """The page.

    Parameters
    ----------
    files : of the report; the page holds the pictures and the data among them
    measured, sources : results, and the files that they and the losses were read from
    left_out : messages on lines that could not be read
    """
    package = resources.files("dit_eval.report")
    css, script = (package.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return render(
        "page.html.j2",
        {
            "sections": sections,
            "files": files,
            "left_out": left_out,
            "paper": PAPER_TITLE,
            "version": dit_eval.__version__,
            "sources": [(shown(path.name), file_digest(path)) for path in sources],
            "made": [_how_made(result) for result in measured],
            "css": css,
            "script": script,
            "script_digest": base64_text(hashlib.sha256(f"\n{script}".encode()).digest()),
        },
    )


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
