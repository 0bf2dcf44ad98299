"""An engine that does a study's tasks in the process that asks for them, for tests that change or kill it there."""

from typing import ClassVar

from dit_eval.study.engine import Outcome


class InlineEngine:
    """As `LocalEngine`, without processes; `done` are the keys of all tasks that any of them has done."""

    done: ClassVar[list[str]] = []

    interval = 0.0

    def __init__(self, work, *, logs=None, limit=1, gpus=0, interval=0.0):
        self._work, self._waiting = work, []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    @property
    def outstanding(self):
        return set(self._waiting)

    def submit(self, tasks, command):
        self._waiting += tasks

    def poll(self):
        outcomes = {}
        for key in self._waiting:
            try:
                self._work(key)
                outcomes[key] = Outcome(state="done", code=0)
                self.done.append(key)
            except Exception as error:
                outcomes[key] = Outcome(state="failed", reason=str(error))
        self._waiting = []
        return outcomes


def install(setattr):
    """Have `dit-eval study run` use it."""
    from dit_eval.study import tasks

    setattr(tasks, "LocalEngine", InlineEngine)
