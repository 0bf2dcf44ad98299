"""The processes of one run: who is who, who goes first, and when all have arrived.

`torchrun` starts the processes and tells each its place in the environment; without it there is one.
"""

from __future__ import annotations

import datetime
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dit_eval.system.text import reason, shown

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_T = TypeVar("_T")

# Ranks wait for each other at the end of long work, of which some have a batch more than others.
_PATIENCE = datetime.timedelta(days=7)
_UNTIL_ALL_ARE_THERE = datetime.timedelta(hours=1)  # they start together, some from a slow disk

# The variables that torchrun sets, and the least that they may say.
_PLACE = {
    "rank": ("RANK", 0),
    "size": ("WORLD_SIZE", 1),
    "local_rank": ("LOCAL_RANK", 0),
    "local_size": ("LOCAL_WORLD_SIZE", 1),
}
_TO_BE_ALONE = (
    "Start the processes by torchrun, which sets it; to run one alone, unset RANK, WORLD_SIZE, LOCAL_RANK and "
    "LOCAL_WORLD_SIZE."
)
_MOST_PROCESSES = 100_000  # a rank waits for all others, and would for ever
_MOST_THREADS = 4_096  # more than any machine has cores
_THREADS = re.compile(r"[1-9]\d{0,2}(,[1-9]\d{0,2})+", re.ASCII)  # of loops in loops, as OpenMP has it


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all.

    Attributes
    ----------
    rank, size : number of this process, 0 first, and how many there are
    local_rank, local_size : the same on this machine
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    _until_end: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def from_environment(cls) -> World:
        """The place that torchrun gave this process; alone without torchrun.

        Raises
        ------
        ValueError
            If the environment says no such place.
        """
        told = {field: _told(name, least) for field, (name, least) in _PLACE.items() if name in os.environ}
        world = cls(**told)
        _check_place(world, told)
        return world

    def device(self, name: str = "auto") -> str:
        """The device of this process: "cpu", "cuda", or one GPU for each process of a machine.

        Raises
        ------
        ValueError
            If there is no such device here.
        """
        import torch

        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ValueError(f"`device` {name}: not a device; use cpu, cuda or cuda:N.") from None
        if device.type == "cuda":
            here = torch.cuda.device_count()
            if (device.index or 0) >= here:
                raise ValueError(f"`device` {name}: PyTorch sees {here} GPU(s) here; use cpu.")
            if device.index is None and self.size > 1:
                if self.local_size > here:
                    raise ValueError(f"{self.local_size} processes and {here} GPU(s) here; start one for each GPU.")
                return f"cuda:{self.local_rank}"
        return name

    def share_cores(self, threads: int | None = None) -> None:
        """Give this process some threads, or else its share of the machine, of which torchrun would give it one.

        It has them until `join` ends.
        """
        from dit_eval.system.switches import using_threads

        if threads is None and self.local_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
            threads = max(1, cores() // self.local_size)
        self._until_end.enter_context(using_threads(threads))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            import torch

            with _together() as processes:
                processes.all_reduce(torch.zeros(1))  # of a CPU tensor: over gloo, whatever the GPUs are doing

    def average_(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over all processes, which then hold the same bits."""
        if self.size > 1:
            with _together() as processes:
                processes.all_reduce(tensor)
            tensor /= self.size

    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of process 0."""
        if self.size > 1:
            with _together() as processes:
                for tensor in tensors:
                    processes.broadcast(tensor, src=0)

    def most(self, number: int) -> int:
        """The greatest of the numbers of all processes, in all of them."""
        if self.size == 1:
            return number
        import torch

        greatest = torch.tensor(number)
        with _together() as processes:
            processes.all_reduce(greatest, op=processes.ReduceOp.MAX)
        return int(greatest)

    def collect(self, rows: np.ndarray) -> np.ndarray | None:
        """The rows of all processes, those of process 0 first, in process 0; None in the others.

        Parameters
        ----------
        rows : (N_i, ...), all of one type, and of one shape but for N_i, of which some may be 0
        """
        if self.size == 1:
            return rows
        import numpy as np
        import torch

        counts = torch.zeros(self.size, dtype=torch.long)
        counts[self.rank] = len(rows)
        with _together() as processes:
            processes.all_reduce(counts)
            if self.rank:
                if len(rows):
                    processes.send(torch.from_numpy(np.ascontiguousarray(rows)), dst=0)
                return None
            gathered = np.empty((int(counts.sum()), *rows.shape[1:]), rows.dtype)
            gathered[: len(rows)] = rows
            at = len(rows)
            for rank, count in enumerate(counts.tolist()):
                if rank and count:
                    processes.recv(torch.from_numpy(gathered[at : at + count]), src=rank)
                    at += count
        return gathered

    def from_first(self, function: Callable[[], _T]) -> _T:
        """Run a function in process 0 only, and give its result to all.

        Raises
        ------
        FailedElsewhere
            In the other processes, if the function fails; process 0 raises the error itself, so that it is reported
            once.
        """
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, False]
        try:
            if self.rank == 0:
                outcome = [function(), True]
        except BaseException:
            with suppress(OtherProcessEnded):  # of the two, the error of the function says more
                _hear_first(outcome)
            raise
        _hear_first(outcome)
        if not outcome[1]:
            raise FailedElsewhere
        return outcome[0]

    def first_then_all(self, function: Callable[[], _T]) -> _T:
        """Run a function in process 0, then in the others, so that a download or a mistake happens once.

        Raises as `from_first`.
        """
        own: list[_T] = []
        self.from_first(lambda: own.append(function()))
        return own[0] if own else function()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    """GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()


class FailedElsewhere(Exception):
    """Another process has failed and reports why."""


class OtherProcessEnded(ConnectionError):
    """Another process has ended, so that this one waits for it in vain."""

    def __init__(self) -> None:
        super().__init__(
            "another process of this run has ended, so the others end as well. What is finished is kept; run the same "
            "command again to go on."
        )


@contextmanager
def join() -> Iterator[World]:
    """Meet the other processes: over nccl between GPUs, gloo between CPUs; words always go over gloo.

    Processes that torchrun has started end when it has ended. Where a process ends before its work is done, one of the
    others raises `OtherProcessEnded`, and the rest `FailedElsewhere`.

    Raises
    ------
    ValueError
        If the environment says no place among them, or not where they meet.
    ConnectionError
        If they do not meet there.
    """
    world = World.from_environment()
    _check_threads()
    with world._until_end as at_end:
        if world.size > 1:
            _check_meeting_place()
            if "TORCHELASTIC_RUN_ID" in os.environ:  # by torchrun, which gives its processes sessions of their own
                end_with(os.getppid())
            store = _meet(world)
            at_end.callback(_distributed().destroy_process_group)
            at_end.enter_context(_one_word(world, store))
        yield world


def _meet(world: World) -> Any:
    """Wait until all processes are there; the store that they share."""
    import torch

    processes = _distributed()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(processes.rendezvous("env://", timeout=_UNTIL_ALL_ARE_THERE))
        processes.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    except RuntimeError as error:
        place = shown(f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}")
        raise ConnectionError(
            f"process {world.rank} of {world.size} does not meet the others at {place} ({reason(error)}). Start all of "
            "them by torchrun, with a port that is free and a name that each machine finds."
        ) from error
    return store


@contextmanager
def _one_word(world: World, store: Any) -> Iterator[None]:
    """Let one process say that another has ended, and none where that one has said why."""
    try:
        yield
    except FailedElsewhere:
        raise
    except BaseException as error:
        try:
            first = store.add("failed", 1) == 1  # torchrun keeps the store, or else process 0
        except RuntimeError:
            first = world.rank == 1
        if isinstance(error, OtherProcessEnded) and not first:
            raise FailedElsewhere from None
        raise


def end_with(parent: int, *, end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Have this process end when its parent has ended, however that did; `end` is how."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        end()

    threading.Thread(target=watch, daemon=True).start()


def rank_told() -> int:
    """The rank of this process as far as the environment says one, for those who only want to speak once."""
    try:
        return _told(*_PLACE["rank"]) if "RANK" in os.environ else 0
    except ValueError:
        return 0


def _check_place(world: World, told: Container[str]) -> None:
    """ValueError if the variables of the environment, each of which is a number, do not go together."""
    if world.size > 1 and "rank" not in told:
        raise ValueError(f"WORLD_SIZE is {world.size} in the environment, and RANK is not set. {_TO_BE_ALONE}")
    pairs = [("RANK", world.rank, "WORLD_SIZE", world.size)]
    if "local_size" in told:
        pairs.append(("LOCAL_RANK", world.local_rank, "LOCAL_WORLD_SIZE", world.local_size))
    for name, rank, of, size in pairs:
        if rank >= size:
            there = size if of in os.environ else "not set"
            raise ValueError(
                f"{name} is {rank} in the environment, and {of} {there}; expected a number below that of the "
                f"processes. {_TO_BE_ALONE}"
            )
    if world.local_size > world.size:
        raise ValueError(
            f"LOCAL_WORLD_SIZE is {world.local_size} in the environment, and WORLD_SIZE {world.size}; expected no more "
            f"processes on this machine than there are in all. {_TO_BE_ALONE}"
        )


def _told(name: str, least: int, most: int = _MOST_PROCESSES, advice: str = _TO_BE_ALONE) -> int:
    """The number that a variable of the environment holds; ValueError if it holds something else."""
    text = os.environ[name].strip()
    # Not all that Python takes for a number: torchrun writes digits alone.
    if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
        return int(text)
    found = shown(repr(text if len(text) <= 40 else f"{text[:40]}...")) if text else "empty"
    raise ValueError(f"{name} is {found} in the environment; expected an integer from {least} to {most:,}. {advice}")


def _check_threads() -> None:
    """ValueError if the number of threads in the environment is none: libraries would ignore it, each in its way."""
    name = "OMP_NUM_THREADS"
    if name in os.environ and not _THREADS.fullmatch(os.environ[name].strip()):
        _told(name, 1, _MOST_THREADS, "Unset it to have each process take its share of the cores.")


def _check_meeting_place() -> None:
    """ValueError if the environment does not say where the processes meet."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name, "").strip():
            raise ValueError(f"{name} is not set in the environment; processes meet there. {_TO_BE_ALONE}")
    _told("MASTER_PORT", 1, 65_535)


def _hear_first(outcome: list[Any]) -> None:
    """Replace an outcome by that of process 0."""
    with _together() as processes:
        processes.broadcast_object_list(outcome, device="cpu")


@contextmanager
def _together() -> Iterator[Any]:
    """`torch.distributed`, to do what all processes do.

    Raises
    ------
    OtherProcessEnded
        If one of them has ended.
    """
    processes = _distributed()
    try:
        yield processes
    except RuntimeError as error:
        # gloo has no error of its own. Where it finds messages of the wrong size ("enforce"), the fault is here.
        lost = "gloo/transport" in str(error) and "enforce" not in str(error)
        if lost or isinstance(error, processes.DistError):
            raise OtherProcessEnded from error
        raise


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed
