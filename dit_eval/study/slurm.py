"""Where the tasks of a study run: jobs of Slurm, each a command line, submitted through submitit.

Slurm queues, starts and starts again; here is only the way in and the news back. A task's command must be one that can
be killed at any point and started again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from dit_eval.study.engine import Outcome, Resources
from dit_eval.study.slurm_job import JobTask, code_of_failure, read_exits
from dit_eval.system.files import atomic_file
from dit_eval.system.reading import read_json_list
from dit_eval.system.text import reason

if TYPE_CHECKING:
    from submitit import SlurmExecutor

# Words of squeue. Every other one is of a job that has ended.
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"CONFIGURING", "COMPLETING", "RESIZING", "RUNNING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
# Ends of which the command's own exit may be the cause, and its record on the way over a network file system.
_OWN_END = {None, "COMPLETED", "FAILED"}
_NO_RECORD = "ended, its exit code is not there yet"
_MAX_ARRAY = 1000  # tasks; Slurm's MaxArraySize is 1001 unless a site has chosen another
_MAX_TIMEOUTS = 100  # how often a task that runs into its time limit is put back in the queue


@dataclass(frozen=True, kw_only=True)
class Delays:
    """How long, in seconds, nothing is concluded from what is not there.

    Attributes
    ----------
    record : from the end of a task until its record is there, over a network file system
    submit : from a submission until its job is in the queue, or will never be
    answer : of the controller to one question
    silence : without a word of the controller before that is an error
    """

    record: float = 30.0
    submit: float = 60.0
    answer: float = 300.0
    silence: float = 600.0


class SlurmEngine:
    """Run tasks as jobs of Slurm.

    Tasks with equal resources become one job array. The sum of the arrays' limits on tasks that run at once is kept at
    `limit`: an array gets what earlier ones leave, and more when they end; a task that gets nothing waits here, in
    memory. Outstanding jobs are on record in the folder, so that a later engine on it, after this one was killed, goes
    on with them. Two engines must not use one folder at once.

    Parameters
    ----------
    folder : where the record, the jobs' logs and their exit codes go; on a file system that all nodes see
    limit : tasks running at once, 1 or more
    interval : seconds between two looks at the tasks; the controller is asked once for each
    delays : see there

    Raises
    ------
    ModuleNotFoundError
        Without submitit.
    ValueError
        If the limit is below 1, or the record in the folder is not one.
    OSError
        Without Slurm's programs.
    """

    def __init__(self, folder: Path, *, limit: int, interval: float = 5.0, delays: Delays = Delays()) -> None:
        self.interval, self._delays = interval, delays
        if limit < 1:
            raise ValueError(f"The limit on tasks at once is {limit}; give 1 or more.")
        _submitit()
        for program in ("sbatch", "squeue", "scontrol", "srun"):
            if shutil.which(program) is None:
                raise FileNotFoundError(
                    f"Slurm's program {program} is not on PATH; run this on a machine that submits jobs (a login "
                    "node), or use another engine."
                )
        self._folder, self._limit = folder.absolute(), limit
        self._folder.mkdir(parents=True, exist_ok=True)
        self._record = self._folder / "jobs.json"
        self._arrays = read_arrays(self._record)
        self._waiting: dict[str, tuple[Resources, list[str]]] = {}
        # By the monotonic clock: the other may be set, and is another machine's where an earlier engine ran there.
        self._ended_at: dict[str, float] = {}  # when a key was first seen ended without a record of how
        self._missed_at: dict[str, float] = {}  # when an array was first not found in the queue
        self._heard = float("-inf")  # when the controller last answered

    def check(self, resources: Iterable[Resources]) -> None:
        """See that submitit knows the options, before anything runs.

        Raises
        ------
        ValueError
            If it does not; the message lists those it knows.
        """
        for each in resources:
            self._executor(each, "check", 1)

    def submit(self, tasks: Mapping[str, Resources], command: Callable[[str], Sequence[str]]) -> None:
        """Put tasks in the queue.

        Parameters
        ----------
        tasks : what each needs, by a key of the caller's; none of them outstanding
        command : the command line of a key; it runs in the folder and with the environment of this process

        Raises
        ------
        ValueError
            If a task is outstanding, or an option is not known; then nothing is submitted.
        OSError
            If sbatch refuses.
        """
        if double := sorted(set(tasks) & self.outstanding):
            raise ValueError(f"Task {double[0]!r} is submitted already; poll() says how it is doing.")
        self.check(tasks.values())
        new = {key: (each, list(command(key))) for key, each in tasks.items()}
        self._waiting |= new
        try:
            self._share_out()
        except OSError:
            self._waiting = {key: task for key, task in self._waiting.items() if key not in new}
            raise

    @property
    def outstanding(self) -> set[str]:
        """Keys of the tasks that have been submitted, by this engine or an earlier one, and not yet reported as ended.

        It asks nobody.
        """
        return set(self._waiting).union(*(array.keys for array in self._arrays))

    def poll(self) -> dict[str, Outcome]:
        """How each outstanding task is doing. One that has ended is reported this once, and then forgotten.

        A caller that is killed before it has acted on the news must see from the task's own files what is left to do.
        It asks the controller once, so not more often than every few seconds on a cluster of others.

        Raises
        ------
        OSError
            If the controller has not answered for ten minutes, or not to the first question.
        """
        queue = self._queue()
        if queue is None:  # a controller that is being restarted; nothing is known, and nothing lost
            return {
                key: Outcome(state="pending", reason="Slurm's controller does not answer") for key in self.outstanding
            }
        outcomes = {key: Outcome(state="pending", reason="the limit on tasks at once") for key in self._waiting}
        for array in self._arrays:
            outcomes |= self._news(array, queue)
        self._arrays = [array for array in self._arrays if array.keys]
        try:
            self._share_out()
        except OSError as error:  # which must not swallow the news of the others
            outcomes |= {key: Outcome(state="lost", reason=str(error)) for key in self._waiting}
            self._waiting = {}
        return outcomes

    def _news(self, array: _Array, queue: Mapping[tuple[str, int], _Queued]) -> dict[str, Outcome]:
        """How the tasks of an array are doing; those that have ended leave it."""
        outcomes = {}
        for key, index in list(array.keys.items()):
            outcome = outcomes[key] = self._judge(array, key, queue.get((array.name, index)))
            if outcome.state in ("done", "failed", "lost"):
                del array.keys[key]
            if outcome.state != "running" or outcome.reason != _NO_RECORD:
                self._ended_at.pop(key, None)
        return outcomes

    def _judge(self, array: _Array, key: str, queued: _Queued | None) -> Outcome:
        if queued is not None:
            array.job = queued.job  # of a submission whose answer nobody heard
        index = array.keys[key]
        job = None if array.job is None else f"{array.job}_{index}" if array.size > 1 else array.job
        log = None if job is None else self._folder / f"{job}_0_log.out"
        # Slurm's word goes first: a task that is in the queue again has left an exit record of its last start.
        outcome = _in_queue(queued)
        if outcome is None and array.job is None and self._may_appear(array):
            outcome = Outcome(state="pending", reason="being submitted")
        if outcome is None:
            outcome = self._ended(array, key, None if queued is None else queued.state)
        return replace(outcome, job=job, log=log)

    def _ended(self, array: _Array, key: str, state: str | None) -> Outcome:
        """How a task has ended that is not in the queue; `state` is Slurm's last word on it."""
        ends = read_exits(self._folder, array.name, array.keys[key], array.nodes)
        whole = len(ends) == array.nodes
        if whole and all(end.code == 0 for end in ends):
            return Outcome(state="done", reason="exit code 0", code=0)
        code = code_of_failure(ends)
        if state in _OWN_END and code is not None:
            return Outcome(state="failed", reason=f"exit code {code}", code=code)
        if state in _OWN_END and not whole and self._may_come(key):
            return Outcome(state="running", reason=_NO_RECORD)
        killed = next((end.reason for end in ends if end.reason), "it left no exit code")
        return Outcome(state="lost", reason=f"{state or 'no longer known to Slurm'}: {killed}")

    def _may_come(self, key: str) -> bool:
        """Whether the record of a task that has ended may be on its way."""
        first_seen = self._ended_at.setdefault(key, time.monotonic())
        return time.monotonic() < first_seen + self._delays.record

    def _may_appear(self, array: _Array) -> bool:
        """Whether an array that nobody has heard of may still come into the queue."""
        first_missed = self._missed_at.setdefault(array.name, time.monotonic())
        return time.monotonic() < first_missed + self._delays.submit

    def _queue(self) -> dict[tuple[str, int], _Queued] | None:
        """What Slurm knows of this user's jobs, by name and place in the array; None if it does not answer."""
        if not self._arrays:
            return {}
        said, problem = self._ask()
        if problem is not None:
            if time.monotonic() < self._heard + self._delays.silence:
                return None
            raise OSError(
                f"squeue, asked for the jobs, says: {problem}\nIs Slurm's controller up? Outstanding jobs go on."
            )
        self._heard = time.monotonic()
        queue = {}
        for line in said.splitlines():
            name, job, index, state, reason = line.split("|", 4)
            queue[name, int(index) if index.isdigit() else 0] = _Queued(job=job, state=state, reason=reason)
        return queue

    def _ask(self) -> tuple[str, str | None]:
        """The answer of squeue, and what was wrong if it gave none."""
        query = ["--array", "--states=all", "--noheader", f"--user={os.getuid()}", "--format=%j|%F|%K|%T|%r"]
        try:
            asked = subprocess.run(
                ["squeue", *query], capture_output=True, text=True, timeout=self._delays.answer, check=False
            )
        except subprocess.TimeoutExpired:
            return "", "no answer"
        return asked.stdout, asked.stderr.strip() if asked.returncode else None

    def _share_out(self) -> None:
        """Give the free part of the limit to arrays that could use more, then to tasks that wait."""
        free = self._limit - sum(min(array.throttle, len(array.keys)) for array in self._arrays)
        for array in self._arrays:
            free -= self._widen(array, free)
        self._write()
        while free > 0 and self._waiting:
            resources, _ = next(iter(self._waiting.values()))
            alike = [(key, command) for key, (each, command) in self._waiting.items() if each == resources]
            alike = alike[:_MAX_ARRAY]
            self._submit(dict(alike), resources, min(free, len(alike)))
            free -= min(free, len(alike))

    def _widen(self, array: _Array, free: int) -> int:
        """Let more tasks of an array run at once, at most `free`; how many more."""
        more = min(free, len(array.keys) - array.throttle)
        if more <= 0 or array.job is None:
            return 0
        update = ["scontrol", "update", f"JobId={array.job}", f"ArrayTaskThrottle={array.throttle + more}"]
        if subprocess.run(update, capture_output=True, check=False).returncode != 0:
            return 0
        array.throttle += more
        return more

    def _submit(self, tasks: dict[str, list[str]], resources: Resources, throttle: int) -> None:
        name = f"dit-eval-{uuid.uuid4().hex[:16]}"
        keys = {key: index for index, key in enumerate(tasks)}
        array = _Array(
            name=name, submitted=time.time(), nodes=resources.nodes, size=len(keys), throttle=throttle, keys=keys
        )  # fmt: skip
        (self._folder / name).mkdir()
        # On record before it is in the queue: if this process is killed in between, the next finds the job by its name.
        self._arrays.append(array)
        self._write()
        executor = self._executor(resources, name, throttle)
        calls = [
            JobTask(folder=self._folder, name=name, index=index, resources=resources, command=tuple(tasks[key]))
            for key, index in keys.items()
        ]  # fmt: skip
        try:
            with _outside_of_a_job():
                array.job = executor.submit_array(calls)[0].job_id.partition("_")[0]
        except Exception as error:  # submitit lets errors of its own and of subprocess through
            words = str(error)
            # If nobody answered in time it may be in the queue all the same, and is looked for there.
            self._settle(array, in_queue="timed out" in words.lower())
            said = next((line for line in words.splitlines() if "sbatch: error" in line), words.strip())
            raise OSError(f"sbatch refused {len(keys)} tasks ({resources}): {said}") from error
        self._settle(array, in_queue=True)

    def _settle(self, array: _Array, *, in_queue: bool) -> None:
        """Take the tasks of an array off the list of those that wait, or forget the array."""
        if in_queue:
            self._waiting = {key: task for key, task in self._waiting.items() if key not in array.keys}
        else:
            self._arrays.remove(array)
            (self._folder / array.name).rmdir()
        self._write()

    def _executor(self, resources: Resources, name: str, throttle: int) -> SlurmExecutor:
        submitit = _submitit()
        executor = submitit.SlurmExecutor(folder=self._folder, max_num_timeout=_MAX_TIMEOUTS)
        options = dict(resources.slurm)
        srun = [*options.pop("srun_args", []), "--kill-on-bad-exit=1"]
        # Warned at start, a job would go back to the queue for ever.
        options.setdefault("signal_delay_s", min(90, 15 * resources.minutes))
        if "cpus_per_task" in options:  # which srun has not taken over from sbatch since Slurm 22.05
            srun.append(f"--cpus-per-task={options['cpus_per_task']}")
        more = {"requeue": True, **options.pop("additional_parameters", {})}
        executor.update_parameters(
            job_name=name, time=resources.minutes, nodes=resources.nodes, ntasks_per_node=1, array_parallelism=throttle,
            stderr_to_stdout=True, srun_args=srun, additional_parameters=more, **options,
        )  # fmt: skip
        return executor

    def _write(self) -> None:
        with atomic_file(self._record, own=True) as file:
            file.write(json.dumps([asdict(array) for array in self._arrays], indent=1).encode())


@dataclass(kw_only=True)
class _Array:
    """A job array with outstanding tasks; of one task, a plain job.

    `keys` are the outstanding ones and their places; `job` is None until sbatch has said it. `submitted` is the time of
    day, for people who read the record.
    """

    name: Annotated[str, Meta(pattern=r"^dit-eval-[0-9a-f]{16}\Z")]
    submitted: Annotated[float, Meta(ge=0, lt=1e12)]
    nodes: Annotated[int, Meta(ge=1, le=1 << 16)]
    size: Annotated[int, Meta(ge=1, le=_MAX_ARRAY)]
    throttle: Annotated[int, Meta(ge=0, le=_MAX_ARRAY)]
    keys: dict[str, Annotated[int, Meta(ge=0, lt=_MAX_ARRAY)]]
    job: Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")] | None = None


def read_arrays(record: Path) -> list[_Array]:
    """The arrays of jobs that a file says are outstanding; none if there is no such file.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return msgspec.convert(read_json_list(record, "a record of jobs"), list[_Array])
    except FileNotFoundError:
        return []
    except ValueError as error:
        why = reason(error).removeprefix(f"{record}: ").rstrip(".")
        raise ValueError(
            f"{record} is not a record of jobs ({why}). See with squeue that none of the study's jobs is in the queue, "
            "then delete the file."
        ) from None


@dataclass(frozen=True, kw_only=True)
class _Queued:
    job: str
    state: str
    reason: str


def _in_queue(queued: _Queued | None) -> Outcome | None:
    """How a task is doing that Slurm has in its queue; None if it has ended, or is not known."""
    if queued is None or queued.state not in _PENDING | _RUNNING:
        return None
    if queued.state in _PENDING:
        return Outcome(state="pending", reason=queued.reason)
    return Outcome(state="running", reason="")


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Submit as if this were no job itself: sbatch takes its options from such an environment; its cluster stays."""
    from submitit.helpers import clean_env, environment_variables

    cluster = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(), environment_variables(**cluster):
        yield


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Slurm jobs need submitit; pip install 'dit-eval[slurm]'.") from error
    return submitit
