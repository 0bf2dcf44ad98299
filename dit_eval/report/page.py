"""The report as files, and as one page that needs nothing else: tables, figures, analysis, sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dit_eval.flops.kept import count_network
from dit_eval.paper import load_notes
from dit_eval.report.figures import FIGURES
from dit_eval.report.figures.figure7 import images_of_one_seed
from dit_eval.report.figures.marks import marks_of
from dit_eval.report.figures.style import PAGE, Look, render_figure
from dit_eval.report.points import loss_log, published_points, read_losses, read_measured
from dit_eval.report.sample_images import thumbnails
from dit_eval.report.sections import (
    Own,
    context_sections,
    law_analysis,
    missing_figures,
    own_sections,
    page_html,
    sampler_analysis,
    sampling_analysis,
    setting_ending,
)
from dit_eval.report.seeds import SeedGroup, grouped_points, seed_groups
from dit_eval.report.setting import Setting, select, settings
from dit_eval.report.tables.later import later_tables
from dit_eval.report.tables.latex import to_latex
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.tables.paper import paper_tables
from dit_eval.report.tables.runs import runs_tables
from dit_eval.report.tables.seeds import seeds_table
from dit_eval.report.tables.stated import stated_table
from dit_eval.report.tables.table import Table
from dit_eval.report.tables.write import no_formula, to_csv, to_html, to_markdown
from dit_eval.results.eval_result import EvalResult
from dit_eval.system.files import atomic_file, refuse_existing
from dit_eval.system.text import shown

_WRITERS = {"md": to_markdown, "tex": to_latex, "csv": to_csv, "html": to_html}

Logs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def write_report(
    *,
    out: str | os.PathLike[str],
    results: str | os.PathLike[str] | None = None,
    losses: Logs | None = None,
    look: Look = PAGE,
    force: bool = False,
    on_bad_line: Callable[[str], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write the report into a folder, and return its page, `index.html`.

    Beside the page lie `tables/` (Markdown, LaTeX, CSV, HTML), `figures/` (PDF, SVG, PNG, and the points as CSV) and
    `data/`. The page itself holds everything that it shows; it can be moved alone.

    Parameters
    ----------
    results : `results.jsonl` of `dit-eval evaluate`; None for the paper's numbers alone
    losses : one or several loss logs or folders of trainings, see `points.read_losses`
    look : what the figures are made for, see `figures.style.LOOKS`, and which numbers of tables are bold
    force : write over files of an earlier report
    on_bad_line : see `dit_eval.results.lines.read_lines`
    on_step : called with a line on what is being done

    Raises
    ------
    FileNotFoundError
        If `results` or `losses` is not there.
    FileExistsError
        If a file is there already, and not `force`.
    ValueError
        If a line is no result and `on_bad_line` is None, or a folder in `out` is a link that leads out of it.
    """
    out = Path(out)
    refuse_existing([out / "index.html"], force=force)
    files = report_files(
        results=results,
        losses=losses,
        look=look,
        on_bad_line=on_bad_line,
        on_step=on_step,
    )
    refuse_existing([out / name for name in files], force=force)
    for folder in {(out / name).parent for name in files}:
        if not folder.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{folder} is a link that leads out of {out}; remove it, or choose another `out`.")
    for name, content in files.items():  # the page comes last: where it is, the rest is complete
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():  # it may lead out of the folder
            target.unlink()
        with atomic_file(target) as file:
            file.write(content)
    return out / "index.html"


def report_files(
    *,
    results: str | os.PathLike[str] | None = None,
    losses: Logs | None = None,
    look: Look = PAGE,
    on_bad_line: Callable[[str], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, bytes]:
    """Everything that `write_report` writes, by file name, the page last; the same input gives the same bytes."""
    say = on_step or (lambda line: None)
    given = _read(results, losses, on_bad_line=on_bad_line)
    if given.losses is not None and given.losses.empty:
        say(f"no losses yet in {', '.join(map(str, given.logs))}, so there is no figure of them")
    where = settings(given.points)
    say("counting Gflops of the paper's models (kept for the next time)")
    tables = _tables(given, where, look)
    laws = [law_analysis(setting) for setting in where]
    sweeps = [sampling_analysis(setting) for setting in where]
    samplers = [sampler_analysis(setting) for setting in where]
    say("drawing figures")
    with_losses = _setting_of_losses(where, given.losses)
    drawn = [_draw_setting(setting, given, losses=setting is with_losses, look=look) for setting in where]
    analyses = [analysis for analysis in (*laws, *sweeps, *samplers) if analysis is not None]
    files = _table_files([*tables.values(), *(analysis.tables for analysis in analyses)])
    files |= _figure_files(drawn) | _data_files(given)
    order = [row.result for table in tables["runs"] for row in table.rows if row.result is not None]
    page = page_html(
        own_sections(where, tables=tables, drawn=drawn, laws=laws, sweeps=sweeps, samplers=samplers)
        if given.measured
        else [],
        context_sections(
            tables=tables,
            drawn=drawn,
            laws=laws,
            sweeps=sweeps,
            missing=missing_figures(FIGURES, [figure for figures in drawn for figure in figures]),
            has_runs=bool(given.measured),
        ),
        files=files,
        given=Own(
            results=given.measured,
            sources=given.sources,
            left_out=given.left_out,
            thumbnails=thumbnails(given.measured, given.folder, order),
        ),
    )
    return files | {"index.html": page.encode()}


def _tables(given: _Given, where: Sequence[Setting], look: Look) -> dict[str, list[Table]]:
    """All tables but those of the analyses, by group."""
    tables = {
        "runs": runs_tables(given.every, given.measured, given.seeds),
        "seeds": seeds_table(given.every, given.seeds),
        "measured": [measured_table(given.every)] if given.measured else [],
        "paper": paper_tables(given.points),
        "stated": [stated_table(where[0])],
        "later": later_tables(),
    }
    if look.significance:
        tables = {group: [table.judged() for table in of_group] for group, of_group in tables.items()}
    return tables


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a report is made of.

    Attributes
    ----------
    points : published and measured ones, those of several seeds as one
    every : the same, one for each result
    seeds : results of several seeds
    measured : the results
    losses : see `points.read_losses`; None if no log was given
    results, logs : the files that were read
    left_out : messages on lines that could not be read
    """

    points: pd.DataFrame
    every: pd.DataFrame
    seeds: Sequence[SeedGroup]
    measured: Sequence[EvalResult]
    losses: pd.DataFrame | None
    results: Path | None
    logs: Sequence[str | os.PathLike[str]]
    left_out: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where the results file lies; paths of samples count from there too."""
        return Path() if self.results is None else self.results.parent

    @property
    def sources(self) -> list[Path]:
        """Every file that was read."""
        return [*([] if self.results is None else [self.results]), *map(loss_log, self.logs)]


def _read(
    results: str | os.PathLike[str] | None, losses: Logs | None, *, on_bad_line: Callable[[str], None] | None
) -> _Given:
    left_out: list[str] = []

    def skip(message: str) -> None:
        left_out.append(shown(message))
        if on_bad_line is not None:
            on_bad_line(message)

    on_bad = None if on_bad_line is None else skip
    if results is not None:
        _check_file(results)
    logs = [losses] if isinstance(losses, str | os.PathLike) else losses or []
    curves = read_losses(logs, on_bad_line=on_bad) if logs else None
    points = every = published_points()
    measured: list[EvalResult] = []
    seeds: list[SeedGroup] = []
    if results is not None:
        own, measured = read_measured(results, count=count_network, on_bad_line=on_bad)
        if not measured and on_bad is None:
            raise ValueError(f"{results} holds no result. `dit-eval evaluate` appends one; or leave `results` out.")
        seeds = seed_groups(measured)
        every = pd.concat([points, own], ignore_index=True)
        points = pd.concat([points, grouped_points(own, seeds)], ignore_index=True)
    return _Given(
        points=points,
        every=every,
        seeds=seeds,
        measured=measured,
        losses=None if curves is None else curves.assign(model=curves["model"].map(shown)),
        results=None if results is None else Path(results),
        logs=logs,
        left_out=left_out,
    )


def _check_file(results: str | os.PathLike[str]) -> None:
    path = Path(results)
    if not path.is_file():
        what = "a folder; expected results.jsonl" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"`results` {results}: {what}.")


def _setting_of_losses(where: Sequence[Setting], losses: pd.DataFrame | None) -> Setting | None:
    """The setting that evaluated most of the models of a loss log; the paper's if none did."""
    if losses is None:
        return None
    names = [*losses["model"].unique()]

    def known(setting: Setting) -> int:
        evaluated = set(select(setting.points, source="measured")["model"])
        return sum(name in evaluated or name.rpartition(" ")[0] in evaluated for name in names)

    return max(where, key=known)  # the first of several


def _draw_setting(setting: Setting, given: _Given, *, losses: bool, look: Look) -> list[dict[str, Any]]:
    """The figures of a setting that can be drawn, as the page shows them, with their files by ending.

    Parameters
    ----------
    losses : whether the loss curves belong to this setting
    """
    material = {
        "points": setting,
        "losses": given.losses if losses else None,
        "images": images_of_one_seed(setting, given.measured, given.folder),
    }
    notes = load_notes()
    drawn = []
    for item in FIGURES:
        needed = material[item.needs]
        picture = None if needed is None else item.draw(needed, look)
        if picture is None:
            continue
        files = render_figure(picture.figure, look)
        if picture.data is not None:
            files["csv"] = _csv(picture.data.dropna(axis="columns", how="all"))
        mine = notes[notes["elements"].map(lambda elements, name=item.name: name in elements.split())]
        drawn.append(
            {
                "figure": item.name,
                "name": item.name + setting_ending(setting),
                "title": item.title,
                "about": f"{item.about} The paper: {item.claim}" if setting.is_papers and item.claim else item.about,
                "notes": [*mine["text"]] if setting.is_papers else [],
                "caption": picture.caption,
                "marks": marks_of(picture),
                "own": picture.data is None
                or "source" not in picture.data
                or "measured" in set(picture.data["source"]),
                "wide": item.may_be_wide and picture.figure.get_figwidth() > look.column,
                "files": files,
            }
        )
    return drawn


def _table_files(groups: Iterable[Sequence[Table]]) -> dict[str, bytes]:
    tables = [table for group in groups for table in group]
    return {f"tables/{t.name}.{ending}": write(t).encode() for t in tables for ending, write in _WRITERS.items()}


def _figure_files(drawn: Iterable[Iterable[Mapping[str, Any]]]) -> dict[str, bytes]:
    figures = [figure for setting in drawn for figure in setting]
    return {
        f"figures/{figure['name']}.{ending}": content
        for figure in figures
        for ending, content in figure["files"].items()
    }


def _data_files(given: _Given) -> dict[str, bytes]:
    files = {"data/points.csv": _csv(given.every)}
    return files if given.losses is None else files | {"data/losses.csv": _csv(given.losses)}


def _csv(frame: pd.DataFrame) -> bytes:
    plain = frame.map(lambda value: no_formula(value) if isinstance(value, str) else value)
    return plain.to_csv(index=False, lineterminator="\n").encode()
