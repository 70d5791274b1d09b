"""Prefetching, parallel maps and background tasks: order, failures, and that no thread is left running."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from lengthwise.util.threads import BackgroundExecutor, check_cancelled, parallel_map, prefetch


def threads_named(*names: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


def test_prefetch_keeps_the_order_and_is_one_item_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    used = []
    with prefetch(items()) as prefetched:
        for number in prefetched:
            deadline = time.monotonic() + 10
            while len(made) < min(number + 2, 5) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(made) >= min(number + 2, 5)  # the next one is made while this one is used
            assert len(made) <= number + 3  # one waits in the queue, one in hand
            used.append(number)
    assert used == made == list(range(5))
    assert not threads_named("prefetch")


def test_prefetch_raises_a_failure_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broke off")

    with prefetch(items()) as prefetched:
        assert next(prefetched) == 1
        with pytest.raises(ValueError, match="broke off"):
            next(prefetched)


def test_leaving_prefetch_early_stops_the_thread() -> None:
    made = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    with prefetch(endless()) as prefetched:
        assert next(prefetched) == 0
    assert not threads_named("prefetch")
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 4


def test_check_cancelled_ends_long_work() -> None:
    """In the thread of a block that was left, and in no other."""
    begun, ended = threading.Event(), []

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        try:
            for _ in range(6_000):
                check_cancelled()
                time.sleep(0.01)
        finally:
            ended.append(True)
        yield 2

    began = time.monotonic()
    with prefetch(items()) as prefetched:
        assert next(prefetched) == 1
        begun.wait()
    assert ended == [True]
    assert time.monotonic() - began < 30
    check_cancelled()


def test_waiting_for_an_item_checks_for_cancellation() -> None:
    """A nested prefetch is cancelled with the outer one, in any state of its thread."""
    begun, ended = threading.Event(), []

    def inner() -> Iterator[int]:
        try:
            begun.set()
            for _ in range(6_000):
                check_cancelled()
                time.sleep(0.01)
            yield 1
        finally:
            ended.append("inner")

    def outer() -> Iterator[int]:
        yield 0
        try:
            with prefetch(inner()) as prefetched:
                yield from prefetched
        finally:
            ended.append("outer")

    began = time.monotonic()
    with prefetch(outer()) as prefetched:
        assert next(prefetched) == 0
        begun.wait()
    assert ended == ["inner", "outer"]
    assert time.monotonic() - began < 30
    assert not threads_named("prefetch")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_prefetch_reports_a_thread_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated; without the check the consumer would wait for ever."""
    monkeypatch.setattr("lengthwise.util.threads.Queue.put", lambda *_, **__: sys.exit())
    with prefetch([1]) as prefetched, pytest.raises(RuntimeError, match="died without a result"):
        next(prefetched)


def test_prefetch_passes_an_interrupt_through() -> None:
    def block() -> None:
        with prefetch(range(10**9)) as prefetched:
            next(prefetched)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()


def test_parallel_map_keeps_the_order_and_initializes_each_worker_once() -> None:
    started: list[str] = []
    found = list(
        parallel_map(
            lambda item: (time.sleep(0.01 * (5 - item)), item)[1],
            range(5),
            3,
            lambda: started.append(threading.current_thread().name),
        )
    )
    assert found == list(range(5))
    assert len(started) == len(set(started)) <= 3
    assert not threads_named("worker")


def test_parallel_map_stops_at_the_first_failure() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            failed.set()
            raise RuntimeError("worker broke")
        if item > 1:
            time.sleep(0.2)
        return item

    with pytest.raises(RuntimeError, match="worker broke"):
        list(parallel_map(work, range(10_000), 2))
    assert failed.is_set()
    assert len(begun) < 1_000  # all of them would take a quarter of an hour
    assert not threads_named("worker")


def test_background_tasks_run_one_at_a_time_and_end_with_the_block() -> None:
    busy = threading.Lock()
    done: list[int] = []

    def work(number: int) -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.02)
        done.append(number)
        busy.release()

    with BackgroundExecutor() as background:
        for number in range(4):
            background.submit(lambda number=number: work(number))
    assert done == list(range(4))
    assert not threads_named("background")


def test_background_tasks_run_concurrently_with_several_workers() -> None:
    both, release = threading.Barrier(2), threading.Event()
    done = []

    def work(number: int) -> None:
        if number < 2:
            both.wait(timeout=30)
            release.wait(timeout=30)
        done.append(number)

    with BackgroundExecutor(2) as background:
        background.submit(partial(work, 0))
        background.submit(partial(work, 1))
        third = threading.Thread(target=background.submit, args=(partial(work, 2),))
        third.start()
        third.join(timeout=0.05)
        assert third.is_alive()  # there is no thread for it yet
        release.set()
        third.join()
    assert sorted(done) == [0, 1, 2]


def test_background_failure_is_raised_while_others_work() -> None:
    def fail(reason: str) -> None:
        raise OSError(reason)

    with BackgroundExecutor(2) as background:
        background.submit(partial(time.sleep, 0.1))
        background.submit(partial(fail, "before the slow one"))
        with pytest.raises(OSError, match="before the slow one"):
            background.submit(partial(time.sleep, 0))


def test_background_failure_is_raised() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with BackgroundExecutor() as background:
        background.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            background.submit(lambda: None)
    with pytest.raises(OSError, match="disk full"), BackgroundExecutor() as background:
        background.submit(fail)


def test_failing_block_keeps_its_own_error_and_waits_for_its_tasks() -> None:
    done = []

    def fail_beside_work() -> None:
        with BackgroundExecutor() as background:
            background.submit(lambda: (time.sleep(0.05), done.append(1)))
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        fail_beside_work()
    assert done == [1]


def test_check_raises_a_failure_without_waiting() -> None:
    with BackgroundExecutor() as background:
        background.check()
        release = threading.Event()
        background.submit(release.wait)
        background.check()  # not done: nothing to raise, and no wait
        release.set()
        background.wait()
        failing = threading.Event()
        background.submit(lambda: (failing.wait(), 1 // 0))
        failing.set()
        while not background._pending[0].done():
            time.sleep(0.001)
        with pytest.raises(ZeroDivisionError):
            background.check()


def test_background_failure_is_logged_if_the_block_failed(caplog: pytest.LogCaptureFixture) -> None:
    def fail_twice() -> None:
        with BackgroundExecutor() as background:
            background.submit(lambda: 1 // 0)
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        fail_twice()
    assert "a background task failed as well: integer division" in caplog.text
