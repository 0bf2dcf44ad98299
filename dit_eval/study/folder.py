"""What a study's folder says is done."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from dit_eval.diffusion.labels import draw_labels
from dit_eval.diffusion.recipe import Execution
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.evaluation import score
from dit_eval.images.npz import open_batch
from dit_eval.models.checkpoints import load_dit
from dit_eval.models.vae import Autoencoder
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_lines
from dit_eval.results.parse import json_text
from dit_eval.results.sample_run import RunFiles, SampleRun
from dit_eval.results.settings import EvaluationSettings
from dit_eval.sampling import images_drawn, sample_npz
from dit_eval.study.expand import recorded
from dit_eval.study.pace import _Pace, work_gflops
from dit_eval.study.plan import Cell, Plan, Task, Training, label
from dit_eval.study.plan_file import parse_plan
from dit_eval.study.sources import Sources, feature_network, training_data, training_run
from dit_eval.system.assets import sha256_of
from dit_eval.system.dist import World
from dit_eval.system.environment import environment
from dit_eval.system.files import Watch, atomic_file, check_target
from dit_eval.system.run_folder import claim, is_claimed, remove_partial
from dit_eval.system.where import Where
from dit_eval.training import steps_done, train, weights_of_step

if TYPE_CHECKING:
    from dit_eval.study.engine import Engine

State = Literal["done", "running", "ready", "waiting", "failed"]
_ATTEMPTS = 3  # starts of a task that the system kills; one that fails by itself is not started again
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


class StudyFailed(ValueError):
    """Some tasks failed; the message names them. What was finished is kept."""


class Study:
    """A plan in a folder.

    Parameters
    ----------
    plan : see `dit_eval.study.plan_file.load_plan`
    folder : of the study; it need not exist
    """

    def __init__(self, plan: Plan, folder: str | os.PathLike[str]) -> None:
        self.plan, self.folder = plan, Path(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Study:
        """The study that was begun in a folder; FileNotFoundError if there is none."""
        path = Path(folder) / "plan.toml"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no study there; begin one by `dit-eval study run PLAN --out {folder}`.")
        return cls(parse_plan(path.read_text(encoding="utf-8"), path), folder)

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    @property
    def losses(self) -> Path:
        return self.folder / "losses.jsonl"

    @cached_property
    def sources(self) -> Sources:
        """Where data and weights are, as the latest run found them."""
        return Sources(**json.loads((self.folder / "study.json").read_text(encoding="utf-8"))["sources"])

    def command(self, key: str) -> list[str]:
        """The command line that does a task, in each of its processes."""
        return [sys.executable, "-m", "dit_eval", "study", "work", os.path.abspath(self.folder), key]

    def training_folder(self, key: str) -> Path:
        return self.folder / "trainings" / key

    def checkpoint(self, cell: Cell) -> Path:
        """Averaged weights that a cell is drawn from."""
        return weights_of_step(self.training_folder(cell.training), cell.training_steps)

    def samples(self, cell: Cell) -> Path:
        return self.folder / "samples" / f"{cell.key}.npz"

    def is_done(self, task: Task) -> bool:
        if isinstance(task, Cell):
            return self._done_file(task).exists()
        folder = self.training_folder(task.key)
        return steps_done(folder) >= task.steps[-1] and all(weights_of_step(folder, s).exists() for s in task.steps)

    def is_ready(self, task: Task) -> bool:
        """Whether a task can start: a cell needs its weights, and the state that was written after them."""
        if isinstance(task, Training):
            return True
        done = steps_done(self.training_folder(task.training))
        return done >= task.training_steps and self.checkpoint(task).exists()

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
        plan = self.folder / "plan.toml"
        if there == [plan] and plan.read_bytes() == self.plan.text.encode():  # of a run that ended at once
            return
        if there:
            raise FileExistsError(f"{there[0]}: of no study, which would write over it. Name another `out`.")

    def missing(self) -> list[Task]:
        """Tasks to do: trainings first, then cells, the most work first, so that workers finish together."""
        left = [task for task in self.plan.tasks if not self.is_done(task)]
        return sorted(left, key=lambda task: (isinstance(task, Cell), -work_gflops(task)))

    def result(self, cell: Cell) -> EvalResult | None:
        """What a cell gave; None if it is not done."""
        path = self._done_file(cell)
        return EvalResult.from_json(json.dumps(_read_json(path)["result"])) if path.exists() else None

    def status(self) -> list[TaskStatus]:
        """Each task of the plan, trainings first."""
        pace, found = self._pace(), []
        failures = _read_json(self.folder / "failures.json") if (self.folder / "failures.json").exists() else {}
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
        with atomic_file(self.results) as file:
            file.write("".join(result.to_json() + "\n" for result in results).encode())
        with atomic_file(self.losses) as file:
            for run in self.plan.trainings:
                name = label(run.model, run.config.block, run.recipe.global_seed)
                for line in _log_lines(self.training_folder(run.key) / "log.jsonl"):
                    if line["step"] <= run.steps[-1]:
                        file.write((json.dumps({"model": name, **line}) + "\n").encode())
        return len(results)

    def run(
        self,
        engine: Engine,
        sources: Sources,
        *,
        workers: int = 1,
        interval: float = 1.0,
        on_note: Callable[[str], None] | None = None,
        on_progress: Callable[[int, int, float | None], None] | None = None,
    ) -> int:
        """Do what is missing; the number of results.

        Parameters
        ----------
        engine : where tasks run
        workers : tasks at once, for the time left
        interval : seconds between two looks at them
        on_note : called with a line for each finished cell, and for what goes wrong
        on_progress : called with tasks done, tasks in all, and seconds left (None if unknown)

        Raises
        ------
        ValueError
            If another process runs this study.
        FileExistsError
            If the folder holds files of others under a study's names.
        StudyFailed
            If tasks failed; all others are done.
        """
        note = on_note or (lambda _: None)
        self.check_folder()
        with self._alone():
            self._refuse_other(sources)
            self._begin(sources)
            attempts: Counter[str] = Counter()
            failures: dict[str, str] = {}
            done = {task.key for task in self.plan.tasks if self.is_done(task)}
            total, known = len(self.plan.tasks), {task.key for task in self.plan.tasks}
            if done:
                note(f"{self.folder}: going on; {len(done)} of {total} tasks are done already")
            self.collect()
            while True:
                for key, outcome in engine.poll().items():
                    if key not in known:  # a job of the plan as it was; it finds that out itself
                        continue
                    task, reason = self.plan.task(key), outcome.reason
                    if outcome.state == "done" and not self.is_done(task):
                        reason = "it ended well and left no result; is the folder on a shared file system?"
                    elif outcome.state not in ("failed", "lost"):
                        continue
                    again = outcome.state != "failed" and attempts[key] < _ATTEMPTS
                    note(f"{'started again' if again else 'failed'}: {task.name}: {reason}")
                    if not again:
                        failures[key] = reason
                missing = self.missing()
                finished = {task.key for task in self.plan.tasks} - {task.key for task in missing}
                if finished - done:
                    self.collect()
                    for number, key in enumerate(sorted(finished - done), start=len(done) + 1):
                        note(self._told(self.plan.task(key), number, total))
                    done = finished
                if on_progress:
                    on_progress(len(done), total, self._seconds_left(missing, workers))
                barred = engine.outstanding | failures.keys()
                ready = [task for task in missing if task.key not in barred and self.is_ready(task)]
                if ready:
                    attempts.update(task.key for task in ready)
                    engine.submit({task.key: self.plan.resources(task) for task in ready}, self.command)
                elif not engine.outstanding:
                    break
                time.sleep(interval)
            self._tidy()
            count = self.collect()
            with atomic_file(self.folder / "failures.json") as file:
                file.write(json.dumps(failures, indent=1).encode())
        if failures:
            lines = [f"  {self.plan.task(key).name}: {reason}" for key, reason in failures.items()]
            kept = total - len(self.missing())
            raise StudyFailed(
                f"{len(failures)} tasks failed, {kept} of {total} are done and kept.\n" + "\n".join(lines) + "\n"
                "Run the same command again when the reason is gone; it does only what is missing."
            )
        return count

    def work(
        self, key: str, *, world: World | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Do one task; called by every process of it.

        Parameters
        ----------
        on_progress : called in process 0 with steps or images done, and their number

        Raises
        ------
        ValueError
            If the plan has no such task, another process is at it, or it cannot be done.
        OSError
            If what it finds cannot be written; before the work, as far as that can be told.
        """
        world, task = world or World(), self.plan.task(key)
        with self._held(task, world):
            if world.from_first(lambda: self.is_done(task)):
                return
            world.from_first(lambda: check_target(self._done_file(task)))
            if isinstance(task, Training):
                self._train(task, world, on_progress)
            else:
                self._measure(task, world, on_progress)

    def _train(self, run: Training, world: World, on_progress: Callable[[int, int], None] | None) -> None:
        resources, folder = self.plan.resources(run), self.training_folder(run.key)
        before, begin = world.from_first(lambda: steps_done(folder)), time.perf_counter()
        lost = [s for s in run.steps if s <= before and not weights_of_step(folder, s).exists()]
        if lost:
            raise ValueError(
                f"{folder} has done {before:,} steps and did not keep the weights after {lost[0]:,}. Remove the folder "
                "to train again, or take that step out of the plan."
            )
        data = world.first_then_all(lambda: training_data(self.plan, self.sources))
        train(
            folder,
            training_run(run, data, save_at=[step for step in run.steps if step > before]),
            execution=Execution(
                device=world.device(self.sources.device),
                micro_batch=resources.micro_batch,
                num_workers=resources.num_workers,
            ),
            world=world,
            on_progress=(lambda done, total, _: on_progress(done, total)) if on_progress else None,
        )
        if world.rank == 0:
            share = 1.0 - before / run.steps[-1]
            self._write_done(run, {"training": time.perf_counter() - begin}, share=share)

    def _measure(self, cell: Cell, world: World, on_progress: Callable[[int, int], None] | None) -> None:
        device, out = world.device(self.sources.device), self.samples(cell)
        before, begin = world.from_first(lambda: images_drawn(out)), time.perf_counter()
        checkpoint = self.checkpoint(cell)
        watch = Watch(checkpoint, *([] if cell.vae is None else [self.sources.decoders[cell.vae]]))
        decoder = None if cell.vae is None else Path(self.sources.decoders[cell.vae])
        training = next(run for run in self.plan.trainings if run.key == cell.training)
        files = RunFiles(
            model=cell.model,
            network=dataclasses.asdict(cell.config),
            image_size=cell.config.image_size,
            checkpoint=checkpoint.name,
            checkpoint_sha256=sha256_of(checkpoint),
            weights="ema",
            vae=cell.vae,
            vae_sha256=None if decoder is None else sha256_of(decoder),
            training_steps=cell.training_steps,
            training_batch_size=training.recipe.batch_size,
        )
        run = SampleRun.of(cell.sampling, files, device=device)
        decode = None if decoder is None else Autoencoder(decoder, device=device).decode
        model = load_dit(checkpoint, cell.config).to(device)
        watch.check()
        sample_npz(
            out,
            sampler=ImageSampler(model, run, decode=decode),
            labels=draw_labels(
                "balanced" if cell.sampling.labels == "balanced" else "random",
                num_images=cell.num_samples,
                num_classes=cell.config.num_classes,
                seed=cell.seed,
            ),
            batch_size=self.plan.resources(cell).batch_size,
            world=world,
            on_progress=on_progress,
        )
        drawn = time.perf_counter()
        result = score(
            gen=open_batch(out, role="gen"),
            ref=open_batch(self.sources.ref, role="ref"),
            network=feature_network(self.plan, self.sources, device=device),
            settings=EvaluationSettings(metrics=self.plan.data.metrics),
            # A cell is scored once; features of 50,000 images take 800 MB.
            where=Where(cache=self.folder / "cache", cache_gen=False, world=world),
        )
        if world.rank == 0:
            # Paths as seen from the folder, so that it can be moved, and so that two runs give the same results.
            gen = dataclasses.replace(result.gen, path=out.relative_to(self.folder).as_posix())
            ref = dataclasses.replace(result.ref, path=Path(result.ref.path).name)
            seconds = {"sampling": drawn - begin, "evaluation": time.perf_counter() - drawn}
            result = dataclasses.replace(result, gen=gen, ref=ref)
            self._write_done(cell, seconds, share=1.0 - before / cell.num_samples, result=result)
            if not cell.keep_samples:
                out.unlink()

    def _write_done(
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
        path = self._done_file(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json_text(about).encode())

    def _refuse_other(self, sources: Sources) -> None:
        """Refuse files other than those of finished tasks; of files that are named at run time, keys know nothing."""
        results = [result for cell in self.plan.cells if (result := self.result(cell))]
        if results:
            ref = sha256_of(Path(sources.ref))
            network = None if sources.weights is None else sha256_of(Path(sources.weights))
            for result in results:
                other = "another reference" if result.ref.sha256 != ref else ""
                if network is not None and result.extractor.weights_sha256 != network:
                    other = f"other weights of the network {self.plan.data.extractor}"
                if other:
                    raise ValueError(f"{self.folder}: {result.gen.path} was scored with {other}. Name another `out`.")
        runs = [self.training_folder(run.key) for run in self.plan.trainings]
        begun = [run / "run.json" for run in runs if (run / "run.json").exists()]
        identity = json.loads(json.dumps(training_data(self.plan, sources).identity)) if begun else {}
        for path in begun:
            if _read_json(path)["data"] != identity:
                raise ValueError(
                    f"{path.parent} is of another run: its data are not {sources.train}. Name another `out`."
                )

    def _begin(self, sources: Sources) -> None:
        """Write down what is asked for, for the processes that will do it."""
        for name, text in (
            ("plan.toml", self.plan.text),
            ("study.json", json.dumps({"sources": dataclasses.asdict(sources), "environment": environment()})),
            ("failures.json", "{}"),
        ):
            with atomic_file(self.folder / name) as file:
                file.write(text.encode())
        (self.folder / "locks").mkdir(exist_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
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

    def _tidy(self) -> None:
        """Remove what killed processes left; called when no task runs, since those write such files."""
        for folder in (self.folder, self.folder / "done", self.folder / "cache"):
            remove_partial(folder)
        for cell in self.plan.cells:
            if not cell.keep_samples and self.is_done(cell):
                self.samples(cell).unlink(missing_ok=True)

    @contextmanager
    def _held(self, task: Task, world: World) -> Iterator[None]:
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

    def _done_file(self, task: Task) -> Path:
        return self.folder / "done" / f"{task.key}.json"

    def _share(self, task: Task) -> float:
        """How much of a task that is not finished is done, 0..1."""
        if isinstance(task, Cell):
            return min(1.0, images_drawn(self.samples(task)) / task.num_samples)
        lines = _log_lines(self.training_folder(task.key) / "log.jsonl")
        latest = max([steps_done(self.training_folder(task.key)), *(line["step"] for line in lines[-1:])])
        return min(1.0, latest / task.steps[-1])

    def _pace(self) -> _Pace:
        done = [(task, _read_json(path)) for task in self.plan.tasks if (path := self._done_file(task)).exists()]
        return _Pace(done, self.plan.speed)

    def _seconds_left(self, missing: list[Task], workers: int) -> float | None:
        pace = self._pace()
        left = [pace.seconds(task, 1.0 - self._share(task)) for task in missing]
        known = [seconds for seconds in left if seconds is not None]
        return max(sum(known) / workers, max(known, default=0.0)) if len(known) == len(left) else None

    def _told(self, task: Task, count: int, total: int) -> str:
        """A line on a finished task."""
        path = self._done_file(task)
        seconds = sum(_read_json(path)["seconds"].values()) if path.exists() else None
        line = f"[{count:>{len(str(total))}}/{total}] {task.name}"
        result = self.result(task) if isinstance(task, Cell) else None
        line += f": FID-{result.num_samples} {result.fid:.3f}" if result and result.fid is not None else ""
        return line + ("" if seconds is None else f" ({seconds:.1f} s)")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _log_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a training's log; a training that is running may have written half of the last."""
    if not path.exists():
        return []
    return [line for _, line in read_lines(path, json.loads, on_bad_line=lambda _: None)]
