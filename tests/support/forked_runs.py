"""Run `dit-eval` in forked processes that can be killed: `python forked_runs.py FOLDER [MODULE ...]`, jobs on stdin.

Importing torch takes seconds; this program does it once, with the modules that are named, and forks for each job,
before anything has started threads. A job is a line of JSON: {"argv": [...], "ranks": 2, "kill_after": seconds or null,
"pieces": count the seconds from when so many new pieces are there, "watch": what a piece is, as a pattern after --out,
"victims": "one" or "all", "die_in": null, "replace" or "rmtree", "at": name, "shard": images of a file of latents}.
"die_in" kills the process itself with SIGKILL at that call, when it would put --out, or the file "at" in it, in place.
"die_at": [what, n] does so at the nth time, counted from 1, that a file in --out would take its name ("done/*.json"),
or a function would be called ("dit_eval.diffusion.trainer:Trainer.step"). "serial": a study runs its tasks in-process.
"env": more of the environment. "cwd": a folder to run in. "out": what is taken for --out where a command has none.
"script": a file of Python that is run with these arguments in place of `dit-eval`.
The answer is the list of wait statuses (negative signal or exit code) and what the processes printed.
"""

import functools
import glob
import importlib
import itertools
import json
import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import inline_engine
from ports import held_port

import dit_eval.cli
import dit_eval.encoding

for slow in ("torch.distributed", "dit_eval.sampling", "dit_eval.models.checkpoints", *sys.argv[2:]):
    importlib.import_module(slow)


def out_of(job: dict) -> Path:
    argv = job["argv"]
    return Path(argv[argv.index("--out") + 1] if "--out" in argv else job.get("out", "nowhere"))


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(out: Path, what: str, times: int) -> None:
    """Die at a call of a function, or at `os.replace` of a file."""
    module, _, name = what.partition(":") if ":" in what else ("os", ":", "replace")
    *classes, last = name.split(".")
    owner = functools.reduce(getattr, classes, importlib.import_module(module))
    original, calls = getattr(owner, last), itertools.count(1)

    def counted(*arguments: object, **more: object) -> object:
        if (":" in what or Path(arguments[1]).match(str(out / what))) and next(calls) == times:
            die()
        return original(*arguments, **more)

    setattr(owner, last, counted)


def child(job: dict, rank: int, port: int, log: Path) -> None:
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
    ranks = job.get("ranks", 1)
    if ranks > 1:
        place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= job.get("env", {})
    os.chdir(job.get("cwd", "."))
    final = out_of(job)
    fatal = [final] if "at" not in job else [final / job["at"], Path(f"{final}.parts") / job["at"]]
    if job.get("die_in") == "replace":
        replace = os.replace
        os.replace = lambda a, b: die() if Path(b) in fatal else replace(a, b)
    if job.get("die_in") == "rmtree":
        shutil.rmtree = die
    if "die_at" in job:
        die_at(final, *job["die_at"])
    if job.get("serial"):
        inline_engine.install(setattr)
    if "shard" in job:
        dit_eval.encoding._SHARD = job["shard"]
    code = 0
    try:
        if "script" in job:
            sys.argv = [job["script"], *job["argv"]]
            runpy.run_path(job["script"], run_name="__main__")
        else:
            dit_eval.cli.main(job["argv"])
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:
        sys.stderr.write(repr(error))
        code = 1
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
    for number, line in enumerate(sys.stdin):
        with held_port() as port:
            answer = done(json.loads(line), port, Path(sys.argv[1]) / f"job-{number}.log")
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def done(job: dict, port: int, log: Path) -> dict:
    log.touch()
    children = []
    for rank in range(job.get("ranks", 1)):
        pid = os.fork()
        if pid == 0:
            child(job, rank, port, log)
        children.append(pid)
    if job.get("kill_after") is not None:
        pattern = glob.escape(str(out_of(job))) + job.get("watch", ".parts/*.u8")
        before, patience = len(glob.glob(pattern)), time.monotonic() + 30
        while len(glob.glob(pattern)) < before + job.get("pieces", 0) and time.monotonic() < patience:
            time.sleep(0.002)
        time.sleep(job["kill_after"])
        victims = children if job["victims"] == "all" else children[-1:]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        others = children[: len(children) - len(victims)]
        if others:
            time.sleep(0.1)
        for pid in others:  # as torchrun does
            os.kill(pid, signal.SIGTERM)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    return {"statuses": statuses, "stderr": log.read_text()}


if __name__ == "__main__":
    main()
