"""Reading ahead: in order, within bounds, errors where they belong, and an end when nobody reads on."""

import threading
import time
from functools import partial

import pytest

from dit_eval.system.ahead import in_order, read_ahead


def slow_first(number):
    time.sleep(0.02 if number % 4 == 0 else 0)  # later tasks overtake
    return number


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks(threads):
    tasks = (partial(slow_first, number) for number in range(20))
    assert list(in_order(tasks, threads=threads, ahead=4)) == list(range(20))


def test_no_more_is_begun_than_is_allowed():
    begun, taken = [], 0
    results = in_order((partial(begun.append, number) for number in range(50)), threads=3, ahead=5)
    for _ in results:
        taken += 1
        assert len(begun) <= taken + 5
    assert taken == 50


def test_tasks_are_done_while_a_result_is_used():
    second = threading.Event()
    results = in_order([lambda: 1, second.set], threads=1, ahead=1)
    assert next(results) == 1
    assert second.wait(10)


def test_without_threads_a_task_is_done_when_it_is_asked_for():
    begun = []
    results = in_order((partial(begun.append, number) for number in range(3)), threads=0, ahead=2)
    next(results)
    assert begun == [0]


def fails(number):
    if number == 3:
        raise ValueError("task 3")
    return number


def tasks_that_end_in(error):
    yield from (partial(slow_first, number) for number in range(3))
    raise error


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (lambda: (partial(fails, number) for number in range(9)), "task 3"),
        (lambda: tasks_that_end_in(ValueError("tasks end")), "tasks end"),
    ],
)
def test_an_error_comes_after_the_results_before_it(threads, tasks, said):
    taken = []
    with pytest.raises(ValueError, match=said):
        taken.extend(in_order(tasks(), threads=threads, ahead=8))
    results = in_order(tasks(), threads=threads, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=said):
        next(results)
    assert list(results) == [], "and it ends there"


def test_closing_stops_what_has_not_begun():
    before, done = threading.active_count(), []

    def task(number):
        time.sleep(0.01)
        done.append(number)
        return number

    results = in_order((partial(task, number) for number in range(1000)), threads=2, ahead=100)
    next(results)
    results.close()
    count = len(done)
    assert count < 100
    assert threading.active_count() == before, "and no thread is left"


def test_items_are_read_one_ahead_by_one_thread():
    threads, made = set(), []

    def items():
        for number in range(5):
            threads.add(threading.get_ident())
            made.append(number)
            yield number

    taken = []
    for item in read_ahead(items()):
        taken.append(item)
        assert len(made) <= len(taken) + 1
    assert taken == list(range(5))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_of_items_and_an_early_end():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    results = read_ahead(items())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(results)
    before = threading.active_count()
    results = read_ahead(iter(range(10**9)))
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
    assert list(read_ahead(iter(()))) == []
