"""What a study's folder says is done."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from dit_eval.diffusion.written import steps_done
from dit_eval.images.identity import beside, check_identity
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.parse import json_text
from dit_eval.sampling import images_drawn
from dit_eval.study.expand import recorded
from dit_eval.study.pace import Pace, work_gflops
from dit_eval.study.plan import Cell, Plan, Task, Training
from dit_eval.study.plan_file import load_plan
from dit_eval.study.record import Done, log_lines, read_done, read_failures, read_sources
from dit_eval.study.sources import Sources, training_data
from dit_eval.system.assets import sha256_of
from dit_eval.system.dist import World
from dit_eval.system.environment import environment
from dit_eval.system.files import atomic_file
from dit_eval.system.run_folder import claim, is_claimed, remove_partial
from dit_eval.system.seals import digest_of, file_digest, read_sealed, sealed
from dit_eval.system.text import reason
from dit_eval.training import log_is_damaged, weights_of_step

State = Literal["done", "running", "ready", "waiting", "failed"]
_PATIENCE = 30.0  # seconds that a task waits for a process of an earlier run to let go of it


@dataclass(frozen=True, kw_only=True)
class TaskStatus:
    """Where a task is.

    Attributes
    ----------
    done_share : 0..1, of its training steps or images
    gflops : 1e9 multiply-adds of the whole task; evaluation and the autoencoder are not counted
    seconds_left : estimated, of one worker; None while no speed is known
    result : of a finished cell
    reason : why it failed, or what it waits for
    """

    task: Task
    state: State
    done_share: float
    gflops: float
    seconds_left: float | None
    result: EvalResult | None = None
    reason: str | None = None


class Study:
    """A plan in a folder.

    Parameters
    ----------
    plan : see `dit_eval.study.plan_file.load_plan`
    folder : of the study; it need not exist
    """

    def __init__(self, plan: Plan, folder: str | os.PathLike[str]) -> None:
        self.plan, self.folder = plan, Path(folder)
        self._read: dict[Path, tuple[tuple[int, ...], Done]] = {}  # what was read of files, in which state

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Study:
        """The study that was begun in a folder; FileNotFoundError if there is none."""
        path = Path(folder) / "plan.toml"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no study there; begin one by `dit-eval study run PLAN --out {folder}`.")
        return cls(load_plan(path), folder)

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    @property
    def losses(self) -> Path:
        return self.folder / "losses.jsonl"

    @cached_property
    def sources(self) -> Sources:
        """Where data and weights are, as the latest run found them."""
        return read_sources(self.folder / "study.json")

    def command(self, key: str) -> list[str]:
        """The command line that does a task, in each of its processes."""
        return [sys.executable, "-m", "dit_eval", "study", "work", os.path.abspath(self.folder), key]

    def training_folder(self, key: str) -> Path:
        return self.folder / "trainings" / key

    def checkpoints(self, cell: Cell) -> list[Path]:
        """Averaged weights that a cell is drawn from: its model's, and its guide's if it has one."""
        return [weights_of_step(self.training_folder(key), steps) for key, steps in cell.weights]

    def samples(self, cell: Cell) -> Path:
        return self.folder / "samples" / f"{cell.key}.npz"

    def is_done(self, task: Task) -> bool:
        if isinstance(task, Cell):
            return isinstance(self._done(task), Done)
        folder = self.training_folder(task.key)
        return steps_done(folder) >= task.steps[-1] and all(weights_of_step(folder, s).exists() for s in task.steps)

    def is_ready(self, task: Task) -> bool:
        """Whether a task can start: a cell needs its weights, and the state that was written after them."""
        if isinstance(task, Training):
            return True
        there = all(path.exists() for path in self.checkpoints(task))
        return there and all(steps_done(self.training_folder(key)) >= steps for key, steps in task.weights)

    def check_begun(self) -> None:
        """FileNotFoundError if no study was begun in the folder; results of others there are not looked at."""
        if not (self.folder / "study.json").is_file():
            what = "no study there" if self.folder.exists() else "no such folder"
            raise FileNotFoundError(
                f"{self.folder}: {what}; begin a study by `dit-eval study run PLAN --out {self.folder}`."
            )

    def check_folder(self) -> None:
        """FileExistsError if files that a study would write over lie in a folder in which none was begun."""
        if (self.folder / "study.json").is_file():
            return
        names = ("results.jsonl", "losses.jsonl", "failures.json", "study.json", "plan.toml")
        there = [self.folder / name for name in names if (self.folder / name).exists()]
        plan, ours = self.folder / "plan.toml", digest_of(self.plan.text.encode())
        if there == [plan] and plan.is_file() and file_digest(plan) == ours:  # of a run that ended at once
            return
        if there:
            raise FileExistsError(f"{there[0]}: of no study, which would write over it. Name another `out`.")

    def missing(self) -> list[Task]:
        """Tasks to do: trainings first, then cells, the most work first, so that workers finish together."""
        left = [task for task in self.plan.tasks if not self.is_done(task)]
        return sorted(left, key=lambda task: (isinstance(task, Cell), -work_gflops(task)))

    def result(self, cell: Cell) -> EvalResult | None:
        """What a cell gave; None if it is not done, or what was noted of it is damaged."""
        done = self._done(cell)
        return done.result if isinstance(done, Done) else None

    def unfit(self) -> list[str]:
        """A line on each record of the folder that is damaged, and so counts as not there."""
        lines = [why for task in self.plan.tasks if isinstance(why := self._done(task), str)]
        for folder in (self.training_folder(run.key) for run in self.plan.trainings):
            if log_is_damaged(folder):
                lines.append(f"warning: {folder / 'log.jsonl'}: damaged; losses are not as they were written.")
        try:
            read_failures(self.folder / "failures.json")
        except ValueError as error:
            lines.append(f"warning: {reason(error)} Why tasks failed is not known; run the study again.")
        return lines

    def _done(self, task: Task) -> Done | str | None:
        """What was noted when a task was finished; a line on why it cannot be believed; None if nothing was."""
        path = self.done_file(task)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        if path in self._read and self._read[path][0] == state:
            return self._read[path][1]
        try:
            done = read_done(path, task)
        except ValueError as error:
            loss = "the cell is done again" if isinstance(task, Cell) else "how long it took is not known"
            return f"warning: {reason(error)} So {loss}."
        self._read[path] = state, done
        return done

    def status(self) -> list[TaskStatus]:
        """Each task of the plan, trainings first."""
        pace, found, failures = self._pace(), [], self._failures()
        for task in self.plan.tasks:
            total, share, reason, result = work_gflops(task), 0.0, None, None
            state: State = "waiting"
            if self.is_done(task):
                state, share = "done", 1.0
                result = self.result(task) if isinstance(task, Cell) else None
            else:
                share = self._share(task)
                if is_claimed(self._lock_file(task)):
                    state = "running"
                elif task.key in failures:
                    state, reason = "failed", failures[task.key]
                elif self.is_ready(task):
                    state = "ready"
            seconds = 0.0 if state == "done" else pace.seconds(task, 1.0 - share)
            found.append(
                TaskStatus(
                    task=task,
                    state=state,
                    done_share=share,
                    gflops=total,
                    seconds_left=seconds,
                    result=result,
                    reason=reason,
                )
            )
        return found

    def collect(self) -> int:
        """Write `results.jsonl` and `losses.jsonl` from what is finished; the number of results."""
        results = [result for cell in self.plan.cells if (result := self.result(cell))]
        with atomic_file(self.results, own=True) as file:
            file.write("".join(result.to_json() + "\n" for result in results).encode())
        with atomic_file(self.losses, own=True) as file:
            for run in self.plan.trainings:
                for line in log_lines(self.training_folder(run.key) / "log.jsonl"):
                    if line["step"] <= run.steps[-1]:
                        file.write((json.dumps({"model": run.label, **line}) + "\n").encode())
        return len(results)

    def note_done(
        self, task: Task, seconds: dict[str, float], *, share: float, result: EvalResult | None = None
    ) -> None:
        """Note that a task is finished, in this process `share` of it, and how long that took."""
        about: dict[str, Any] = {
            "task": recorded(task),
            "gflops": work_gflops(task),
            "share": share,
            "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
            "environment": environment(),
        }
        if result is not None:
            about["result"] = result.to_dict()
        path = self.done_file(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, own=True) as file:
            file.write(json_text(sealed(about)).encode())

    def begin(self, sources: Sources) -> None:
        """Write down what is asked for, for the processes that will do it.

        Raises
        ------
        ValueError
            If what is done was done with other files; of files that are named at run time, keys know nothing.
        """
        self._refuse_other_measures(sources)
        self._refuse_other_data(sources)
        for name, text in (
            ("plan.toml", self.plan.text),
            ("study.json", json.dumps(sealed({"sources": dataclasses.asdict(sources), "environment": environment()}))),
        ):
            with atomic_file(self.folder / name, own=True) as file:
                file.write(text.encode())
        self.note_failures({})
        (self.folder / "locks").mkdir(exist_ok=True)

    def note_failures(self, reasons: Mapping[str, str]) -> None:
        """Keep why tasks failed, by their keys, until the study is run again."""
        with atomic_file(self.folder / "failures.json", own=True) as file:
            file.write(json.dumps(reasons, indent=1).encode())

    def _refuse_other_measures(self, sources: Sources) -> None:
        results = [result for cell in self.plan.cells if (result := self.result(cell))]
        if not results:
            return
        ref = sha256_of(Path(sources.ref))
        network = None if sources.weights is None else sha256_of(Path(sources.weights))
        for result in results:
            other = "another reference" if result.ref.sha256 != ref else ""
            if network is not None and result.extractor.weights_sha256 != network:
                other = f"other weights of the network {self.plan.data.extractor}"
            if other:
                raise ValueError(f"{self.folder}: {result.gen.path} was scored with {other}. Name another `out`.")

    def _refuse_other_data(self, sources: Sources) -> None:
        runs = [self.training_folder(run.key) / "run.json" for run in self.plan.trainings]
        begun = [path for path in runs if path.exists()]
        identity = json.loads(json.dumps(training_data(self.plan, sources).identity)) if begun else {}
        for path in begun:
            there = read_sealed(path).get("data")
            if not isinstance(there, dict) or beside(there) != beside(identity):
                raise ValueError(
                    f"{path.parent} is of another run: its data are not {sources.train}. Name another `out`."
                )
            check_identity(identity, there, path.parent)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second `run` away from the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        claim(
            lock,
            f"{self.folder}: another process runs this study. Wait for it, or name another `out`; "
            "`dit-eval study status` shows how far it is.",
        )
        try:
            yield
        finally:
            lock.release()

    def tidy(self) -> None:
        """Remove what killed processes left; called when no task runs, since those write such files."""
        for folder in (self.folder, self.folder / "done", self.folder / "cache"):
            remove_partial(folder)
        for cell in self.plan.cells:
            if not cell.keep_samples and self.is_done(cell):
                self.samples(cell).unlink(missing_ok=True)

    @contextmanager
    def held(self, task: Task, world: World) -> Iterator[None]:
        """Keep other processes away from a task. Those of a run that was just killed may take a moment to end."""
        lock = FileLock(self._lock_file(task))
        busy = f"{task.name}: another process has been at it for {_PATIENCE:.0f} s."
        world.from_first(lambda: claim(lock, busy, patience=_PATIENCE))
        try:
            yield
        finally:
            if world.rank == 0:
                lock.release()

    def _lock_file(self, task: Task) -> Path:
        return self.folder / "locks" / f"{task.key}.lock"

    def done_file(self, task: Task) -> Path:
        """Notes that a task is finished: how long it took, and what a cell gave."""
        return self.folder / "done" / f"{task.key}.json"

    def _share(self, task: Task) -> float:
        """How much of a task that is not finished is done, 0..1."""
        if isinstance(task, Cell):
            return min(1.0, images_drawn(self.samples(task)) / task.num_samples)
        lines = log_lines(self.training_folder(task.key) / "log.jsonl")
        latest = max([steps_done(self.training_folder(task.key)), *(line["step"] for line in lines[-1:])])
        return min(1.0, latest / task.steps[-1])

    def _pace(self) -> Pace:
        done = [(task, each) for task in self.plan.tasks if isinstance(each := self._done(task), Done)]
        return Pace([(task, each.about) for task, each in done], self.plan.speed)

    def _failures(self) -> dict[str, str]:
        try:
            return read_failures(self.folder / "failures.json")
        except ValueError:  # which `unfit` tells
            return {}

    def seconds_left(self, missing: list[Task], workers: int) -> float | None:
        """Estimated time for the missing tasks with so many workers; None while no speed is known."""
        pace = self._pace()
        left = [pace.seconds(task, 1.0 - self._share(task)) for task in missing]
        known = [seconds for seconds in left if seconds is not None]
        return max(sum(known) / workers, max(known, default=0.0)) if len(known) == len(left) else None

    def told(self, task: Task, count: int, total: int) -> str:
        """A line on a finished task."""
        done = self._done(task)
        seconds = sum(done.about["seconds"].values()) if isinstance(done, Done) else None
        result = done.result if isinstance(done, Done) else None
        line = f"[{count:>{len(str(total))}}/{total}] {task.name}"
        line += f": FID-{result.num_samples} {result.fid:.3f}" if result and result.fid is not None else ""
        return line + ("" if seconds is None else f" ({seconds:.1f} s)")
