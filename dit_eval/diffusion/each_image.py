"""Each image solved on its own, the network asked for many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from queue import SimpleQueue
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dit_eval.diffusion.steps import Network


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What the solver of an image asks the network."""

    row: int
    x: Tensor
    time: Tensor
    scale: float
    answer: Future[Tensor] = field(default_factory=Future)


def solve_each(solve: Callable[[Network, Tensor], Tensor], network: Network, x: Tensor) -> Tensor:
    """Run a solver on each image of a batch, in a thread for each; what they ask at the same time is asked at once.

    A thread waits for its answer while the others come to their questions, so that each image's solver takes its own
    steps, and the network still sees batches. Which images are in one is decided by the number of questions of each
    alone, never by the clock.

    Parameters
    ----------
    solve : of a network for one image, and that image (1, C, ...); to the result, (1, C, ...)
    x : (N, C, ...)

    Returns
    -------
    (N, C, ...)
    """
    asked: SimpleQueue[_Question | None] = SimpleQueue()  # None: an image is done
    over = threading.Event()

    def one(row: int) -> Tensor:
        def ask(x: Tensor, time: Tensor, *, scale: float, rows: Sequence[int] | None = None) -> Tensor:
            question = _Question(row=row, x=x, time=time, scale=scale)
            asked.put(question)
            if over.is_set():
                question.answer.cancel()
            return question.answer.result()

        try:
            with torch.inference_mode():  # a mode of a thread
                return solve(ask, x[row : row + 1])
        finally:
            asked.put(None)

    with ThreadPoolExecutor(len(x), "image") as pool:
        solutions = [pool.submit(one, row) for row in range(len(x))]
        waiting: list[_Question] = []
        try:
            left = len(x)
            while left:
                question = asked.get()
                waiting += [] if question is None else [question]
                left -= question is None
                if len(waiting) == left:
                    _answer(waiting, network)
                    waiting = []
        finally:
            over.set()  # after an error, or an interruption: whoever waits, or is about to, is let go
            while not asked.empty():
                waiting += [question] if (question := asked.get()) else []
            for question in waiting:
                question.answer.cancel()
    return torch.cat([solution.result() for solution in solutions])


def _answer(questions: list[_Question], network: Network) -> None:
    """Ask the network what several images ask, those with the same guidance at once."""
    questions.sort(key=lambda each: (each.scale, each.row))
    for scale, group in groupby(questions, key=lambda each: each.scale):
        these = list(group)
        answers = network(
            torch.cat([each.x for each in these]),
            torch.cat([each.time for each in these]),
            scale=scale,
            rows=[each.row for each in these],
        )
        for each, answer in zip(these, answers.split(1), strict=True):
            each.answer.set_result(answer)
