"""A run of a study: what is missing is given to an engine, until all is done or has failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dit_eval.study.engine import Engine, Outcome
from dit_eval.study.folder import Study
from dit_eval.study.plan import Task
from dit_eval.study.sources import Sources

_ATTEMPTS = 3  # starts of a task that the system kills; one that fails by itself is not started again


class StudyFailed(ValueError):
    """Some tasks failed; the message names them. What was finished is kept."""


def run_study(
    study: Study,
    engine: Engine,
    sources: Sources,
    *,
    workers: int = 1,
    sleep: Callable[[float], None] = time.sleep,
    on_note: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int, float | None], None] | None = None,
) -> int:
    """Do what is missing of a study; the number of results.

    Parameters
    ----------
    engine : where tasks run
    workers : tasks at once, for the time left
    sleep : waits so many seconds, `engine.interval` between two looks at the tasks
    on_note : called with a line for each finished task, and for what goes wrong
    on_progress : called with tasks done, tasks in all, and seconds left (None if unknown)

    Raises
    ------
    ValueError
        If another process runs this study, or what is done was done with other files.
    FileExistsError
        If the folder holds files of others under a study's names.
    StudyFailed
        If tasks failed; all others are done.
    """
    study.check_folder()
    with study.alone():
        study.begin(sources)
        run = _Run(
            study=study,
            engine=engine,
            workers=workers,
            note=on_note or (lambda _: None),
            report=on_progress or (lambda *_: None),
        )
        run.welcome()
        while run.goes_on():
            sleep(engine.interval)
        study.tidy()
        count = study.collect()
        study.note_failures(run.failures)
    run.complain()
    return count


@dataclass(kw_only=True)
class _Run:
    """What a run knows beside the folder: how often it started each task, and which have failed."""

    study: Study
    engine: Engine
    workers: int
    note: Callable[[str], None]
    report: Callable[[int, int, float | None], None]
    tasks: dict[str, Task] = field(init=False)
    done: set[str] = field(init=False)
    attempts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = {task.key: task for task in self.study.plan.tasks}
        self.done = {key for key, task in self.tasks.items() if self.study.is_done(task)}

    def welcome(self) -> None:
        for line in self.study.unfit():
            self.note(line)
        if self.done:
            self.note(f"{self.study.folder}: going on; {len(self.done)} of {len(self.tasks)} tasks are done already")
        self.study.collect()

    def goes_on(self) -> bool:
        """Look once at the tasks, and start those that can be started; False when there is nothing to wait for."""
        for key, outcome in self.engine.poll().items():
            if key in self.tasks:  # another is a job of the plan as it was; it finds that out itself
                self._hear(self.tasks[key], outcome)
        missing = self.study.missing()
        self._tell_finished(missing)
        self.report(len(self.done), len(self.tasks), self.study.seconds_left(missing, self.workers))
        barred = self.engine.outstanding | self.failures.keys()
        ready = [task for task in missing if task.key not in barred and self.study.is_ready(task)]
        if ready:
            self.attempts.update(task.key for task in ready)
            self.engine.submit({task.key: self.study.plan.resources(task) for task in ready}, self.study.command)
        return bool(ready or self.engine.outstanding)

    def complain(self) -> None:
        """StudyFailed if tasks have failed."""
        if not self.failures:
            return
        lines = [f"  {self.tasks[key].name}: {reason}" for key, reason in self.failures.items()]
        kept = len(self.tasks) - len(self.study.missing())
        raise StudyFailed(
            f"{len(self.failures)} tasks failed, {kept} of {len(self.tasks)} are done and kept.\n"
            + "\n".join(lines)
            + "\nRun the same command again when the reason is gone; it does only what is missing."
        )

    def _hear(self, task: Task, outcome: Outcome) -> None:
        """Note what went wrong with a task, if anything did."""
        reason = outcome.reason
        if outcome.state == "done" and not self.study.is_done(task):
            reason = "it ended well and left no result; is the folder on a shared file system?"
        elif outcome.state not in ("failed", "lost"):
            return
        again = outcome.state != "failed" and self.attempts[task.key] < _ATTEMPTS
        self.note(f"{'started again' if again else 'failed'}: {task.name}: {reason}")
        if not again:
            self.failures[task.key] = reason

    def _tell_finished(self, missing: list[Task]) -> None:
        new = self.tasks.keys() - {task.key for task in missing} - self.done
        if new:
            self.study.collect()
            for number, key in enumerate(sorted(new), start=len(self.done) + 1):
                self.note(self.study.told(self.tasks[key], number, len(self.tasks)))
            self.done |= new
