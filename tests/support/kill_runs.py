"""Kills commands at random moments, again and again: `python tests/support/kill_runs.py`, or `make kills`.

Each command goes on in its folder until it has ended by itself. Then what it made must be what a run without kills
made, and nothing unfinished may lie there. A run that goes on ends well or is killed; an error is a fault, too.

    python tests/support/kill_runs.py --kills 100 --seed 0
    python tests/support/kill_runs.py --only fetch --kills 10

Commands are tiny, and forked from processes that have loaded PyTorch (forked_runs.py).
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forks import Forks
from small_plan import TINY_DIT_ON_DIGITS

_IN_A_ROW = 6  # kills before a run is left alone
_PATIENCE = 60.0  # seconds to wait for a first file
_PARTS = ("*.part", "*.parts")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is killed.

    Attributes
    ----------
    argv : the words, from the folder of what all runs use and a folder for what this one makes
    made : what must be the same, however often it was killed, by names
    job : more for forked_runs.py
    modules : to be loaded before the forks
    """

    name: str
    argv: Callable[[Path, Path], list[str]]
    made: Callable[[Path], dict[str, object]]
    job: dict[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Toll:
    """What became of a command's kills: those that hit, ends that were compared, states of the disk, seconds."""

    kills: int = 0
    ends: int = 0
    states: set[str] = field(default_factory=set)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


# ---- what was made


def _bytes(out: Path, *patterns: str) -> dict[str, object]:
    found = (path for pattern in patterns for path in out.glob(pattern))
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def _tensors(out: Path, pattern: str) -> dict[str, object]:
    """Weights without their notes, which name the environments of a run."""
    made: dict[str, object] = {}
    for path in out.glob(pattern):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        made[str(path.relative_to(out))] = (header, data[8 + size :])
    return made


def _arrays(out: Path, pattern: str, *left_out: str) -> dict[str, object]:
    made: dict[str, object] = {}
    for path in out.glob(pattern):
        with np.load(path) as file:
            arrays = [(name, file[name]) for name in sorted(file.files) if name not in left_out]
            made[str(path.relative_to(out))] = [(name, a.dtype.str, a.shape, a.tobytes()) for name, a in arrays]
    return made


def _results(path: Path) -> list[dict[str, Any]]:
    """Lines of results without what differs from run to run: times, memory, environments, where the files lie."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # half a line, of a run that was killed
            lines.append(json.loads(text))
    for line in lines:
        for name in ("seconds", "peak_memory_bytes", "environment", "time"):
            line.pop(name, None)
        for side in ("gen", "ref"):
            run = line[side].get("run") or {}
            for name in ("environment", "earlier_environments", "checkpoint_sha256"):
                if run.pop(name, None) is not None:
                    line[side].pop("sha256", None)  # of a file that holds them
    return lines


def made_by_study(out: Path) -> dict[str, object]:
    return {
        "results": _results(out / "study" / "results.jsonl"),
        **_bytes(out, "study/losses.jsonl"),
        **_tensors(out, "study/trainings/*/*.safetensors"),
        **_arrays(out, "study/samples/*.npz", "sample_run"),
    }


def made_by_evaluate(out: Path) -> dict[str, object]:
    """A run that is killed after its line was written leaves the line; so each line must be right, however many."""
    lines = [json.dumps(line, sort_keys=True) for line in _results(out / "results.jsonl")]
    return {"lines": sorted(set(lines)), **_arrays(out, "cache/*.npz")}


# ---- commands

_PLAN = f"""{TINY_DIT_ON_DIGITS}[training]
batch_size = 4
log_every = 2
[sampling]
num_samples = 16
keep_samples = true
[[cells]]
models = "all"
training_steps = [4, 8]
sampling_steps = [2]
[[resources]]
threads = 1
batch_size = 4
num_workers = 0
"""
_SIZES = ["--depth", "1", "--hidden-size", "16", "--num-heads", "2", "--patch-size", "2"]
_RECIPE = ["--steps", "12", "--batch-size", "8", "--lr", "1e-3", "--log-every", "4", "--save-at", "3,6,9"]


def _digits(name: str) -> str:
    from dit_eval.system.assets import asset

    return str(asset(name).path)


def sample(shared: Path, out: Path) -> list[str]:
    drawn = ["--num-fid-samples", "32", "--per-proc-batch-size", "4", "--num-sampling-steps", "4", "--cfg-scale", "1.5"]
    return ["sample", "--ckpt", "dit-digits", *drawn, "--device", "cpu", "--out", str(out / "samples.npz")]


def train(shared: Path, out: Path) -> list[str]:
    data = ["--data", _digits("digits"), "--grey", "--no-flips", "--device", "cpu"]
    return ["train", *_SIZES, *data, *_RECIPE, "--out", str(out / "run")]


def encode(shared: Path, out: Path) -> list[str]:
    options = ["--image-size", "32", "--vae", str(shared / "vae"), "--device", "cpu", "--num-workers", "1"]
    return ["encode", str(shared / "pictures"), *options, "--out", str(out / "latents")]


def study(shared: Path, out: Path) -> list[str]:
    return ["study", "run", str(shared / "plan.toml"), "--device", "cpu", "--out", str(out / "study")]


def evaluate(shared: Path, out: Path) -> list[str]:
    kept = ["--cache", str(out / "cache"), "--results", str(out / "results.jsonl"), "--device", "cpu"]
    return ["evaluate", _digits("digits-heldout"), "--ref", "digits", "--extractor", "digits", *kept]


def fetch(shared: Path, out: Path) -> list[str]:
    return ["weights", "fetch", "inception-graph", "--url", (shared / "url").read_text()]


COMMANDS = (
    Command(name="sample", argv=sample, made=lambda out: _bytes(out, "samples.npz")),
    Command(name="train", argv=train, modules=("dit_eval.training", "torch._dynamo"),
            made=lambda out: _tensors(out, "run/*.safetensors") | _bytes(out, "run/log.jsonl")),
    Command(name="encode", argv=encode, job={"shard": 2},
            modules=("dit_eval.encoding", "diffusers.models.autoencoders.autoencoder_kl"),
            made=lambda out: _bytes(out, "latents/*")),
    Command(name="study", argv=study, made=made_by_study, job={"serial": True},
            modules=("dit_eval.study", "dit_eval.training", "dit_eval.features.digits", "torch._dynamo")),
    Command(name="evaluate", argv=evaluate, made=made_by_evaluate,
            modules=("dit_eval.evaluation", "dit_eval.features.digits", "dit_eval.metrics.choose")),
    Command(name="fetch", argv=fetch, made=lambda out: _bytes(out, "kept/*.pb")),
)  # fmt: skip


# ---- what all runs use

_CONTENT = bytes(range(256)) * (1 << 15)  # 8 MiB, of which `fetch` writes one at a time
_PIECE = len(_CONTENT) // 40


class _Server(http.server.BaseHTTPRequestHandler):
    """Sends a file in a quarter of a second, or what of it is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else 0
        size = len(_CONTENT)
        if begin >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - begin))
        self.send_header("ETag", '"one"')
        self.end_headers()
        try:
            for at in range(begin, size, _PIECE):
                self.wfile.write(_CONTENT[at : at + _PIECE])
                time.sleep(0.006)
        except OSError:  # the reader was killed
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def shared_files(folder: Path, commands: tuple[Command, ...]) -> Iterator[None]:
    """A plan, pictures, a small autoencoder, and the address of a server."""
    names = {command.name for command in commands}
    (folder / "plan.toml").write_text(_PLAN, encoding="utf-8")
    if "encode" in names:
        from PIL import Image
        from small_vae import SMALL, random_vae

        random_vae(SMALL).save_pretrained(folder / "vae")
        rng = np.random.default_rng(0)
        for number in range(40):
            path = folder / "pictures" / "ab"[number % 2] / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (folder / "url").write_text(f"http://127.0.0.1:{server.server_port}/graph.pb")
        yield
        server.shutdown()


# ---- kills


def state_of(folder: Path) -> str:
    """What lies on the disk, as a checksum; logs and locks, and the random names of unfinished files, do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "lock" not in path.name:
            name = re.sub(r"[0-9a-f]{32}", "*", str(path.relative_to(folder)))
            digest.update(f"{name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def kill_often(command: Command, kills: int, *, seed: int, shared: Path, work: Path) -> Toll:
    """Kill a command so many times, in as many folders as it takes.

    Parameters
    ----------
    shared : folder of what `shared_files` made
    work : an empty folder
    """
    toll, begun, rng = Toll(), time.monotonic(), random.Random(f"{seed} {command.name}")
    forks = Forks(work, *command.modules, threads=1)

    def run(out: Path, **more: Any) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        job = {**command.job, "out": str(out), "env": {"DIT_EVAL_CACHE": str(out / "kept")}, **more}
        return forks(command.argv(shared, out), **job)

    try:
        for name in ("warm", "whole"):
            start = time.monotonic()
            with ThreadPoolExecutor(1) as thread:
                written = thread.submit(_first_file, work / name, start + _PATIENCE)
                done = run(work / name)
            if done["statuses"] != [0]:
                raise RuntimeError(f"{command.name} without any kill: {done}")
        whole, length = command.made(work / "whole"), time.monotonic() - start
        early = 0.8 * (written.result() - start)
        number = 0
        while toll.kills < kills:
            out, number, row = work / f"run-{number}", number + 1, 0
            ended = False
            while not ended:
                alone = row == _IN_A_ROW or toll.kills == kills
                # Three of four kills fall where files are written; before that there is little to break.
                moment = rng.uniform(early if rng.random() < 0.75 else 0.0, length)
                done = run(out) if alone else run(out, kill_after=moment, victims="all", watch="")
                if done["statuses"] == [-9]:
                    row += 1
                    toll.kills += 1
                    toll.states.add(state_of(out))
                    continue
                ended = True
                where = f"{command.name}, seed {seed}, run {number - 1} after {row} kills: "
                if done["statuses"] != [0]:
                    toll.faults.append(f"{where}{done['statuses']} {done['stderr'].strip()[-300:]}")
                else:
                    toll.faults += [where + fault for fault in faults(command, whole, out)]
            toll.ends += 1
            shutil.rmtree(out)
    finally:
        forks.close()
    toll.seconds = time.monotonic() - begun
    return toll


def _first_file(folder: Path, deadline: float) -> float:
    """`time.monotonic()` at which the first file is in a folder that a run writes in."""
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # a folder that was removed while it was listed
            if any("lock" not in path.name for path in folder.rglob("*.*")):
                break
        time.sleep(0.005)
    return time.monotonic()


def faults(command: Command, whole: dict[str, object], out: Path) -> list[str]:
    """What differs from a run without kills, and what is left unfinished."""
    made = command.made(out)
    different = [name for name in sorted(whole.keys() | made.keys()) if whole.get(name) != made.get(name)]
    left = [str(path.relative_to(out)) for pattern in _PARTS for path in out.rglob(pattern)]
    return [f"other bytes: {name}" for name in different] + [f"left: {name}" for name in left]


def kill_all(commands: tuple[Command, ...], kills: int, *, seed: int, processes: int) -> dict[str, Toll]:
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder, "shared")
        shared.mkdir()

        def one(command: Command) -> Toll:
            work = Path(folder, command.name)
            work.mkdir()
            return kill_often(command, kills, seed=seed, shared=shared, work=work)

        with shared_files(shared, commands), ThreadPoolExecutor(processes) as threads:
            return dict(zip((command.name for command in commands), threads.map(one, commands), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="commands at once")
    parser.add_argument("--only", choices=[command.name for command in COMMANDS])
    arguments = parser.parse_args()
    commands = tuple(command for command in COMMANDS if arguments.only in (None, command.name))
    tolls = kill_all(commands, arguments.kills, seed=arguments.seed, processes=arguments.processes)
    print(f"{'command':10}{'kills':>7}{'ends':>7}{'states':>8}{'seconds':>9}{'faults':>8}")
    for name, toll in tolls.items():
        print(f"{name:10}{toll.kills:7}{toll.ends:7}{len(toll.states):8}{toll.seconds:9.0f}{len(toll.faults):8}")
    found = [fault for toll in tolls.values() for fault in toll.faults]
    print("\n".join([f"seed {arguments.seed}; {len(found)} fault(s)", *found[:40]]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
