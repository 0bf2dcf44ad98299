"""Reading ahead: threads make the next things while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

_T = TypeVar("_T")
_END: Any = object()


def in_order(tasks: Iterable[Callable[[], _T]], *, threads: int, ahead: int) -> Generator[_T]:
    """Yield the results of tasks in the order of the tasks; threads do them while earlier results are used.

    An error, of a task or of the iterable that yields the tasks, is raised where its result would come: after all
    results before it. To close the generator cancels what has not begun, and waits for what has.

    Parameters
    ----------
    tasks : taken one by one, in the thread of the caller
    threads : 0 to do each task when its result is asked for
    ahead : results that may wait, besides the one that is used
    """
    if threads < 1:
        for task in tasks:
            yield task()
        return
    pool = ThreadPoolExecutor(threads, "ahead")
    begun: deque[Future[_T]] = deque()
    try:
        for future in _submitted(pool, iter(tasks)):
            begun.append(future)
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(items: Iterator[_T]) -> Generator[_T]:
    """Yield the same items; while one is used, one thread makes the next. Errors and closing as in `in_order`."""
    for item in in_order(repeat(partial(next, items, _END)), threads=1, ahead=1):
        if item is _END:
            return
        yield item


def _submitted(pool: ThreadPoolExecutor, tasks: Iterator[Callable[[], _T]]) -> Iterator[Future[_T]]:
    """Hand tasks to threads, one at a time; an error of the iterator becomes the last of the futures."""
    while True:
        try:
            task = next(tasks)
        except StopIteration:
            return
        except Exception as error:
            failed: Future[_T] = Future()
            failed.set_exception(error)
            yield failed
            return
        yield pool.submit(task)
