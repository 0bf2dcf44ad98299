"""An engine that does each task in this process, for tests that need no workers."""

from dit_eval.engines import Outcome


class SerialEngine:
    """Does a task at each `poll`."""

    def __init__(self, study):
        self._study, self._waiting = study, []

    @property
    def outstanding(self):
        return set(self._waiting)

    def submit(self, tasks, command):
        self._waiting += tasks

    def poll(self):
        outcomes = {key: Outcome(state="pending") for key in self._waiting}
        if self._waiting:
            key = self._waiting.pop(0)
            self._study.work(key)
            outcomes[key] = Outcome(state="done", code=0)
        return outcomes
