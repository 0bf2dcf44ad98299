"""Make the figures, tables and pages of this folder again, where they are committed.

python reports/make.py paper                    the paper's tables and figures, from its published numbers
python reports/make.py paper table4 figure8     some of them
python reports/make.py digits                   figures and tables of the study `digits`, from its committed results
python reports/make.py digits STUDY             from a finished study, whose results are copied here first
python reports/make.py why                      the page on why an FID differs, from reference_stats/effects.json
python reports/make.py metric_response          what each metric sees in damaged digits: the quickstart's figure

`dit-eval report` makes the same tables and figures with your own results in them, and a page of it all.
`dit-eval study run digits --out STUDY` makes a finished study, in about half an hour on two cores.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import why_fid_differs

from dit_eval.quickstart import quickstart
from dit_eval.report.law import measured_laws
from dit_eval.report.page import report_files
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_results

HERE = Path(__file__).parent
PAPER, DIGITS = HERE / "paper", HERE / "digits"

OF_PAPER = (
    # The paper's tables; a mark or a column "counted" is ours.
    *("table1", "table2", "table3", "table4", "table5", "table6"),
    # The paper's figures, as far as it prints their numbers: 6, 7, 12 and 13 need runs. Two more that it lacks.
    *("figure2-left", "figure2-right", "figure5", "figure8", "figure9", "figure10", "guidance", "epochs"),
    # Numbers of the text beside our own; model size, sampling and compute; later papers.
    *("stated", "scaling-law", "sampling-pairs", "sampling-front", "sampling-targets", "later-256", "later-512"),
)
SETTING = "-digits-8"  # what the report adds to the names of figures and tables of this protocol and image size
ALSO = ("measured", "figure13")


def make_paper(wanted: list[str]) -> None:
    unknown = [name for name in wanted if name not in OF_PAPER]
    if unknown:
        sys.exit(f"Unknown: {', '.join(unknown)}. Known: {', '.join(OF_PAPER)}.")
    write(PAPER, {name: text for name, text in report_files().items() if Path(name).stem in (wanted or OF_PAPER)})


def make_digits(study: list[str]) -> None:
    if study:
        copy_study(Path(study[0]))
    files = report_files(results=DIGITS / "results.jsonl", losses=DIGITS / "losses.jsonl")
    stems = {name: Path(name).stem for name in files}
    write(DIGITS, {n: files[n] for n, stem in stems.items() if stem.endswith(SETTING) or stem in ALSO})
    lines = [line for law in measured_laws(DIGITS / "results.jsonl").values() for line in law.sentences()]
    (DIGITS / "law.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


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


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a report, but for those that only its page needs."""
    for name, content in files.items():
        target = folder / name
        if target.suffix not in (".html", ".svg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            sys.stdout.write(f"{target}\n")


def copy_study(study: Path) -> None:
    """What the report is made of: the plan, results, losses, seconds of each task, and the samples of Figure 7."""
    DIGITS.mkdir(exist_ok=True)
    for name in ("plan.toml", "results.jsonl", "losses.jsonl"):
        shutil.copyfile(study / name, DIGITS / name)
    with open(DIGITS / "tasks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", "gflops", "share", "training_seconds", "sampling_seconds", "evaluation_seconds"])
        for path in sorted((study / "done").glob("*.json")):
            done = json.loads(path.read_text(encoding="utf-8"))
            seconds = [done["seconds"].get(phase, "") for phase in ("training", "sampling", "evaluation")]
            writer.writerow([path.stem, f"{done['gflops']:.3f}", done["share"], *seconds])
    shutil.rmtree(DIGITS / "samples", ignore_errors=True)
    (DIGITS / "samples").mkdir()
    results = read_results(study / "results.jsonl")
    longest = max(result.gen.run.training_steps or 0 for result in results if result.gen.run)
    for result in results:
        if is_in_figure7(result, longest):
            shutil.copyfile(study / result.gen.path, DIGITS / result.gen.path)


def is_in_figure7(result: EvalResult, training_steps: int) -> bool:
    run = result.gen.run
    if run is None or run.network["block"] != "adaln-zero":
        return False
    return (run.training_steps, run.num_sampling_steps, run.cfg_scale) == (training_steps, "64", 1.0)


PARTS = {"paper": make_paper, "digits": make_digits, "why": make_why, "metric_response": make_metric_response}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(__doc__)
    PARTS[sys.argv[1]](sys.argv[2:])
