"""What an engine is: it is given tasks and says what became of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from dit_eval.results.settings import MOST_TASKS, MOST_THREADS
from dit_eval.system.settings import check_settings

State = Literal["pending", "running", "done", "failed", "lost"]
_MOST_MINUTES = 366 * 24 * 60  # no queue gives a year
_OURS = {
    "job_name", "time", "nodes", "ntasks_per_node", "array_parallelism", "stderr_to_stdout", "use_srun", "map_count",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task needs.

    More than one process in all is started by torchrun. A task that meets its time limit is put back in the queue, and
    goes on where it was. `slurm` names options without prefix: partition, account, qos, gpus_per_node, cpus_per_task,
    mem, constraint, setup, srun_args, additional_parameters and so on.

    Raises
    ------
    ValueError
        If a value is of another type or out of its bounds, or an option of Slurm is one that is fixed.
    """

    nodes: Annotated[int, Meta(ge=1, le=MOST_TASKS, description="machines")] = 1
    processes: Annotated[int, Meta(ge=1, le=MOST_THREADS, description="processes on each machine")] = 1
    minutes: Annotated[int, Meta(ge=1, le=_MOST_MINUTES, description="time limit of a start")] = 1440
    slurm: Annotated[Mapping[str, Any], Meta(description="further options of sbatch, as submitit names them")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if taken := sorted(_OURS & set(self.slurm)):
            raise ValueError(
                f"Option {taken[0]!r} of Slurm is not free; nodes, processes, minutes and the limit are given by those "
                "names, and the rest of a job's form is fixed."
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a task is doing.

    Attributes
    ----------
    state : pending or running; done: the command has ended with 0; failed: it has ended with another code, so that it
        will again; lost: the system has ended it (node failure, pre-emption, cancelled, killed, out of memory) or never
        started it, so that another try is sensible
    code : exit code of the command, None if it has not ended by itself
    reason : why in a few words; of a pending task Slurm's reason ("Resources", "launch failed requeued held")
    job : Slurm's name of the job ("12" or "12_3"), None if it has none yet
    log : what the task has written, all starts after each other (of the first node; others beside it), None before
        there is a job
    """

    state: State
    code: int | None = None
    reason: str = ""
    job: str | None = None
    log: Path | None = None


def torchrun(command: Sequence[str], resources: Resources, *, meeting: Sequence[str] = ("--standalone",)) -> list[str]:
    """The command line that starts a command in each process of one node; the command itself if there is but one.

    `meeting` says how the nodes find each other, as options of torchrun; by default there is one node.
    """
    if resources.nodes * resources.processes == 1:
        return list(command)
    processes = f"--nproc-per-node={resources.processes}"
    # --no-python: a command line of any kind, which the processes run as it is.
    return [sys.executable, "-m", "torch.distributed.run", *meeting, processes, "--no-python", *command]


class Engine(Protocol):
    """What starts tasks: `dit_eval.study.local.LocalEngine` or `dit_eval.study.slurm.SlurmEngine`."""

    @property
    def interval(self) -> float:
        """Seconds between two looks at the tasks."""
        ...

    @property
    def outstanding(self) -> set[str]:
        """Keys of the tasks that were submitted and are not reported as ended."""
        ...

    def submit(self, tasks: Mapping[str, Resources], command: Callable[[str], Sequence[str]]) -> None:
        """Start tasks, now or when there is room; `command` gives the command line of a key."""
        ...

    def poll(self) -> Mapping[str, Outcome]:
        """Each outstanding task, and once each that has ended."""
        ...
