"""Make the figures, tables and pages of this folder again, where they are committed.

python reports/make.py paper                    the paper's tables and figures, from its published numbers
python reports/make.py paper table4 figure8     some of them
python reports/make.py digits                   figures and tables of the study `digits`, from its committed results
python reports/make.py digits STUDY             from a finished study, whose results are copied here first
python reports/make.py digits_samplers [STUDY]  the same of the study `digits-samplers`
python reports/make.py digits_seeds [STUDY]     the same of the study `seeds`
python reports/make.py digits_sweep [SWEEP]     the figure of a sweep of guidance, the same way
python reports/make.py cifar10 [STUDY]          the same of the study `cifar10-small`
python reports/make.py why                      the page on why an FID differs, from reference_stats/effects.json
python reports/make.py metric_response          what each metric sees in damaged digits: the quickstart's figure
python reports/make.py beside_others            the first page's figure, from what benchmarks/beside_others.py measured

`dit-eval report` makes the same tables and figures with your own results in them, and a page of it all.
`dit-eval study run digits --out STUDY` makes a finished study, in about half an hour on two cores.
reports/cifar10/README.md says what `cifar10-small` needs besides.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import beside_others
import cifar10_page
import why_fid_differs

from dit_eval.cli.grid import draw_grid
from dit_eval.quickstart import quickstart
from dit_eval.report.figures.front import sweep_figure
from dit_eval.report.figures.style import save_figure
from dit_eval.report.law import measured_laws
from dit_eval.report.page import report_files
from dit_eval.report.points import shown_protocol
from dit_eval.results.lines import read_results
from dit_eval.system.text import slug

HERE = Path(__file__).parent
PAPER = HERE / "paper"

OF_PAPER = (
    # The paper's tables; a mark or a column "counted" is ours.
    *("table1", "table2", "table3", "table4", "table5", "table6"),
    # The paper's figures, as far as it prints their numbers: 6, 7, 12 and 13 need runs. Two more that it lacks.
    *("figure2-left", "figure2-right", "figure5", "figure8", "figure9", "figure10", "guidance", "epochs"),
    # Numbers of the text beside our own; model size, sampling and compute; later papers.
    *("stated", "scaling-law", "sampling-pairs", "sampling-front", "sampling-targets", "later-256", "later-512"),
)
ALSO = ("measured", "figure13")  # of a study, beside the figures and tables of its protocol and image size
OF_SEEDS = ("runs", "seeds")  # where there are several


def make_paper(wanted: list[str]) -> None:
    unknown = [name for name in wanted if name not in OF_PAPER]
    if unknown:
        sys.exit(f"Unknown: {', '.join(unknown)}. Known: {', '.join(OF_PAPER)}.")
    write(PAPER, {name: text for name, text in report_files().items() if Path(name).stem in (wanted or OF_PAPER)})


def make_digits(study: list[str]) -> None:
    folder = HERE / "digits"
    if study:
        copy_study(Path(study[0]), folder)
        copy_samples(Path(study[0]), folder)
    make_study(folder)


def make_digits_samplers(study: list[str]) -> None:
    """The figure of samplers and its table; a study of one network has no other figures."""
    folder = HERE / "digits_samplers"
    if study:
        copy_study(Path(study[0]), folder)
    files = report_files(results=folder / "results.jsonl")
    wanted = {name: path.stem.partition("-")[0] for name in files if (path := Path(name)).parent.name}
    kept = {name: stem for name, stem in wanted.items() if stem in ("samplers", "measured")}
    write(folder, {str(Path(name).with_stem(stem)): files[name] for name, stem in kept.items()})


def make_digits_seeds(study: list[str]) -> None:
    folder = HERE / "digits_seeds"
    if study:
        copy_study(Path(study[0]), folder)
    make_study(folder, also=(*ALSO, *OF_SEEDS))


def make_digits_sweep(sweep: list[str]) -> None:
    folder = HERE / "digits_sweep"
    if sweep:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(Path(sweep[0], "results.jsonl"), folder / "results.jsonl")
    if picture := sweep_figure(folder / "results.jsonl"):
        for path in save_figure(picture.figure, folder / "sweep.png"):
            sys.stdout.write(f"{path}\n")


def make_cifar10(study: list[str]) -> None:
    folder = HERE / "cifar10"
    if study:
        copy_study(Path(study[0]), folder)
        draw_samples(Path(study[0]), folder)  # their files have 3 MB each
    make_study(folder)
    (folder / "README.md").write_text(cifar10_page.page(folder), encoding="utf-8")
    sys.stdout.write(f"{folder / 'README.md'}\n")


def make_study(folder: Path, *, also: tuple[str, ...] = ALSO) -> None:
    """Figures, tables and analyses of the results in a folder."""
    files = report_files(results=folder / "results.jsonl", losses=folder / "losses.jsonl")
    # What the report adds to the names of figures and tables of these results; here the folder's name is enough.
    first = read_results(folder / "results.jsonl")[0]
    size = max(first.gen.image_size)
    ending, ours = f"-{slug(shown_protocol(first))}-{size}", f"-{folder.name}-{size}"
    named = {}
    for name, content in files.items():
        path = Path(name)
        if path.stem.endswith(ending):
            named[str(path.with_stem(path.stem.removesuffix(ending) + ours))] = content
        elif path.stem in also:
            named[name] = content
    write(folder, named)
    lines = [line for law in measured_laws(folder / "results.jsonl").values() for line in law.sentences()]
    (folder / "law.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_why(_: list[str]) -> None:
    path = HERE / "why_fid_differs.md"
    path.write_text(why_fid_differs.page(), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def make_metric_response(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        quickstart(Path(folder), on_step=lambda line: sys.stderr.write(line + "\n"), study=False)
        for ending in ("png", "pdf"):
            target = HERE / f"metric_response.{ending}"
            shutil.copyfile(Path(folder, f"metrics.{ending}"), target)
            sys.stdout.write(f"{target}\n")


def make_beside_others(_: list[str]) -> None:
    for name, content in beside_others.files().items():
        (HERE / name).write_bytes(content)
        sys.stdout.write(f"{HERE / name}\n")


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a report, but for the pictures that only its page needs."""
    for name, content in files.items():
        target = folder / name
        if target.suffix != ".svg":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            sys.stdout.write(f"{target}\n")


def copy_study(study: Path, folder: Path) -> None:
    """What the report is made of: the plan, results, losses, and seconds of each task."""
    folder.mkdir(exist_ok=True)
    for name in ("plan.toml", "results.jsonl", "losses.jsonl"):
        shutil.copyfile(study / name, folder / name)
    with open(folder / "tasks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", "gflops", "share", "training_seconds", "sampling_seconds", "evaluation_seconds"])
        for path in sorted((study / "done").glob("*.json")):
            done = json.loads(path.read_text(encoding="utf-8"))
            seconds = [done["seconds"].get(phase, "") for phase in ("training", "sampling", "evaluation")]
            writer.writerow([path.stem, f"{done['gflops']:.3f}", done["share"], *seconds])


def copy_samples(study: Path, folder: Path) -> None:
    """The samples of Figure 7."""
    shutil.rmtree(folder / "samples", ignore_errors=True)
    (folder / "samples").mkdir()
    for path in samples_of_models(study, sampling_steps="64"):
        shutil.copyfile(study / path, folder / path)


def draw_samples(study: Path, folder: Path) -> None:
    """Ten images of each model, of one noise and class in a column."""
    paths = [study / path for path in samples_of_models(study, sampling_steps="32")]
    draw_grid(paths, folder / "figures" / "samples.png", first=0, count=10)


def samples_of_models(study: Path, *, sampling_steps: str) -> list[str]:
    """The sample files of adaLN-Zero models at the end of training, without guidance, as the results name them."""
    results = [result for result in read_results(study / "results.jsonl") if result.gen.run]
    longest = max(result.gen.run.training_steps or 0 for result in results)
    wanted = ("adaln-zero", longest, sampling_steps, 1.0)
    runs = {result.gen.path: result.gen.run for result in results}
    return [
        path
        for path, run in runs.items()
        if (run.network["block"], run.training_steps, run.num_sampling_steps, run.cfg_scale) == wanted
    ]


PARTS = {
    "paper": make_paper,
    "digits": make_digits,
    "digits_samplers": make_digits_samplers,
    "digits_seeds": make_digits_seeds,
    "digits_sweep": make_digits_sweep,
    "cifar10": make_cifar10,
    "why": make_why,
    "metric_response": make_metric_response,
    "beside_others": make_beside_others,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(__doc__)
    PARTS[sys.argv[1]](sys.argv[2:])
