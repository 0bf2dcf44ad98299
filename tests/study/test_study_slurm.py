"""A small plan as jobs of a real Slurm, one killed and queued again: the results are those of one machine."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dit_eval.results.lines import read_results
from dit_eval.study.plan_file import load_plan
from dit_eval.training import weights_of_step

# One small model at two moments of one training.
PLAN = """\
name = "slurm"
data = { train = "digits", ref = "digits", extractor = "digits", space = "pixel", image_size = 8, channels = 1, \
num_classes = 10 }
models."mini-S/4" = { depth = 3, hidden_size = 20, num_heads = 1, patch_size = 4 }
training = { learning_rate = 5e-3, warm_up = 10, batch_size = 32, flip = 0.0, log_every = 10, ema_decay = 0.99 }
sampling = { num_samples = 200, labels = "balanced" }
cells = [{ models = "all", training_steps = [30, 60], sampling_steps = 64 }]
resources = [{ threads = 1, batch_size = 64, num_workers = 0 }]
"""
PATIENCE = 900  # seconds for the whole of a run, on a machine that does other things too


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "slurm.toml"
    path.write_text(PLAN)
    return path


def start(plan_file, out, *options):
    # The limit of jobs is what keeps this within the machine's cores.
    command = [sys.executable, "-m", "dit_eval", "study", "run", str(plan_file), "--out", str(out)]
    command += ["--device", "cpu", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ.copy())


def finish(process):
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def local(plan_file, tmp_path_factory):
    """The same plan by worker processes of this machine."""
    folder = tmp_path_factory.mktemp("local") / "study"
    finish(start(plan_file, folder))
    return folder


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def a_running_cell(plan, folder, process):
    """Slurm's name of the job of a cell that has begun to draw, and the cell's key."""
    cells = {cell.key for cell in plan.cells}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        record = folder / "slurm" / "jobs.json"
        arrays = json.loads(record.read_text()) if record.exists() else []
        for array in arrays:
            for key, index in array["keys"].items():
                drawing = (folder / "samples" / f"{key}.npz.parts").is_dir()
                if key in cells and array["job"] and drawing:
                    return f"{array['job']}_{index}" if array["size"] > 1 else array["job"], key
        time.sleep(0.05)
    raise AssertionError("no cell was seen at work")


def test_all_cells_are_done_one_is_killed_and_requeued_and_results_are_the_local_ones(
    plan_file, local, slurm, tmp_path
):
    folder, plan = tmp_path / "study", load_plan(plan_file)
    process = start(plan_file, folder, "--engine", "slurm", "--jobs", "2")
    job, key = a_running_cell(plan, folder, process)
    ask("scontrol", "requeue", job)
    told = finish(process)

    assert f"{len(plan.cells)} results" in told
    restarts = [line for line in ask("scontrol", "show", "job", job).split() if line.startswith("Restarts=")]
    assert restarts == ["Restarts=1"], "it was killed, and started a second time"
    log = (folder / "slurm" / f"{job}_0_log.out").read_text(errors="replace")
    assert log.count("Starting with JobEnvironment") == 2
    assert (folder / "done" / f"{key}.json").exists()
    assert len(list((folder / "done").glob("*.json"))) == len(plan.tasks)

    ours, theirs = read_results(folder / "results.jsonl"), read_results(local / "results.jsonl")
    assert len(ours) == len(theirs) == len(plan.cells)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("fid", "sfid", "inception_score", "precision", "recall", "num_samples", "num_reference"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.gen.path == other.gen.path
        with np.load(folder / one.gen.path) as a, np.load(local / one.gen.path) as b:
            assert np.array_equal(a["arr_0"], b["arr_0"])
    for run in plan.trainings:
        a, b = (load_file(weights_of_step(at / "trainings" / run.key, run.steps[-1])) for at in (folder, local))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert (folder / "losses.jsonl").read_bytes() == (local / "losses.jsonl").read_bytes()
