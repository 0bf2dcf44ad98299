"""Studies: every result once and the same, whatever is killed, and whatever the tasks run on."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import deadly_worker
import inline_engine
import numpy as np
import pytest
import torch
from inline_engine import InlineEngine
from ports import held_port
from safetensors.torch import load_file

from dit_eval.cli import main
from dit_eval.diffusion.trainer import Trainer
from dit_eval.features import NETWORKS
from dit_eval.report import page
from dit_eval.results.lines import read_results
from dit_eval.study.engine import Outcome
from dit_eval.study.folder import Study
from dit_eval.study.plan_file import load_plan
from dit_eval.study.run import run_study
from dit_eval.study.sources import Sources, feature_network, find_sources
from dit_eval.study.tasks import work
from dit_eval.system.assets import asset

pytestmark = pytest.mark.processes

PLAN = """\
name = "micro"
about = "Two tiny DiTs on digits"

[data]
train = "digits"
ref = "digits"
extractor = "digits"
space = "pixel"
image_size = 8
channels = 1
num_classes = 10

[models]
"micro-S/4" = { depth = 1, hidden_size = 8, num_heads = 2, patch_size = 4 }
"micro-B/4" = { depth = 1, hidden_size = 16, num_heads = 2, patch_size = 4 }

[training]
learning_rate = 2e-3
batch_size = 16
ema_decay = 0.9
ema_warm_up = true
flip = 0.0
log_every = 4

[sampling]
num_samples = 16
labels = "balanced"

[[cells]]
models = "all"
training_steps = [10, 20]
sampling_steps = [4, 8]

[[resources]]
threads = 1
batch_size = 4
num_workers = 0
"""
SMALL = [('models = "all"', 'models = "micro-S/4"')]
ONE = [*SMALL, ("[10, 20]", "10"), ("[4, 8]", "8")]  # one training, one cell


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def serial(monkeypatch):
    """Tasks run in this process; the list of the keys of those that are done."""
    inline_engine.install(monkeypatch.setattr)
    monkeypatch.setattr(InlineEngine, "done", [])
    return InlineEngine.done


def plan_file(folder, *changes, text=PLAN):
    """A plan in a folder, with some words changed."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = Path(folder) / "micro.toml"
    path.write_text(text)
    return path


def command(plan, out, *more):
    return ["study", "run", str(plan), "--out", str(out), "--device", "cpu", *map(str, more)]


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return exit_.value.code or 0, captured.out, captured.err


def start(plan, out, *more):
    """The command as a process of its own; what it says goes into a file beside the study."""
    with open(f"{out}.log", "ab") as log:
        return subprocess.Popen([sys.executable, "-m", "dit_eval", *command(plan, out, *more)], stdout=log, stderr=log)


def until(condition, what, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.01)
    return found


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def numbers(path):
    """Results without what differs between two runs of the same: times, memory, environments."""
    results = lines(path)
    for result in results:
        for name in ("seconds", "peak_memory_bytes", "environment", "time"):
            del result[name]
        # These files hold environments themselves; images and weights are compared beside this.
        del result["gen"]["sha256"]
        for name in ("environment", "earlier_environments", "checkpoint_sha256"):
            del result["gen"]["run"][name]
    return results


def images(folder):
    found = {}
    for path in sorted((folder / "samples").glob("*.npz")):
        with np.load(path) as file:
            found[path.name] = (file["arr_0"].tobytes(), file["arr_1"].tobytes())
    return found


def same_study(one, other):
    """Results, losses, images and weights are the same, each once, and nothing unfinished is left."""
    assert numbers(one / "results.jsonl") == numbers(other / "results.jsonl")
    assert (one / "losses.jsonl").read_bytes() == (other / "losses.jsonl").read_bytes()
    assert images(one) == images(other)
    for path in one.glob("trainings/*/[em]*.safetensors"):
        mine, theirs = load_file(path), load_file(other / path.relative_to(one))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), path.name
    left = [path for path in other.rglob("*") if path.name.endswith((".part", ".parts"))]
    assert not left


def snapshot(folder):
    """Content and time of all that a finished study does not write again."""
    files = [path for name in ("done", "samples", "trainings", "cache") for path in (folder / name).rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path.is_file()}


def process_table():
    """Parent and command line of each process that has not ended."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    table[int(entry.name)] = (int(parent), (entry / "cmdline").read_text().replace("\0", " "))
    return table


def descendants(pid):
    """Command lines by process id of all that a process has started, and what those have."""
    table, found, new = process_table(), {}, {pid}
    while new:
        new = {p for p, (parent, _) in table.items() if parent in new}
        found |= {p: table[p][1] for p in new}
    return found


def kill_with_all(process):
    """kill -9, of which the other processes have to learn by themselves; those that they are."""
    left = descendants(process.pid)
    process.kill()
    process.wait()
    until(lambda: not left.keys() & process_table().keys(), f"the end of {left}", 15)
    return left


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study, by the command line; `second` is what another run in its folder said meanwhile."""
    folder = tmp_path_factory.mktemp("whole")
    plan, out = plan_file(folder), folder / "out"
    process = start(plan, out)
    until(lambda: (out / "study.json").exists(), "the beginning")
    second = subprocess.run(
        [sys.executable, "-m", "dit_eval", *command(plan, out)], capture_output=True, text=True, check=False
    )
    alive = process.poll() is None
    assert process.wait(300) == 0, Path(f"{out}.log").read_text()
    log = Path(f"{out}.log").read_text()
    return SimpleNamespace(folder=out, plan=plan, log=log, second=second, alive=alive)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(whole.folder, tmp_path / "copy")
    return tmp_path / "copy"


# ---- a study


def test_each_cell_is_a_line_in_the_order_of_the_plan(whole):
    plan = load_plan(whole.plan)
    results = lines(whole.folder / "results.jsonl")
    found = [
        (r["gen"]["run"]["model"], r["gen"]["run"]["training_steps"], r["gen"]["run"]["num_sampling_steps"])
        for r in results
    ]
    models = ("micro-S/4", "micro-B/4")
    assert found == [(m, t, s) for m in models for t in (10, 20) for s in ("4", "8")]
    for cell, result in zip(plan.cells, results, strict=True):
        assert result["gen"]["path"] == f"samples/{cell.key}.npz"
        assert (result["num_samples"], result["protocol"], result["ref"]["path"]) == (16, "digits", "digits.npz")
        assert result["fid"] > 0
    assert len({r["fid"] for r in results}) == 8
    losses = lines(whole.folder / "losses.jsonl")
    assert [(line["model"], line["step"]) for line in losses] == [(m, s) for m in models for s in (4, 8, 12, 16, 20)]
    assert "to do: 2 trainings" in whole.log
    told = re.findall(r"\[ ?(\d+)/10\] (.*?)(?:: FID-16 [\d.]+)? \([\d.]+ (?:s|min)\)", whole.log)
    assert [int(number) for number, _ in told] == [*range(1, 11)], "in the order in which they ended"
    assert {name for _, name in told} == {task.name for task in plan.tasks}
    assert f"{whole.folder / 'results.jsonl'}: 8 results" in whole.log


def test_a_cell_is_what_the_commands_give_by_hand(whole, tmp_path, capsys):
    cell = load_plan(whole.plan).cells[-1]
    sizes = ["--depth", 1, "--hidden-size", 16, "--num-heads", 2, "--patch-size", 4]
    data = ["--data", asset("digits").path, "--grey", "--no-flips"]
    recipe = ["--steps", 20, "--batch-size", 16, "--lr", 2e-3, "--ema", 0.9, "--ema-warm-up", "--log-every", 4]
    train = ["train", *sizes, *data, *recipe, "--save-at", 10, "--device", "cpu", "--out", tmp_path / "run"]
    assert run(capsys, *train)[0] == 0
    theirs = whole.folder / "trainings" / cell.training
    for step in (10, 20):
        for kind in ("ema", "model"):
            name = f"{kind}-{step:07d}.safetensors"
            assert (tmp_path / "run" / name).read_bytes() == (theirs / name).read_bytes()
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (theirs / "log.jsonl").read_bytes()
    samples, ckpt = tmp_path / "samples.npz", ["--ckpt", tmp_path / "run" / "ema-0000020.safetensors"]
    what = ["--num-fid-samples", 16, "--num-sampling-steps", 8, "--cfg-scale", 1.0, "--labels", "balanced"]
    assert run(capsys, "sample", *ckpt, *what, "--device", "cpu", "--out", samples)[0] == 0
    with np.load(samples) as mine, np.load(whole.folder / "samples" / f"{cell.key}.npz") as study:
        assert mine["arr_0"].tobytes() == study["arr_0"].tobytes()
        assert mine["arr_1"].tobytes() == study["arr_1"].tobytes()
    score = ["--ref", "digits", "--extractor", "digits", "--device", "cpu", "--no-results", "--json", "-"]
    code, output, _ = run(capsys, "evaluate", samples, *score)
    assert code == 0
    mine, study = json.loads(output), lines(whole.folder / "results.jsonl")[-1]
    for name in ("fid", "sfid", "inception_score", "precision", "recall", "num_samples", "num_reference", "ref"):
        if name == "ref":
            assert mine["ref"]["sha256"] == study["ref"]["sha256"]
        else:
            assert mine[name] == study[name], name


def test_a_guided_cell_of_a_flow_is_what_the_commands_give_by_hand(tmp_path, capsys, serial):
    cells = (
        'objectives = "flow"\nsamplers = "ode-heun"\ncfg_scales = 2.0\nguide = "micro-S/4"\nguide_training_steps = 5'
    )
    changes = [('models = "all"', f'models = "micro-B/4"\n{cells}'), ("[10, 20]", "10"), ("[4, 8]", "3")]
    plan, study = plan_file(tmp_path, *changes), tmp_path / "study"
    assert run(capsys, *command(plan, study))[0] == 0
    (cell,) = load_plan(plan).cells
    strong, weak = (study / "trainings" / key / f"ema-{step:07d}.safetensors" for key, step in cell.weights)
    samples = tmp_path / "samples.npz"
    what = ["--num-images", 16, "--num-sampling-steps", 3, "--cfg-scale", 2, "--labels", "balanced", "--device", "cpu"]
    by = ["--ckpt", strong, "--guide-ckpt", weak, "--sampler", "ode-heun", "--out", samples]
    assert run(capsys, "sample", *what, *by)[0] == 0
    with np.load(samples) as mine, np.load(study / "samples" / f"{cell.key}.npz") as theirs:
        assert mine["arr_0"].tobytes() == theirs["arr_0"].tobytes()
    made = lines(study / "results.jsonl")[0]["gen"]["run"]
    assert (made["path"], made["prediction"], made["time"]) == ("linear", "velocity", "sit")
    assert made["guide_ckpt"] == f"{weak.parent.name}/{weak.name}"
    assert made["guide_network"]["hidden_size"] == 8
    assert {line["model"] for line in lines(study / "losses.jsonl")} == {"micro-B/4 flow", "micro-S/4 flow"}
    records = [json.loads(path.read_text())["task"] for path in (study / "done").glob("*.json")]
    assert {record["guide"]["training_steps"] for record in records if "guide" in record} == {5}


def test_a_finished_study_is_left_alone(whole, capsys, serial):
    before, results = snapshot(whole.folder), (whole.folder / "results.jsonl").read_bytes()
    code, output, error = run(capsys, *command(whole.plan, whole.folder))
    assert (code, serial) == (0, [])
    assert "10 of 10 tasks are done already" in error
    assert "8 results" in output
    assert snapshot(whole.folder) == before
    assert (whole.folder / "results.jsonl").read_bytes() == results


def test_two_runs_at_once(whole):
    assert whole.alive, "the first was at work"
    assert (whole.second.returncode, whole.second.stdout) == (2, "")
    last = whole.second.stderr.splitlines()[-1]
    assert re.fullmatch(r"dit-eval: error: .*: another process runs this study\. Wait for it, or name .*", last)
    assert "Traceback" not in whole.second.stderr


def test_status(whole, capsys):
    code, output, _ = run(capsys, "study", "status", whole.plan, "--out", whole.folder)
    assert code == 0
    assert output.splitlines()[-1] == "10 of 10 done, 0 running, 0 failed"
    results = lines(whole.folder / "results.jsonl")
    for result in results:
        words = result["gen"]["run"]
        row = f"{words['model']}, {words['training_steps']} steps of training, {words['num_sampling_steps']} of"
        assert re.search(rf"{re.escape(row)} sampling, 16 images +done .* {result['fid']:.3f}\n", output)
    code, output, _ = run(capsys, "study", "status", whole.plan, "--out", whole.folder, "--json")
    tasks = json.loads(output)["tasks"]
    assert [task["state"] for task in tasks] == ["done"] * 10
    assert [task["result"]["fid"] for task in tasks[2:]] == [result["fid"] for result in results]
    assert [task["result"] for task in tasks[:2]] == [None, None]
    assert all(task["gflops"] > 0 and task["seconds_left"] == 0 for task in tasks)


def test_status_of_what_is_not_finished(whole, copy, tmp_path, capsys):
    plan = load_plan(whole.plan)
    run_, cell = plan.trainings[0], plan.cells[0]
    (copy / "done" / f"{cell.key}.json").unlink()
    (copy / "samples" / f"{cell.key}.npz").unlink()
    longer = plan_file(tmp_path, ("[10, 20]", "[10, 20, 40]"))
    _, output, _ = run(capsys, "study", "status", longer, "--out", copy, "--json")
    rows = {task["name"]: task for task in json.loads(output)["tasks"]}
    training = rows["micro-S/4, 40 steps of training"]
    assert (training["key"], training["state"], training["done_share"]) == (run_.key, "ready", 0.5)
    assert training["seconds_left"] > 0, "from the tasks that are done"
    assert rows[cell.name]["state"] == "ready"
    waiting = rows["micro-S/4, 40 steps of training, 8 of sampling, 16 images"]
    assert (waiting["state"], waiting["done_share"], waiting["result"]) == ("waiting", 0.0, None)
    for action in ("status", "report"):
        code, output, error = run(capsys, "study", action, whole.plan, "--out", tmp_path / "nowhere")
        assert (code, output) == (2, "")
        assert f"{tmp_path / 'nowhere'}: no such folder; begin a study by `dit-eval study run PLAN --out" in error
    assert not (tmp_path / "nowhere").exists()
    code, _, error = run(capsys, "study", "work", tmp_path / "nowhere", run_.key)
    assert (code, "no study there" in error) == (2, True)
    with pytest.raises(FileNotFoundError, match=r"`ref` Digits-Held_out: no such file .* mean 'digits-heldout'\?"):
        find_sources(plan, ref="Digits-Held_out", device="cpu")
    code, _, error = run(capsys, "study", "work", copy, run_.key.upper())
    assert (code, f"Did you mean {run_.key!r}?" in error) == (2, True)


def test_report(copy, whole, capsys, monkeypatch):
    monkeypatch.setattr(page, "FIGURES", [item for item in page.FIGURES if item.needs == "losses"])
    code, output, _ = run(capsys, "study", "report", whole.plan, "--out", copy)
    assert (code, output) == (0, f"{copy / 'report' / 'index.html'}\n")
    assert "micro-B/4" in (copy / "report" / "index.html").read_text()
    code, _, error = run(capsys, "study", "report", whole.plan, "--out", copy / "nowhere")
    assert code == 2
    assert error.startswith("dit-eval: error:")


def test_looking_leaves_nothing_behind(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = run(capsys, "study", "show", whole.plan)
    assert (code, output) == (0, PLAN)
    code, output, _ = run(capsys, *command(whole.plan, tmp_path / "out"), "--dry-run")
    assert code == 0
    assert output.count("\n") == 13, "a line for the plan, the columns, each task and the sum"
    assert "micro: Two tiny DiTs on digits" in output
    assert "to do: 2 trainings" in output
    assert not list(tmp_path.iterdir())


# ---- kill -9

# A real kill for each kind of moment. tests/system/test_run_folder.py goes on from each state of the disk, in-process.
MOMENTS = [
    ("dit_eval.diffusion.trainer:Trainer.step", 33),  # between two checkpoints
    ("samples/*.npz", 1),  # all drawn, not packed
    ("done/*.json", 1),
    ("results.jsonl", 3),
]


@pytest.mark.parametrize(("what", "times"), MOMENTS)
def test_killed_at(forks, whole, tmp_path, what, times):
    out = tmp_path / "out"
    job = command(whole.plan, out)
    killed = forks(job, serial=True, die_at=[what, times])
    assert killed["statuses"] == [-9], killed
    again = forks(job, serial=True)
    assert again["statuses"] == [0], again
    same_study(whole.folder, out)


def test_commands_and_their_workers_killed_at_random_moments(whole, tmp_path):
    out, chance = tmp_path / "out", random.Random(6)
    process = start(whole.plan, out, "--jobs", 2)
    until(lambda: list(out.glob("samples/*")), "the first images")
    time.sleep(chance.uniform(0, 0.5))
    assert kill_with_all(process), "there were workers"
    process = start(whole.plan, out, "--jobs", 2)
    for _ in range(2):
        done = len(list(out.glob("done/*.json")))
        until(lambda n=done: len(list(out.glob("done/*.json"))) > n or process.poll() is not None, "the next result")
        workers = [pid for pid, line in descendants(process.pid).items() if "spawn_main" in line]
        for pid in workers[:1]:
            time.sleep(chance.uniform(0, 0.3))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert process.wait(300) == 0, Path(f"{out}.log").read_text()
    same_study(whole.folder, out)


@pytest.mark.parametrize("processes", [2])
def test_workers_end_with_the_command(whole, tmp_path, capsys, serial, processes):
    out = tmp_path / "out"
    changes = [*SMALL, ("[4, 8]", "8"), ("threads = 1", f"threads = 1\nprocesses = {processes}")]
    endless = plan_file(tmp_path, *changes, ("[10, 20]", "[10, 1_000_000]"))
    process = start(endless, out)
    until(lambda: [path for path in out.glob("trainings/*/log.jsonl") if path.stat().st_size], "the first loss")
    left = kill_with_all(process)
    ranks = [line for line in left.values() if "study work" in line and "torch.distributed.run" not in line]
    assert len(ranks) == (2 if processes == 2 else 0), left
    # The same training, as far as the finished study has it, in the same folder; two processes may have begun it.
    short = plan_file(tmp_path, *changes, ("[10, 20]", "[10]"))
    code, _, error = run(capsys, *command(short, out))
    assert code == 0, error
    mine, theirs = numbers(out / "results.jsonl"), numbers(whole.folder / "results.jsonl")[1]
    assert [result["gen"]["path"] for result in mine] == [theirs["gen"]["path"]]
    assert mine[0]["fid"] == pytest.approx(theirs["fid"], rel=1e-2)
    assert processes == 2 or mine[0] == theirs


def test_killed_workers_are_replaced_and_given_up_after_three_times(copy, whole, capsys, monkeypatch):
    plan = load_plan(whole.plan)
    once, always, other = plan.cells[0], plan.cells[3], plan.cells[6]
    (copy / "deadly").mkdir()
    for cell, times in ((once, 1), (always, 100), (other, 0)):
        (copy / "done" / f"{cell.key}.json").unlink()
        (copy / "samples" / f"{cell.key}.npz").unlink()
        (copy / "deadly" / cell.key).write_text(str(times))
    monkeypatch.setattr("dit_eval.study.tasks.do_task", deadly_worker.do_task)
    code, output, error = run(capsys, *command(whole.plan, copy, "--jobs", 1))
    assert (code, output) == (2, "")
    assert error.count(f"started again: {once.name}: its process was killed (signal SIGKILL") == 1
    assert error.count(f"started again: {always.name}: its process was killed (signal SIGKILL") == 2
    assert error.count(f"failed: {always.name}: its process was killed (signal SIGKILL") == 1
    assert "dit-eval: error: 1 tasks failed, 9 of 10 are done and kept." in error
    assert (copy / "deadly" / always.key).read_text() == "97", "three starts"
    kept = [r for r in numbers(whole.folder / "results.jsonl") if always.key not in r["gen"]["path"]]
    assert numbers(copy / "results.jsonl") == kept
    _, output, _ = run(capsys, "study", "status", whole.plan, "--out", copy)
    assert "9 of 10 done, 0 running, 1 failed" in output
    assert f"failed: {always.name}: its process was killed (signal SIGKILL" in output
    monkeypatch.undo()
    inline_engine.install(monkeypatch.setattr)
    assert run(capsys, *command(whole.plan, copy))[0] == 0
    same_study(whole.folder, copy)


# ---- failures


def test_a_task_that_fails_does_not_keep_others_from_being_done(whole, tmp_path, capsys, monkeypatch, serial):
    out, step = tmp_path / "out", Trainer.step

    def poisoned(self, batch):
        if self.config.hidden_size == 16 and self.steps == 14:
            with torch.no_grad():
                self.model.final_layer.linear.bias.fill_(float("nan"))
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", poisoned)
        code, output, error = run(capsys, *command(whole.plan, out))
    name = "micro-B/4, 20 steps of training"
    assert (code, output) == (2, "")
    assert error.count(f"failed: {name}: Step 15: the loss is nan") == 1
    assert "dit-eval: error: 1 tasks failed, 7 of 10 are done and kept." in error
    assert f"  {name}: Step 15" in error
    assert "started again" not in error
    # What the failed one had kept is drawn and scored.
    assert numbers(out / "results.jsonl") == numbers(whole.folder / "results.jsonl")[:6]
    _, output, _ = run(capsys, "study", "status", whole.plan, "--out", out)
    assert re.search(rf"{name} +failed 60% ", output), output
    assert "7 of 10 done, 0 running, 1 failed" in output
    assert f"failed: {name}: Step 15: the loss is nan" in output
    del serial[:]
    assert run(capsys, *command(whole.plan, out))[0] == 0
    assert len(serial) == 3
    same_study(whole.folder, out)
    _, output, _ = run(capsys, "study", "status", whole.plan, "--out", out)
    assert "10 of 10 done, 0 running, 0 failed" in output
    assert "loss is nan" not in output


def test_a_learning_rate_that_is_no_good(tmp_path, capsys, serial):
    plan = plan_file(tmp_path, ("learning_rate = 2e-3", "learning_rate = 1e30"))
    code, _, error = run(capsys, *command(plan, tmp_path / "out"))
    assert code == 2
    assert "dit-eval: error: 2 tasks failed, 0 of 10 are done and kept." in error
    assert "the loss is" in error
    assert "try a lower learning rate" in error
    assert (tmp_path / "out" / "results.jsonl").read_text() == ""
    code, _, error = run(capsys, "study", "report", plan, "--out", tmp_path / "out")
    assert code == 2
    assert "no cell is done; run the study first" in error


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    np.savez(folder / "large.npz", arr_0=rng.integers(0, 256, (8, 16, 16, 3), np.uint8), arr_1=np.arange(8) % 10)
    np.savez(folder / "statistics.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    grey = np.repeat(rng.integers(0, 256, (8, 8, 8, 1), np.uint8), 3, axis=3)
    np.savez(folder / "unlabelled.npz", arr_0=grey, labels=np.arange(8))
    np.savez(folder / "colour.npz", arr_0=rng.integers(0, 256, (8, 8, 8, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ([], ["--data", "nowhere"], "--data nowhere: no such file or folder (training data)"),
        ([], ["--ref", "nowhere"], "--ref nowhere: no such file or folder (reference batch)"),
        ([('train = "digits"', 'train = "gone.npz"')], [], "--data gone.npz: no such file or folder (training data)"),
        ([('train = "digits"\n', "")], [], "leaves the training data open; pass --data"),
        ([('ref = "digits"\n', "")], [], "leaves the reference batch open; pass --ref"),
        ([], ["--ref", "{}/large.npz"], "images of 16 x 16 px; the plan draws images of 8 px"),
        ([], ["--ref", "{}/statistics.npz"], "have 2048 dimensions; the digits extractor needs"),
        ([], ["--data", "{}/large.npz"], "its images have colours"),
        ([], ["--data", "{}/colour.npz"], "its images have colours"),
        ([], ["--data", "{}/unlabelled.npz"], "all of one class; expected 10, as the plan has. Put labels into"),
        ([("num_classes = 10", "num_classes = 5")], [], "labels up to 9; the model knows 5"),
        ([("image_size = 8", "image_size = 16")], [], "the model needs images of 1 x 16 x 16"),
        ([('labels = "balanced"', 'precision = "tf32"')], [], "tf32"),
        ([("threads = 1", "threads = 1\nnodes = 2")], [], "use --engine slurm"),
        ([], ["--jobs", "0"], "--jobs 0: needed at least 1"),
        ([], ["--device", "gpu"], "--device gpu: not a device"),
        (
            [("[10, 20]", "[10, 0]")],
            [],
            "line 31: cells[1].training_steps: expected integers from 1 to 100,000,000; got 0",
        ),
    ],
)
def test_mistakes_are_found_before_anything_runs(odd_files, tmp_path, capsys, monkeypatch, changes, options, said):
    monkeypatch.setattr("dit_eval.study.tasks.work", lambda *_, **__: pytest.fail("a task ran"))
    plan = plan_file(tmp_path, *changes)
    code, output, error = run(capsys, *command(plan, tmp_path / "out"), *(o.format(odd_files) for o in options))
    assert (code, output) == (2, ""), error
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "trainings").exists()


# ---- networks and metrics


def test_cells_are_scored_by_the_metrics_that_the_plan_asks_for(tmp_path, capsys, serial):
    asked = [('extractor = "digits"', 'extractor = "digits"\nmetrics = ["recall", "density"]')]
    code, _, error = run(capsys, *command(plan_file(tmp_path, *ONE, *asked), tmp_path / "out"))
    assert code == 0, error
    (result,) = read_results(tmp_path / "out" / "results.jsonl")
    assert (result.fid, result.precision) == (None, None)
    assert result.recall is not None
    assert result.density is not None
    assert result.extractor.name == "digits"


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_study_loads_the_network_and_backend_of_its_plan(network, tmp_path, monkeypatch):
    monkeypatch.setattr("dit_eval.study.sources.load_network", lambda name, **given: (name, given))
    for backend in network.backends:
        lines = f'extractor = "{network.name}"\nbackend = "{backend.name}"'
        plan = load_plan(plan_file(tmp_path, *ONE, ('extractor = "digits"', lines)))
        weights = None if backend.weights is None else "weights.pth"
        sources = Sources(train="digits", ref="digits", weights=weights, decoders={}, device="auto")
        given = {"weights": weights, "backend": backend.name, "device": "cpu"}
        assert feature_network(plan, sources, device="cpu") == (network.name, given)


# ---- plans that change


def test_a_larger_plan_does_what_is_new(whole, copy, tmp_path, capsys, serial):
    before = snapshot(copy)
    larger = plan_file(tmp_path, ("[10, 20]", "[10, 20, 30]"), ("[4, 8]", "[4, 8, 2]"))
    assert run(capsys, *command(larger, copy))[0] == 0
    plan = load_plan(larger)
    old = {task.key for task in load_plan(whole.plan).cells}
    assert set(serial) == {task.key for task in plan.tasks} - old
    assert len(serial) == 2 + 10
    after = snapshot(copy)
    kept = [p for p in before if p.suffix in (".npz", ".json") and p.stem in old] + list(copy.glob("cache/*"))
    assert len(kept) == 8 + 8 + 1
    assert all(before[path] == after[path] for path in kept)
    weights = [path for path in before if path.name.startswith(("ema-", "model-"))]
    assert len(weights) == 8
    assert all(before[path] == after[path] for path in weights)
    results = numbers(copy / "results.jsonl")
    assert len(results) == 18
    assert [r for r in results if Path(r["gen"]["path"]).stem in old] == numbers(whole.folder / "results.jsonl")
    # At once, it would have been the same.
    del serial[:]
    assert run(capsys, *command(larger, tmp_path / "fresh"))[0] == 0
    same_study(tmp_path / "fresh", copy)
    # And the smaller plan is still there.
    del serial[:]
    assert run(capsys, *command(whole.plan, copy))[0] == 0
    assert serial == []
    assert numbers(copy / "results.jsonl") == numbers(whole.folder / "results.jsonl")
    assert (copy / "losses.jsonl").read_bytes() == (whole.folder / "losses.jsonl").read_bytes()


def test_a_checkpoint_that_was_not_kept_is_asked_for(copy, tmp_path, capsys, serial):
    plan = plan_file(tmp_path, ("[10, 20]", "[10, 15, 20]"))
    code, _, error = run(capsys, *command(plan, copy))
    assert code == 2
    assert "has done 20 steps and did not keep the weights after 15. Remove the folder" in error
    assert "2 tasks failed, 8 of 14 are done and kept" in error


def test_another_recipe_is_another_study(whole, copy, tmp_path, capsys, serial):
    plan = plan_file(tmp_path, ("learning_rate = 2e-3", "learning_rate = 4e-3"))
    before = snapshot(copy)
    assert run(capsys, *command(plan, copy))[0] == 0
    assert len(serial) == 10
    mine, theirs = numbers(copy / "results.jsonl"), numbers(whole.folder / "results.jsonl")
    assert len(mine) == 8
    assert all(one["fid"] != other["fid"] for one, other in zip(mine, theirs, strict=True))
    after = snapshot(copy)
    assert all(after[path] == content for path, content in before.items()), "the others stay"


def test_samples_that_nobody_wants_to_keep(whole, tmp_path, capsys, serial, forks):
    out = tmp_path / "out"
    plan = plan_file(tmp_path, ("num_samples = 16", "num_samples = 16\nkeep_samples = false"))
    job = forks(command(plan, out), serial=True, die_at=["done/*.json", 6])
    assert job["statuses"] == [-9]
    assert run(capsys, *command(plan, out))[0] == 0
    assert not list((out / "samples").iterdir())
    assert numbers(out / "results.jsonl") == numbers(whole.folder / "results.jsonl")
    del serial[:]
    assert run(capsys, *command(plan, out))[0] == 0
    assert serial == []
    # Killed between the result and the end of the samples.
    cell = load_plan(plan).cells[0]
    shutil.copy(whole.folder / "samples" / f"{cell.key}.npz", out / "samples")
    assert run(capsys, *command(plan, out))[0] == 0
    assert not list((out / "samples").iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--ref", "digits-heldout"], "another reference"), (["--data", "digits-heldout"], "is of another run")],
)
def test_other_files_than_before_are_not_mixed_in(copy, whole, capsys, serial, options, said):
    plan, before = load_plan(whole.plan), (copy / "results.jsonl").read_bytes()
    cell = plan.cells[0]
    (copy / "done" / f"{cell.key}.json").unlink()
    code, _, error = run(capsys, *command(whole.plan, copy), *options)
    assert code == 2
    assert said in error
    assert serial == []
    assert (copy / "results.jsonl").read_bytes() == before


class OtherJobs(InlineEngine):
    """An engine that still has a job of a plan as it was."""

    def __init__(self, work):
        super().__init__(work)
        self._left = 3

    @property
    def outstanding(self):
        return super().outstanding | ({"old-key"} if self._left else set())

    def poll(self):
        self._left = max(0, self._left - 1)
        return super().poll() | {"old-key": Outcome(state="running" if self._left else "failed", reason="no such task")}


def test_jobs_of_an_earlier_plan_do_not_disturb(whole, copy, monkeypatch):
    plan = load_plan(whole.plan)
    (copy / "done" / f"{plan.cells[0].key}.json").unlink()
    study = Study(plan, copy)
    engine = OtherJobs(partial(work, study))
    assert run_study(study, engine, find_sources(plan, device="cpu")) == 8
    assert not engine.outstanding
    same_study(whole.folder, copy)


# ---- several processes


def close(path, other):
    """Two files of weights are the same but for rounding; biases of keys are left out, which softmax cancels."""
    files = [load_file(path), load_file(other)]
    for state in files:
        for name in [name for name in state if name.endswith("qkv.bias")]:
            query, _, value = state.pop(name).chunk(3)
            state |= {f"{name}, queries": query, f"{name}, values": value}
    for name, weights in files[0].items():
        torch.testing.assert_close(files[1][name], weights, rtol=1e-4, atol=1e-6, msg=name)


def test_tasks_of_two_processes(whole, tmp_path, capsys):
    out, plan = tmp_path / "out", plan_file(tmp_path, *ONE, ("threads = 1", "threads = 1\nprocesses = 2"))
    code, *_ = run(capsys, *command(plan, out))
    logs = [path.read_text() for path in (out / "logs").glob("*.log")]
    assert code == 0, logs
    assert len(logs) == 2, "both ran under torchrun"
    run_ = load_plan(plan).trainings[0]
    for kind in ("ema", "model"):
        name = f"trainings/{run_.key}/{kind}-0000010.safetensors"
        close(whole.folder / name, out / name)
    mine, theirs = numbers(out / "results.jsonl"), numbers(whole.folder / "results.jsonl")[1]
    assert [r["gen"]["path"] for r in mine] == [theirs["gen"]["path"]]
    assert mine[0]["fid"] == pytest.approx(theirs["fid"], rel=1e-2)


def test_a_task_of_two_machines(whole, copy):
    # Two agents as on two machines, meeting over loopback and sharing the folder.
    cell = load_plan(whole.plan).cells[1]
    before = images(copy)
    (copy / "done" / f"{cell.key}.json").unlink()
    (copy / "samples" / f"{cell.key}.npz").unlink()
    torchrun, work = [sys.executable, "-m", "torch.distributed.run"], ["dit_eval", "study", "work", copy, cell.key]
    with held_port() as port:
        meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
        start = list(map(str, [*torchrun, *meeting, "-m", *work]))
        agents = [
            subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
        ]
        outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert images(copy) == before, "not a byte differs"
    study = Study.open(copy)
    assert study.collect() == 8
    same_study(whole.folder, copy)
