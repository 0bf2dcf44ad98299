"""Runs the fuzzer's cases, in processes of their own, which are replaced when they die or hang; see fuzz_readers.py."""

from __future__ import annotations

import contextlib
import enum
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fuzz_changes import change_bytes

SECONDS = 5.0  # that a case may take; all but a few take hundredths of one
TOO_LONG = f"more than {SECONDS:g} seconds"
MEMORY = 256 << 20  # bytes that a case may add to what its process has held before
_STARTED = 512 << 20  # bytes of address space beyond the bound, so that a larger request fails instead of swapping
_CHUNK = 100  # cases handed to a process at a time
_IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # waiting for disks is not what is tested
_PRELOADED = ["torch", "safetensors.torch", "dit_eval.models.checkpoints", "dit_eval.images"]


class Odd(enum.Enum):
    """What may lie in a file's place."""

    FOLDER = enum.auto()
    FIFO = enum.auto()
    DANGLING = enum.auto()  # a link that leads nowhere


Content = bytes | dict[str, bytes | Odd]  # of a file, or of the files of a folder by their paths in it
Mutation = Callable[[Content, np.random.Generator], Content]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What is fuzzed: how to make its valid files, how to change them, and how to read one.

    Attributes
    ----------
    suffix : of the file
    seeds : valid files, or folders
    mutate : one changed file, or folder, of a valid one
    read : opens it and reads all of it; an AssertionError says that it took what is not sound
    weight : of its number of cases
    """

    name: str
    suffix: str
    seeds: Callable[[], list[Content]]
    mutate: Mutation
    read: Callable[[Path], object]
    weight: float = 1.0


@dataclass(kw_only=True)
class Tally:
    """What became of a reader's cases; `seconds` are the processor's."""

    cases: int = 0
    taken: int = 0
    slowest: float = 0.0
    memory: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for damage."""


def case_content(reader: Reader, seeds: list[Content], seed: int, number: int) -> Content:
    rng = np.random.default_rng([seed, zlib.crc32(reader.name.encode()), number])
    data = seeds[rng.integers(len(seeds))]
    try:
        return reader.mutate(data, rng)
    except (ValueError, IndexError, zipfile.BadZipFile):  # what is inside cannot be changed so
        return change_bytes(data, rng)


def put(path: Path, content: Content) -> None:
    """Lay a case where its reader will find it, in place of the one before."""
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in content.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            file.write_bytes(data)
        elif data is Odd.FOLDER:
            file.mkdir()
        elif data is Odd.FIFO:
            os.mkfifo(file)
        else:
            file.symlink_to("nowhere")


def run_case(reader: Reader, path: Path, tally: Tally) -> str | None:
    """Read one file; what is wrong with how that went, or None."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    begun, worked, held = time.perf_counter(), time.process_time(), _peak()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    problem = None
    try:
        reader.read(path)
        tally.taken += 1
    except (ValueError, OSError) as error:
        message = str(error)
        if path.name not in message and path.parent.name not in message:
            problem = f"a message that does not name the file: {type(error).__name__}: {message[:200]!r}"
        elif len(message) > 5000:
            problem = f"a message of {len(message):,} characters"
        elif not message.replace("\n", "").isprintable():
            problem = f"a message with control characters: {message[:200]!r}"
    except TooLong:
        problem = TOO_LONG
    except BaseException as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.cases += 1
    tally.seconds += time.process_time() - worked
    tally.slowest = max(tally.slowest, time.perf_counter() - begun)
    grown = _peak() - held
    tally.memory = max(tally.memory, grown)
    if problem is None and grown > MEMORY:
        problem = f"{grown >> 20} MiB of memory"
    return problem


def _peak() -> int:
    from dit_eval.system.environment import peak_memory_bytes

    return peak_memory_bytes() or 0


def _work(pipe: object, state: object, reader: Reader, seed: int) -> None:
    """Run cases that come through the pipe until it closes; `state` says which one is under way since when."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")  # a reader warns by its own means, if at all
    warnings.simplefilter("ignore", ResourceWarning)  # of a file that is open until its error is forgotten
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as folder:
        os.environ["DIT_EVAL_CACHE"] = f"{folder}/cache"
        seeds = reader.seeds()
        path = Path(folder) / "damaged-case" / f"x{reader.suffix}"
        path.parent.mkdir()
        # What the readers load and keep is not a case's own.
        for data in seeds:
            put(path, data)
            with contextlib.suppress(ValueError, OSError):
                reader.read(path)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY + _STARTED,) * 2)
        while (cases := pipe.recv()) is not None:
            tally = Tally()
            for number in cases:
                put(path, case_content(reader, seeds, seed, number))
                state[0], state[1] = number, time.monotonic()
                problem = run_case(reader, path, tally)
                if problem == TOO_LONG:  # perhaps the machine was busy: what hangs does so again
                    put(path, case_content(reader, seeds, seed, number))
                    state[1] = time.monotonic()
                    problem = run_case(reader, path, Tally())
                if problem:
                    tally.findings.append(f"{reader.name}, seed {seed}, case {number}: {problem}")
            state[0] = -1
            pipe.send(tally)


def fuzz(
    readers: tuple[Reader, ...], *, cases: float, seed: int, processes: int, first: int = 0, until: float | None = None
) -> dict[str, Tally]:
    """Run so many cases of each reader, times its weight, in processes of their own.

    Parameters
    ----------
    first : number of each reader's first case
    until : `time.monotonic()` after which no more are begun
    """
    from concurrent.futures import ThreadPoolExecutor

    counts = [max(1, round(cases * reader.weight)) for reader in readers]
    jobs = [(reader, range(first, first + count)) for reader, count in zip(readers, counts, strict=True)]
    jobs.sort(key=lambda job: -len(job[1]))
    multiprocessing.set_forkserver_preload(_PRELOADED)  # for torch, which takes seconds
    with ThreadPoolExecutor(processes) as threads:
        tallies = list(threads.map(lambda job: _supervise(*job, seed, until), jobs))
    by_name = {reader.name: tally for (reader, _), tally in zip(jobs, tallies, strict=True)}
    return {reader.name: by_name[reader.name] for reader in readers}


def _supervise(reader: Reader, numbers: range, seed: int, until: float | None) -> Tally:
    """All cases of a reader; a process that dies, or hangs where no signal reaches it, is a finding and is replaced."""
    context, tally, left = multiprocessing.get_context("forkserver"), Tally(), list(numbers)
    while left and (until is None or time.monotonic() < until):
        pipe, theirs = context.Pipe()
        state = context.Array("d", [-1.0, time.monotonic()], lock=False)
        process = context.Process(target=_work, args=(theirs, state, reader, seed), daemon=True)
        process.start()
        theirs.close()
        alive = True
        while alive and left and (until is None or time.monotonic() < until):
            chunk = left[:_CHUNK]
            pipe.send(chunk)
            lost = None
            while lost is None and not pipe.poll(0.2):
                if not process.is_alive() and not pipe.poll(0):
                    lost = f"the process died ({process.exitcode})"
                elif state[0] >= 0 and time.monotonic() - state[1] > 3 * SECONDS:
                    lost = f"more than {3 * SECONDS:g} seconds, out of reach of a signal"
            try:
                found = pipe.recv() if lost is None else None
            except EOFError:
                process.join(5)
                found, lost = None, f"the process died ({process.exitcode})"
            if found is None:
                number = int(state[0])
                if number < 0:
                    raise RuntimeError(f"{reader.name}: the process ended before a case began")
                tally.findings.append(f"{reader.name}, seed {seed}, case {number}: {lost}")
                tally.cases += chunk.index(number) + 1
                left = left[chunk.index(number) + 1 :]
                alive = False
                continue
            left = left[len(chunk) :]
            tally.cases += found.cases
            tally.taken += found.taken
            tally.seconds += found.seconds
            tally.slowest = max(tally.slowest, found.slowest)
            tally.memory = max(tally.memory, found.memory)
            tally.findings += found.findings
        with contextlib.suppress(OSError):
            pipe.send(None)
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    return tally
