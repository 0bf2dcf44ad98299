"""The report as files, and as one page that needs nothing else: tables, figures, analysis, sources."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

import dit_eval
from dit_eval.flops.kept import count_network
from dit_eval.images.npz import open_batch
from dit_eval.paper import load_notes
from dit_eval.report.figures.all import FIGURES
from dit_eval.report.figures.figure7 import size_patch_grid
from dit_eval.report.figures.figure13 import loss_curves
from dit_eval.report.figures.style import render_figure
from dit_eval.report.law import Law, scaling_law
from dit_eval.report.points import loss_log, published_points, read_losses, read_measured, shown_protocol
from dit_eval.report.sampling import compare_pairs, pareto_front
from dit_eval.report.setting import Setting, select, settings
from dit_eval.report.tables.analysis import law_tables, sampling_tables
from dit_eval.report.tables.later import later_tables
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.tables.paper import paper_tables
from dit_eval.report.tables.stated import stated_table
from dit_eval.report.tables.table import PAPER_TITLE, Table
from dit_eval.report.tables.write import no_formula, to_csv, to_html, to_latex, to_markdown
from dit_eval.report.words import model_name
from dit_eval.results.eval_result import EvalResult
from dit_eval.system.files import atomic_file, refuse_existing
from dit_eval.system.text import named, shown, slug

_DATA_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl"}


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A figure that is drawn: its name, heading, text, files by ending, and notes."""

    name: str
    title: str
    about: str
    wide: bool
    files: dict[str, bytes]
    notes: tuple[str, ...]


def write_report(
    *,
    out: str | os.PathLike[str],
    results: str | os.PathLike[str] | None = None,
    losses: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    force: bool = False,
    on_bad_line: Callable[[str], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write the report into a folder, and return its page, `index.html`.

    Beside the page lie `tables/` (Markdown, LaTeX, CSV, HTML), `figures/` (PDF, SVG, PNG) and `data/`. The page itself
    holds everything that it shows; it can be moved alone.

    Parameters
    ----------
    results : `results.jsonl` of `dit-eval evaluate`; None for the paper's numbers alone
    losses : one or several loss logs or folders of trainings, see `data.read_losses`
    force : write over files of an earlier report
    on_bad_line : see `dit_eval.results.read_lines`
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
    files = report_files(results=results, losses=losses, on_bad_line=on_bad_line, on_step=on_step)
    refuse_existing([out / name for name in files], force=force)
    for folder in {(out / name).parent for name in files}:
        if not folder.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{folder} is a link that leads out of {out}; remove it, or choose another --out.")
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
    losses: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    on_bad_line: Callable[[str], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, bytes]:
    """Everything that `write_report` writes, by file name; the same input gives the same bytes."""
    say = on_step or (lambda line: None)
    bad: list[str] = []

    def skipped(message: str) -> None:
        bad.append(shown(message))
        if on_bad_line is not None:
            on_bad_line(message)

    skip = None if on_bad_line is None else skipped
    if results is not None and not Path(results).is_file():
        what = "a folder; expected results.jsonl" if Path(results).is_dir() else "no such file"
        raise FileNotFoundError(f"--results {results}: {what}.")
    logs: Sequence[str | os.PathLike[str]] = (
        () if losses is None else (losses,) if isinstance(losses, str | os.PathLike) else losses
    )
    curves = read_losses(logs, on_bad_line=skip) if logs else None
    if curves is not None and curves.empty:
        say(f"no losses yet in {', '.join(map(str, logs))}, so there is no figure of them")
    if curves is not None:
        curves = curves.assign(model=curves["model"].map(shown))
    points = published_points()
    measured: list[EvalResult] = []
    if results is not None:
        own, measured = read_measured(results, count=count_network, on_bad_line=skip)
        if not measured and skip is None:
            raise ValueError(f"{results} holds no result. `dit-eval evaluate` appends one; or leave --results out.")
        points = pd.concat([points, own], ignore_index=True)
    where = settings(points)
    say("counting Gflops of the paper's models (kept for the next time)")
    groups = {
        "measured": [measured_table(points)] if measured else [],
        "paper": paper_tables(points),
        "stated": [stated_table(where[0])],
        "later": later_tables(),
    }
    sampling = _own_names(where, {setting.name: sampling_tables(setting) for setting in where if len(setting.sweep)})
    laws = {setting.name: _laws(setting) for setting in where}
    scaling = _own_names(where, {name: law_tables(found) for name, found in laws.items() if found})
    say("drawing figures")
    folder = Path(results).parent if results is not None else Path()
    drawn = [_draw_setting(setting, measured, folder) for setting in where]
    loss_figure = None if curves is None else loss_curves(curves)
    if loss_figure is not None and curves is not None:
        place = _setting_of_losses(where, curves)
        drawn[place].append(
            _Drawn(
                name="figure13" + _ending(where[place]),
                title="Figure 13: training loss",
                about="The loss of each model over training, from the loss log.",
                wide=False,
                files=render_figure(loss_figure),
                notes=(),
            )
        )

    files: dict[str, bytes] = {}
    for group in (*groups.values(), *scaling.values(), *sampling.values()):
        for table in group:
            for ending, write in _WRITERS.items():
                files[f"tables/{table.name}.{ending}"] = write(table).encode()
    for figure in (figure for figures in drawn for figure in figures):
        files |= {f"figures/{figure.name}.{ending}": content for ending, content in figure.files.items()}
    files["data/points.csv"] = _csv(points)
    if curves is not None:
        files["data/losses.csv"] = _csv(curves)
    sources = [*([] if results is None else [Path(results)]), *map(loss_log, logs)]
    files["index.html"] = _page(
        where, groups, laws, scaling, sampling, drawn, files=files, measured=measured, bad=bad, sources=sources
    ).encode()
    return files


_WRITERS: dict[str, Callable[[Table], str]] = {
    "md": to_markdown,
    "tex": to_latex,
    "csv": to_csv,
    "html": to_html,
}


def _csv(frame: pd.DataFrame) -> bytes:
    plain = frame.map(lambda value: no_formula(value) if isinstance(value, str) else value)
    return plain.to_csv(index=False, lineterminator="\n").encode()


def _own_names(where: Iterable[Setting], analysis: Mapping[str, list[Table]]) -> dict[str, list[Table]]:
    """The analysis of each setting, under names that differ: the paper's as they are, others as their figures."""
    return {
        setting.name: [
            Table(
                name=t.name + _ending(setting),
                title=t.title,
                columns=t.columns,
                rows=t.rows,
                about=t.about,
                notes=t.notes,
            )
            for t in analysis[setting.name]
        ]
        for setting in where
        if setting.name in analysis
    }


def _laws(setting: Setting) -> list[Law]:
    """The paper's law first, then that of the measured points; those that have enough models."""
    found = (scaling_law(setting, source) for source in ("paper", "measured"))
    return [law for law in found if law is not None]


def _ending(setting: Setting) -> str:
    """What the file names of a setting end with."""
    return "" if setting.is_papers else f"-{slug(setting.protocol)}-{setting.image_size}"


def _setting_of_losses(where: Sequence[Setting], losses: pd.DataFrame) -> int:
    """Number of the setting that evaluated most of the models of a loss log; the paper's if none did."""
    names = [*losses["model"].unique()]

    def known(setting: Setting) -> int:
        evaluated = set(select(setting.points, source="measured")["model"])
        return sum(name in evaluated or name.rpartition(" ")[0] in evaluated for name in names)

    return max(range(len(where)), key=lambda number: known(where[number]))  # the first of several


def _draw_setting(setting: Setting, results: list[EvalResult], folder: Path) -> list[_Drawn]:
    ending = _ending(setting)
    notes = load_notes()
    drawn = []
    for item in FIGURES:
        figure = item.draw(setting)
        if figure is not None:
            mine = notes[notes["elements"].map(lambda elements, name=item.name: name in elements.split())]
            drawn.append(
                _Drawn(
                    name=item.name + ending,
                    title=item.title,
                    about=f"{item.about} The paper: {item.claim}" if setting.is_papers and item.claim else item.about,
                    wide=figure.get_figwidth() > 5,
                    files=render_figure(figure),
                    notes=tuple(mine["text"]) if setting.is_papers else (),
                )
            )
    images, caption = _images_of_one_seed(setting, results, folder)
    figure = size_patch_grid(images, caption=caption) if len(images) > 1 else None
    if figure is not None:
        place = next((i for i, d in enumerate(drawn) if d.name > f"figure7{ending}"), len(drawn))
        drawn.insert(
            place,
            _Drawn(
                name=f"figure7{ending}",
                title="Figure 7: one noise and label through every model",
                about="Model size grows downwards, patches get smaller to the right.",
                wide=False,
                files=render_figure(figure),
                notes=(),
            ),
        )
    return drawn


def _images_of_one_seed(setting: Setting, results: list[EvalResult], folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """Image 0 of each model of a family whose samples are still there, from runs that differ in the network only."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for result in results:
        run = result.gen.run
        if run is None or shown_protocol(result) != setting.protocol or run.image_size != setting.image_size:
            continue
        # `isfile` takes a name that no file can have for one that is not there.
        texts = (result.gen.path, named(result.gen.path))
        path = next((p for text in texts for p in (Path(text), folder / text) if os.path.isfile(p)), None)
        name = model_name(run.model)
        if path is None or name is None or run.network.get("block") != "adaln-zero":
            continue
        if setting.is_papers and name.family != "DiT":
            continue
        guidance = "no guidance" if run.cfg_scale == 1.0 else f"guidance {run.cfg_scale:g}"
        sampling = f"{run.sampler.upper()} {run.num_sampling_steps} steps, {guidance}"
        key = f"{name.family}, {sampling}, seed {run.global_seed}, {run.labels} labels"
        key += f", {run.training_steps:,} training steps" if run.training_steps else ""
        try:
            batch = open_batch(path, role="gen")
        except (ValueError, OSError):
            continue  # no longer the file that was evaluated
        if batch.run == run and batch.num_images:
            groups.setdefault(key, {})[run.model] = next(iter(batch.batches(1)))[0]
    if not groups:
        return {}, ""
    key = max(groups, key=lambda k: len(groups[k]))
    return groups[key], f"measured: image 0 of each model's samples ({key})"


def _page(
    where: list[Setting],
    groups: Mapping[str, list[Table]],
    laws: Mapping[str, list[Law]],
    scaling: Mapping[str, list[Table]],
    sampling: Mapping[str, list[Table]],
    drawn: list[list[_Drawn]],
    *,
    files: Mapping[str, bytes],
    measured: list[EvalResult],
    bad: list[str],
    sources: list[Path],
) -> str:
    package = resources.files("dit_eval.report")
    css, script = (package.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    sections: dict[str, tuple[str, str]] = {}
    sections["figures"] = ("Figures", _figures(drawn[0], files, _missing_figures(drawn)))
    if where[0].name in scaling:
        inner = _scaling(laws[where[0].name], scaling[where[0].name], files)
        sections["scaling"] = ("Quality and model compute", inner)
    if where[0].name in sampling:
        sections["sampling"] = ("Sampling against model compute", _analysis(where[0], sampling[where[0].name], files))
    sections["tables"] = ("Tables", _tables(groups["paper"], files))
    if measured:
        sections["measured"] = ("Measured", _tables(groups["measured"], files))
    for number, (setting, figures) in enumerate(zip(where[1:], drawn[1:], strict=True), start=2):
        inner = "<p>Measured by another protocol or at another size: no number here compares with the paper's.</p>"
        inner += _figures(figures, files, "")
        inner += _scaling(laws[setting.name], scaling[setting.name], files) if setting.name in scaling else ""
        inner += _analysis(setting, sampling[setting.name], files) if setting.name in sampling else ""
        sections[f"setting{number}"] = (setting.name, inner)
    sections["stated"] = ("Numbers of the text", _tables(groups["stated"], files))
    sections["later"] = ("Later papers", _tables(groups["later"], files))
    sections["provenance"] = ("Where the numbers are from", _provenance(measured, sources, files))
    menu = "".join(f'<a href="#part-{key}">{html.escape(title)}</a>' for key, (title, _) in sections.items())
    body = "".join(
        f'<section id="part-{key}"><h2>{html.escape(title)}</h2>{inner}</section>\n'
        for key, (title, inner) in sections.items()
    )
    count = len(measured)
    intro = (
        f"{count} measured result{'' if count == 1 else 's'} beside the numbers that the paper prints."
        if measured
        else "The numbers that the paper prints. Give --results to see your own runs beside them."
    )
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in bad)
    warning = f'<div class="warning"><b>Lines left out</b><ul>{lines}</ul></div>' if bad else ""
    # Should a text of the results ever get through, it runs nothing and fetches nothing.
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    policy += "base-uri 'none'; form-action 'none'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Diffusion transformers: the paper's tables and figures</title>
<link rel="icon" href="data:,">
<style>
{css}</style>
</head>
<body>
<header>
<h1>Scalable Diffusion Models with Transformers: tables and figures from data</h1>
<p>{intro} Published numbers are data with their source; measured ones carry how they were made; the two are never
mixed.</p>
<ul class="key">
<li><span class="dot"></span><b>open</b> markers and plain rows: printed in the paper</li>
<li><span class="dot full"></span><b>filled</b> markers and <span class="tag">measured</span> rows: measured</li>
<li><b>bold</b>: best of its column, published and measured rows apart</li>
</ul>
{warning}
<nav aria-label="Sections">{menu}</nav>
</header>
<main>
{body}</main>
<script>
{script}</script>
</body>
</html>
"""


def _missing_figures(drawn: list[list[_Drawn]]) -> str:
    """What it takes to draw the figures that are not there, in any setting."""
    names = {figure.name.partition("-")[0] for figures in drawn for figure in figures}
    needed = {
        "figure7": "Figure 7 (a grid of samples) needs sample files of several models with one seed, in their places.",
        "figure13": "Figure 13 (loss curves) needs a loss log: --losses. The paper prints no numbers of it.",
    }
    return "".join(f'<p class="about">{text}</p>' for name, text in needed.items() if name not in names)


def _figures(drawn: list[_Drawn], files: Mapping[str, bytes], after: str) -> str:
    parts = []
    for figure in drawn:
        picture = base64.b64encode(figure.files["svg"]).decode()
        wide = ' class="wide"' if figure.wide else ""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in figure.notes)
        links = "".join(
            f'<a href="figures/{figure.name}.{ending}" download>{ending.upper()}</a>'
            for ending in ("pdf", "svg", "png")
        )
        parts.append(
            f'<figure{wide} id="{figure.name}"><h3>{html.escape(figure.title)}</h3>'
            f'<img src="data:image/svg+xml;base64,{picture}" alt="{html.escape(figure.title)}">'
            f"<figcaption><p>{html.escape(figure.about)}</p>{notes}"
            f'<p class="files">{links}{_data_link("data/points.csv", files)}</p></figcaption></figure>'
        )
    return f'<div class="figures">{"".join(parts)}</div>{after}'


def _tables(group: list[Table], files: Mapping[str, bytes]) -> str:
    parts = []
    for table in group:
        links = _data_link(f"tables/{table.name}.csv", files)
        links += "".join(
            f'<a href="tables/{table.name}.{ending}" download>{name}</a>'
            for ending, name in (("md", "Markdown"), ("tex", "LaTeX"))
        )
        parts.append(f'<div class="block">{to_html(table)}<p class="files">{links}</p></div>')
    return "".join(parts)


def _scaling(laws: list[Law], group: list[Table], files: Mapping[str, bytes]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for law in laws for sentence in law.sentences(most=5))
    return (
        "<p>Does FID follow model size, patch size and training? Counted over all points that differ in one of them "
        f'alone:</p><ul class="verdicts">{items}</ul>{_tables(group, files)}'
    )


def _analysis(setting: Setting, group: list[Table], files: Mapping[str, bytes]) -> str:
    sentences = [verdict.sentence() for verdict in compare_pairs(setting.sweep)]
    measured = select(setting.sweep, source="measured")
    front = list(dict.fromkeys(pareto_front(measured)["model"]))
    if front:
        sentences.append(f"On the measured Pareto front, from the cheapest point to the best: {', '.join(front)}.")
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return (
        "<p>Can more sampling steps make up for a smaller model? For each two models, at equal sampling compute, of "
        f'the points there are:</p><ul class="verdicts">{items}</ul>{_tables(group, files)}'
    )


def _provenance(measured: list[EvalResult], sources: list[Path], files: Mapping[str, bytes]) -> str:
    parts = [
        f"<p>Published: {html.escape(PAPER_TITLE)}. Each row says which table or sentence; notes below the "
        "tables say where the paper disagrees with itself.</p>",
        f"<p>Counted: Gflops and parameters in columns headed counted, by dit_eval {dit_eval.__version__}, from models "
        "that run. Later papers: as the sources named in each row state them.</p>",
    ]
    for path in sources:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append(f"<p>Measured: {html.escape(shown(path.name))}, SHA-256 <code>{digest}</code>.</p>")
    made = []
    for number, result in enumerate(measured, start=1):
        run, features = result.gen.run, result.extractor
        commit = result.environment.get("commit") or "not known"
        facts = {
            "samples": f"{result.gen.path}, SHA-256 {result.gen.sha256}",
            "reference": f"{result.ref.path}, {result.ref.statistics} statistics, SHA-256 {result.ref.sha256}",
            "features": f"{features.name} on {features.backend}, weights {features.weights_sha256}",
            "checkpoint": f"{run.checkpoint} ({run.weights}), SHA-256 {run.checkpoint_sha256}" if run else "not known",
            "program": f"dit_eval {result.environment.get('dit_eval', 'not known')}, commit {commit}",
            "time": result.time or "not known",
            "warnings": "; ".join(result.warnings) or "none",
        }
        title = run.summary() if run else Path(result.gen.path).name
        listed = "".join(f"<dt>{key}</dt><dd>{html.escape(shown(value))}</dd>" for key, value in facts.items())
        made.append(f"<details><summary>{number}. {html.escape(shown(title))}</summary><dl>{listed}</dl></details>")
    if made:
        parts.append(f"<details><summary>How each measured result was made</summary>{''.join(made)}</details>")
    links = "".join(_data_link(name, files) for name in files if name.startswith("data/"))
    return "".join(parts) + f'<p class="files">All points with their sources: {links}</p>'


def _data_link(name: str, files: Mapping[str, bytes]) -> str:
    """A link that carries the file itself, so that the page can be moved alone."""
    ending = name.rpartition(".")[2]
    content = base64.b64encode(files[name]).decode()
    file = name.rpartition("/")[2]
    return f'<a href="data:{_DATA_TYPES[ending]};base64,{content}" download="{file}">{file}</a>'
