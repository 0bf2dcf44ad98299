"""Time left."""

from __future__ import annotations

from typing import Any

from dit_eval.flops.compute import gpu_hours
from dit_eval.study.plan import Cell, Plan, Speed, Task, Training


class Pace:
    """Seconds that tasks take, from those that are finished."""

    def __init__(self, done: list[tuple[Task, dict[str, Any]]], speed: Speed | None) -> None:
        self._speed = speed
        self._rates: dict[tuple[str, str | None], float] = {}  # Gflops per second, by kind and model
        for by_model in (False, True):
            self._rates |= _rates(done, by_model=by_model)
        evaluations = [about["seconds"]["evaluation"] for task, about in done if isinstance(task, Cell)]
        self._evaluation = sum(evaluations) / len(evaluations) if evaluations else None

    def seconds(self, task: Task, share: float) -> float | None:
        """Of a share of a task: at the pace of its model if that is known, else of all, else of the plan's `[cost]`."""
        phase = "training" if isinstance(task, Training) else "sampling"
        rate = self._rates.get((phase, task.model)) or self._rates.get((phase, None))
        if rate is None and self._speed is not None:
            rate = self._speed.tflops * 1000 / 2
        if rate is None:
            return None
        return work_gflops(task) * share / rate + self._scoring(task)

    def _scoring(self, task: Task) -> float:
        """Seconds that the samples of a cell take to be scored."""
        if isinstance(task, Cell) and self._evaluation is not None:
            return self._evaluation
        return _predicted_scoring(task, self._speed)


def _rates(done: list[tuple[Task, dict[str, Any]]], *, by_model: bool) -> dict[tuple[str, str | None], float]:
    """Gflops per second of each kind of task; of each model of it, or of all together."""
    sums: dict[tuple[str, str | None], list[float]] = {}
    for task, about in done:
        phase = "training" if isinstance(task, Training) else "sampling"
        entry = sums.setdefault((phase, task.model if by_model else None), [0.0, 0.0])
        entry[0] += about["gflops"] * about["share"]
        entry[1] += about["seconds"][phase]
    return {key: work / taken for key, (work, taken) in sums.items() if work > 0 and taken > 0}


def work_gflops(task: Task) -> float:
    """1e9 multiply-adds of a task: three forward passes a training step, two a guided sampling step."""
    return task.workload.training + task.workload.sampling


def predicted_hours(plan: Plan, tasks: list[Task] | None = None) -> float | None:
    """Hours of one of the plan's devices, at the speed that the plan states; None if it states none.

    Scoring is counted where the plan states its speed; features of the reference, and decoding, never are.
    """
    if plan.speed is None:
        return None
    tasks = plan.tasks if tasks is None else tasks
    scoring = sum(_predicted_scoring(task, plan.speed) for task in tasks)
    return gpu_hours(sum(map(work_gflops, tasks)), achieved_tflops=plan.speed.tflops) + scoring / 3600


def _predicted_scoring(task: Task, speed: Speed | None) -> float:
    """Seconds that a device takes to score the samples of a cell, as the plan states it; 0 where it does not."""
    if not isinstance(task, Cell) or speed is None or speed.scored_per_second is None:
        return 0.0
    return task.num_samples / speed.scored_per_second
