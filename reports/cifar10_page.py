"""The page `cifar10/README.md`: the study `cifar10-small`, from its committed results; `make.py cifar10` writes it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dit_eval.flops.kept import count_network
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_results
from dit_eval.results.sample_run import SampleRun

MADE_BY = """\
# The study `cifar10-small`, run

Six tiny DiTs, trained, sampled and scored on CIFAR-10 in pixel space by the plan
[`cifar10-small`](../../dit_eval/study/plans/cifar10-small.toml). The network is the true Inception; its weights here
have no classifier, which no metric of this page needs. `python reports/make.py cifar10` writes this page from the
results beside it.

CIFAR-10 comes by torchvision (`pip install torchvision`):

```python
import numpy as np
from torchvision.datasets import CIFAR10

for part in ("train", "test"):
    data = CIFAR10("cifar10", train=part == "train", download=True)
    np.savez(f"cifar10-{part}.npz", arr_0=data.data, arr_1=np.array(data.targets))
```

The reference has statistics of all 10,000 test pictures, and 1,000 of the pictures for KID, precision and recall.

```console
$ dit-eval stats cifar10-test.npz --out cifar10-test-ref.npz --num-images 1000
$ dit-eval study run cifar10-small --data cifar10-train.npz --ref cifar10-test-ref.npz --out STUDY
$ python reports/make.py cifar10 STUDY        # results, losses and seconds copied here; figures, tables, this page
```

The plan [`cifar10`](../../dit_eval/study/plans/cifar10.toml) is for a GPU: nine models of the paper's proportions,
FID-10K against the training set. It was not run.

```console
$ dit-eval study run cifar10 --data cifar10-train.npz --ref cifar10-train.npz --out STUDY
```
"""


def page(folder: Path) -> str:
    """The text, of `results.jsonl`, `tasks.csv` and `law.txt` in a folder."""
    results = read_results(folder / "results.jsonl")
    drawn = [(result, result.gen.run) for result in results if result.gen.run is not None]
    parts = [MADE_BY, *_machine(results, folder / "tasks.csv"), "## What it shows", *_law(folder / "law.txt")]
    parts += [f"![FID against Gflops of the models](figures/figure8-{folder.name}-32.png)"]
    ((steps, _),) = Counter(run.num_sampling_steps for _, run in drawn).most_common(1)
    scaling = [(result, run) for result, run in drawn if run.num_sampling_steps == steps]
    parts += [f"Each model after the whole training, {steps} sampling steps:", _table(scaling)]
    parts += ["![Ten images of each model](figures/samples.png)", "## Sampling against model compute"]
    swept = {run.model for _, run in drawn if run.num_sampling_steps != steps}
    sweep = [(result, run) for result, run in drawn if run.model in swept]
    parts += [_table(sweep), f"![FID against sampling compute](figures/figure10-{folder.name}-32.png)"]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _machine(results: Sequence[EvalResult], tasks: Path) -> Iterator[str]:
    """Where and how long it ran, and what the numbers are of."""
    where = results[0].environment
    with open(tasks, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    phases = ("training", "sampling", "evaluation")
    minutes = {phase: sum(float(row[f"{phase}_seconds"] or 0) for row in rows) / 60 for phase in phases}
    spent = ", ".join(f"{value:.0f} minutes of {phase}" for phase, value in minutes.items())
    yield (
        f"Machine: {where['cores']} cores of an {where['processor']}, two workers with a thread each; Python "
        f"{where['python']}, torch {where['packages']['torch']}, commit {str(where['commit'])[:7]}. Over all tasks: "
        f"{spent}, by the clock, on a machine that had much else to do: the two largest trainings took most of that. "
        "Seconds of each task are in `tasks.csv`."
    )
    missing = {result.uncertainty.missing.get("fid") for result in results if result.uncertainty} - {None}
    why = f" No interval can be given for it ({missing.pop()})." if missing else ""
    yield (
        f"N is {results[0].num_samples:,} everywhere. FID of so few pictures is far above FID-50K of the same model: "
        f"the values compare with each other alone.{why} KID has no such bias; when this was scored, dit-eval gave it "
        "no interval. One seed; it was not chosen."
    )


def _law(path: Path) -> list[str]:
    return ["\n".join(f"- {line}" for line in path.read_text(encoding="utf-8").splitlines())]


def _table(rows: Sequence[tuple[EvalResult, SampleRun]]) -> str:
    """A Markdown table: model, compute and metrics."""
    head = ("model", "Gflops", "steps", "Gflops an image", "FID", "KID x 1000", "sFID", "precision", "recall")
    lines = [
        head,
        ("---",) * len(head),
        *sorted((_cells(*row) for row in rows), key=lambda cells: (cells[1], int(cells[2]))),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(result: EvalResult, run: SampleRun) -> tuple[str, ...]:
    count = count_network(run.network)
    gflops = None if count is None else count.gflops
    return (
        run.model,
        "" if gflops is None else f"{gflops:.4f}",
        run.num_sampling_steps,
        "" if gflops is None else f"{gflops * int(run.num_sampling_steps):.3f}",
        _number(result.fid, 1),
        "" if result.kid is None else f"{1000 * result.kid:.1f}",
        _number(result.sfid, 1),
        _number(result.precision, 3),
        _number(result.recall, 3),
    )


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
