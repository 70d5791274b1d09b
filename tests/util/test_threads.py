"""Threads that go ahead, beside and behind: order, failures, and that nothing is left waiting."""

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


def test_items_come_in_order_and_one_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    used = []
    with prefetch(items()) as coming:
        for number in coming:
            deadline = time.monotonic() + 10
            while len(made) < min(number + 2, 5) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(made) >= min(number + 2, 5)  # the next one is made while this one is used
            assert len(made) <= number + 3  # one waits in the queue, one in hand
            used.append(number)
    assert used == made == list(range(5))
    assert not threads_named("ahead")


def test_a_failure_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broke off")

    with prefetch(items()) as coming:
        assert next(coming) == 1
        with pytest.raises(ValueError, match="broke off"):
            next(coming)


def test_leaving_early_stops_the_thread() -> None:
    made = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    with prefetch(endless()) as coming:
        assert next(coming) == 0
    assert not threads_named("ahead")
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 4


def test_long_work_ends_at_its_next_stop_point() -> None:
    """Of the thread that works for a block that was left, and of no other."""
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
    with prefetch(items()) as made:
        assert next(made) == 1
        begun.wait()
    assert ended == [True]
    assert time.monotonic() - began < 30
    check_cancelled()


def test_waiting_is_a_stop_point() -> None:
    """A thread that waits for another one ends it when it is left itself, whatever that one does."""
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
            with prefetch(inner()) as made:
                yield from made
        finally:
            ended.append("outer")

    began = time.monotonic()
    with prefetch(outer()) as made:
        assert next(made) == 0
        begun.wait()
    assert ended == ["inner", "outer"]
    assert time.monotonic() - began < 30
    assert not threads_named("ahead")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As none does; whoever waits for one would wait for ever."""
    monkeypatch.setattr("lengthwise.util.threads.Queue.put", lambda *_, **__: sys.exit())
    with prefetch([1]) as made, pytest.raises(RuntimeError, match="died without a word"):
        next(made)


def test_an_interrupt_passes_through() -> None:
    def block() -> None:
        with prefetch(range(10**9)) as made:
            next(made)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()


def test_workers_keep_the_order_and_start_once() -> None:
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


def test_the_first_failure_of_a_worker_ends_the_work() -> None:
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


def test_behind_works_one_at_a_time_and_ends_before_the_block() -> None:
    busy = threading.Lock()
    done: list[int] = []

    def work(number: int) -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.02)
        done.append(number)
        busy.release()

    with BackgroundExecutor() as behind:
        for number in range(4):
            behind.submit(lambda number=number: work(number))
    assert done == list(range(4))
    assert not threads_named("behind")


def test_several_pieces_behind_at_a_time() -> None:
    both, release = threading.Barrier(2), threading.Event()
    done = []

    def work(number: int) -> None:
        if number < 2:
            both.wait(timeout=30)
            release.wait(timeout=30)
        done.append(number)

    with BackgroundExecutor(2) as behind:
        behind.submit(partial(work, 0))
        behind.submit(partial(work, 1))
        third = threading.Thread(target=behind.submit, args=(partial(work, 2),))
        third.start()
        third.join(timeout=0.05)
        assert third.is_alive()  # there is no thread for it yet
        release.set()
        third.join()
    assert sorted(done) == [0, 1, 2]


def test_a_failure_behind_is_raised_while_others_work() -> None:
    def fail(reason: str) -> None:
        raise OSError(reason)

    with BackgroundExecutor(2) as behind:
        behind.submit(partial(time.sleep, 0.1))
        behind.submit(partial(fail, "before what is slow"))
        with pytest.raises(OSError, match="before what is slow"):
            behind.submit(partial(time.sleep, 0))


def test_a_failure_behind_is_raised() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with BackgroundExecutor() as behind:
        behind.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            behind.submit(lambda: None)
    with pytest.raises(OSError, match="disk full"), BackgroundExecutor() as behind:
        behind.submit(fail)


def test_a_failing_block_keeps_its_own_error_and_lets_the_work_end() -> None:
    done = []

    def fail_beside_work() -> None:
        with BackgroundExecutor() as behind:
            behind.submit(lambda: (time.sleep(0.05), done.append(1)))
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        fail_beside_work()
    assert done == [1]


def test_a_failure_behind_is_seen_without_waiting() -> None:
    with BackgroundExecutor() as behind:
        behind.check()
        release = threading.Event()
        behind.submit(release.wait)
        behind.check()  # not done: nothing to say, and no wait
        release.set()
        behind.wait()
        failing = threading.Event()
        behind.submit(lambda: (failing.wait(), 1 // 0))
        failing.set()
        while not behind._pending[0].done():
            time.sleep(0.001)
        with pytest.raises(ZeroDivisionError):
            behind.check()


def test_two_failures_are_both_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail_twice() -> None:
        with BackgroundExecutor() as behind:
            behind.submit(lambda: 1 // 0)
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        fail_twice()
    assert "besides, what was going on behind failed: integer division" in caplog.text
