"""The plan digits-small as jobs of a real Slurm, one killed and queued again: the results are the local ones."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dit_eval.plan import load_plan
from dit_eval.results import read_results
from dit_eval.study import Study
from dit_eval.training import weights_of_step

PLAN = "digits-small"
PATIENCE = 900  # seconds for the whole of a run, on a machine that does other things too


def start(out, *options):
    # The limit of jobs is what keeps this within the machine's cores.
    command = [sys.executable, "-m", "dit_eval", "study", "run", PLAN, "--out", str(out), "--device", "cpu", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ.copy())


def finish(process):
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same plan by worker processes of this machine."""
    folder = tmp_path_factory.mktemp("local") / "study"
    finish(start(folder))
    return folder


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def a_running_cell(folder, process):
    """Slurm's name of the job of a cell that has begun to draw, and the cell's key."""
    study = Study(load_plan(PLAN), folder)
    cells = {cell.key for cell in study.plan.cells}
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


def test_all_cells_are_done_one_is_killed_and_requeued_and_results_are_the_local_ones(local, slurm, tmp_path):
    folder = tmp_path / "study"
    process = start(folder, "--engine", "slurm", "--jobs", "2")
    job, key = a_running_cell(folder, process)
    ask("scontrol", "requeue", job)
    told = finish(process)

    plan = load_plan(PLAN)
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
