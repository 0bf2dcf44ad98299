"""Where the tasks of a study run on one machine: worker processes that live as long as their parent.

A worker imports everything once and then does one task after another. A worker that is killed is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dit_eval.study.engine import Outcome, Resources, torchrun
from dit_eval.system.dist import end_with
from dit_eval.system.files import open_log
from dit_eval.system.text import told


class LocalEngine:
    """Worker processes of this machine, which end with this one.

    Parameters
    ----------
    work : does the task of a key; a function that can be pickled. Errors that it raises are the task's failure
    logs : folder for what tasks of several processes print
    limit : workers
    gpus : GPUs that the workers share, each at least one if there are as many
    interval : seconds between two looks at the tasks
    """

    def __init__(
        self, work: Callable[[str], None], *, logs: Path, limit: int = 1, gpus: int = 0, interval: float = 1.0
    ) -> None:
        self.interval = interval
        self._work, self._logs = work, logs
        each = gpus // limit
        self._free = [
            _Slot(gpus=",".join(str(slot * each + i) for i in range(each)) if each else None) for slot in range(limit)
        ]
        self._busy: dict[str, _Slot] = {}
        self._waiting: dict[str, Sequence[str] | None] = {}

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        for slot in [*self._free, *self._busy.values()]:
            slot.close()

    @property
    def outstanding(self) -> set[str]:
        """Keys of the tasks that have been submitted and not yet reported as ended."""
        return {*self._waiting, *self._busy}

    def submit(self, tasks: Mapping[str, Resources], command: Callable[[str], Sequence[str]]) -> None:
        """Have tasks done, in this order, as workers get free.

        Parameters
        ----------
        tasks : what each needs
        command : for tasks of several processes, the command line that torchrun starts in each

        Raises
        ------
        ValueError
            If a task needs several machines.
        """
        for key, resources in tasks.items():
            if resources.nodes > 1:
                raise ValueError(f"{key} needs {resources.nodes} machines; use `engine` slurm, or take another plan.")
            several = resources.nodes * resources.processes > 1
            self._waiting[key] = torchrun(command(key), resources) if several else None
        self._start()

    def poll(self) -> dict[str, Outcome]:
        """How each outstanding task is doing. One that has ended is reported this once."""
        outcomes = {key: Outcome(state="pending") for key in self._waiting}
        for key, slot in list(self._busy.items()):
            outcomes[key] = slot.outcome()
            if outcomes[key].state != "running":
                self._free.append(self._busy.pop(key))
        self._start()
        return outcomes

    def _start(self) -> None:
        while self._free and self._waiting:
            key = next(iter(self._waiting))
            slot = self._busy[key] = self._free.pop(0)
            slot.start(self._work, key, self._waiting.pop(key), self._logs / f"{key}.log")


class _Slot:
    """A worker process, started when it is first needed and again when it was killed."""

    def __init__(self, *, gpus: str | None) -> None:
        self._gpus = gpus
        self._process: Any = None
        self._pipe: Connection | None = None

    def start(self, work: Callable[[str], None], key: str, command: Sequence[str] | None, log: Path) -> None:
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, work, os.getpid(), self._gpus), daemon=True)
            self._process.start()
            theirs.close()
        assert self._pipe is not None
        self._pipe.send((key, command, log))

    def outcome(self) -> Outcome:
        assert self._pipe is not None
        try:
            if self._pipe.poll():
                reason = self._pipe.recv()
                return Outcome(state="failed", reason=reason) if reason else Outcome(state="done", code=0)
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            return Outcome(state="lost", reason=f"its process was killed ({_exit_words(code)})")
        return Outcome(state="running")

    def close(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Connection, work: Callable[[str], None], parent: int, gpus: str | None) -> None:
    """The life of a worker process."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    worker = _Worker(work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    signal.signal(signal.SIGTERM, lambda *_: worker.end())
    end_with(parent, end=worker.end)
    worker.serve(pipe)


class _Worker:
    """Does a task at a time, in this process or in a program of several processes, which it takes down with it."""

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self._program: subprocess.Popen[bytes] | None = None

    def serve(self, pipe: Connection) -> None:
        """Answer each task with why it failed, or with nothing, until nobody asks any more."""
        while True:
            try:
                key, command, log = pipe.recv()
            except EOFError:
                return
            try:
                if command is None:
                    self._work(key)
                else:
                    self._run(command, log)
                pipe.send("")
            except Exception as error:
                pipe.send(told(error))

    def end(self) -> None:
        """End this process at once, and its program."""
        if self._program is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._program.pid, signal.SIGKILL)
        os._exit(1)

    def _run(self, command: Sequence[str], log: Path) -> None:
        with open_log(log) as file:
            self._program = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            code = self._program.wait()
        finally:
            self._program = None
        if code:
            raise RuntimeError(f"{_exit_words(code)}; see {log}")


def _exit_words(code: int | None) -> str:
    """An exit code in words: a negative one is a signal."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}" + (", perhaps for want of memory" if code == -9 else "")
    return f"exit code {code}"
