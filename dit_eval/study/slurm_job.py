"""What runs in a job of Slurm: a task's command, and a record of how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dit_eval.study.engine import Resources, torchrun
from dit_eval.system.files import atomic_file
from dit_eval.system.reading import read_json

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

_MAX_RECORD = 1 << 16  # bytes of a record
_GRACE = 40.0  # seconds to end for a command that is told to; torchrun takes up to 30 to end its processes


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a command has ended on one node: code None if by a signal; `told` if it was told to end."""

    code: int | None
    told: bool
    reason: str

    @classmethod
    def of(cls, code: int, told: list[int]) -> Exit:
        """From the code of the process, negative for a signal, and the signals that told it to end."""
        if told or code < 0:
            why = signal.Signals(told[0] if told else -code).name
            # A command that had finished by then has done its work.
            return cls(code=0 if code == 0 else None, told=bool(told), reason=f"ended by {why}")
        return cls(code=code, told=False, reason="" if code == 0 else f"exit code {code}")

    @classmethod
    def read(cls, path: Path) -> Exit | None:
        """What a file says; None if it is not there, or damaged: of such a task Slurm's word counts alone."""
        try:
            return msgspec.convert(read_json(path, "how a command ended", max_size=_MAX_RECORD), cls)
        except (FileNotFoundError, ValueError):
            return None

    def write(self, path: Path) -> None:
        """Leave it in a file, whole or not at all."""
        with atomic_file(path, own=True) as file:
            file.write(json.dumps(asdict(self)).encode())


def code_of_failure(ends: Iterable[Exit]) -> int | None:
    """The exit code of the first node whose command ended by itself, and badly; it takes the other nodes down."""
    codes = (end.code for end in ends if not end.told and end.code is not None)
    return next((code for code in codes if code > 0), None)


def read_exits(folder: Path, name: str, index: int, nodes: int) -> list[Exit]:
    """How a task of an array has ended, on those of its nodes that have left a record."""
    found = (Exit.read(_exit_file(folder, name, index, node)) for node in range(nodes))
    return [end for end in found if end is not None]


def _exit_file(folder: Path, name: str, index: int, node: int) -> Path:
    return folder / name / f"exit-{index}-{node}.json"


@dataclass(kw_only=True)
class JobTask:
    """What submitit runs in a job, once on each node: the command in processes, and a record of how it ended."""

    folder: Path
    name: str
    index: int
    resources: Resources
    command: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        node = int(os.environ.get("SLURM_PROCID", 0))
        record = _exit_file(self.folder, self.name, self.index, node)
        record.unlink(missing_ok=True)  # of an earlier start
        # Slurm's warning of the end reaches all processes of the job; submitit's handler is to act on it, in this one.
        warning = _warning()
        process = subprocess.Popen(
            torchrun(self.command, self.resources, meeting=self._meeting(node)),
            start_new_session=True,
            preexec_fn=lambda: signal.signal(warning, signal.SIG_IGN),
        )
        self.process = process
        told: list[int] = []

        def end(number: int, _: object) -> None:
            told.append(number)
            _end(process)

        signal.signal(signal.SIGTERM, end)
        code = process.wait()
        Exit.of(code, told).write(record)
        if code != 0:
            sys.exit(code if code > 0 else 128 - code)  # for Slurm's own books, and for srun to end the other nodes

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit before it puts the job back in the queue, at the time limit or pre-emption."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            _end(self.process)
            self.process = None
        return DelayedSubmission(self)

    def _meeting(self, node: int) -> list[str]:
        if self.resources.nodes == 1:
            return ["--standalone"]
        import submitit

        job = submitit.JobEnvironment()
        # Two jobs on one node rarely have numbers that are 20,000 apart.
        endpoint = f"{job.hostnames[0]}:{20_000 + int(job.raw_job_id) % 20_000}"
        return [
            f"--nnodes={self.resources.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}",
            f"--rdzv-id={job.raw_job_id}", f"--rdzv-conf=is_host={int(node == 0)}",
            f"--local-addr={os.environ['SLURMD_NODENAME']}",  # and not what /etc/hosts may have made of it
        ]  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """Tell a command and its process group to end; kill it if it does not, and what it leaves behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    with suppress(ChildProcessError):
        # Not process.wait: this runs in a signal handler, in the middle of another one. It leaves the child to that.
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _warning() -> signal.Signals:
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
