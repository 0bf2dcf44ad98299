"""Make the figures and tables of the study `digits` again, into `digits/`, where they are committed.

python reports/digits.py            from the results that are committed
python reports/digits.py STUDY      from a finished study, whose results are copied here first

dit-eval study run digits --out STUDY      makes such a study, in about half an hour on two cores
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

from dit_eval.report.law import measured_laws
from dit_eval.report.page import report_files
from dit_eval.results.lines import read_results

HERE = Path(__file__).parent / "digits"
SETTING = "-digits-8"  # what the report adds to the names of figures and tables of this protocol and image size
ALSO = ("measured", "figure13")


def copy(study: Path) -> None:
    """What the report is made of: the plan, results, losses, seconds of each task, and the samples of Figure 7."""
    HERE.mkdir(exist_ok=True)
    for name in ("plan.toml", "results.jsonl", "losses.jsonl"):
        shutil.copyfile(study / name, HERE / name)
    with open(HERE / "tasks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", "gflops", "share", "training_seconds", "sampling_seconds", "evaluation_seconds"])
        for path in sorted((study / "done").glob("*.json")):
            done = json.loads(path.read_text(encoding="utf-8"))
            seconds = [done["seconds"].get(phase, "") for phase in ("training", "sampling", "evaluation")]
            writer.writerow([path.stem, f"{done['gflops']:.3f}", done["share"], *seconds])
    samples = HERE / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    samples.mkdir()
    results = read_results(study / "results.jsonl")
    longest = max(result.gen.run.training_steps or 0 for result in results if result.gen.run)
    for result in results:
        run = result.gen.run
        shown = run and (run.training_steps, run.num_sampling_steps, run.cfg_scale) == (longest, "64", 1.0)
        if shown and run.network["block"] == "adaln-zero":
            shutil.copyfile(study / result.gen.path, HERE / result.gen.path)


def main(arguments: list[str]) -> None:
    if arguments:
        copy(Path(arguments[0]))
    files = report_files(results=HERE / "results.jsonl", losses=HERE / "losses.jsonl")
    for name, content in files.items():
        target = HERE / name
        if (target.stem.endswith(SETTING) or target.stem in ALSO) and target.suffix not in (".html", ".svg"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            sys.stdout.write(f"{target}\n")
    lines = [line for law in measured_laws(HERE / "results.jsonl").values() for line in law.sentences()]
    (HERE / "law.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
