"""Work side by side: threads that go one item ahead, or take items between them.

Threads, not processes: what the pipeline spends its time in (the tokenizer, matrix products, parquet) lets go of
Python's lock. A failure in a thread is raised where its result is asked for; nothing is left waiting for it.

A thread cannot be ended from outside, so work that takes long asks now and then whether it is still wanted
(`check_cancelled`). Whoever leaves `prefetch` waits until the thread has got there, and no longer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)
_POLL_SECONDS = 0.1
_here = threading.local()  # .stopped: of a thread that works for an `prefetch`, whether its items are still wanted


class Cancelled(BaseException):
    """Ends work whose result nobody waits for any more; never leaves this module's threads.

    Not an Exception, so that nothing in between takes it for a failure.
    """


def check_cancelled() -> None:
    """End what this thread is doing, if it does it for an `prefetch` whose block was left.

    To be called now and then in work that takes seconds an item.
    """
    stopped = getattr(_here, "stopped", None)
    if stopped is not None and stopped.is_set():
        raise Cancelled


def prefetch(items: Iterable[T]) -> closing[Generator[T]]:
    """The same items, made in another thread, one ahead of where they are used: the next is begun when one is taken.

    Use it as `with prefetch(items) as made: for item in made: ...`; leaving the block stops the thread, at its next
    item or `check_cancelled`. What `items` raises is raised here, after the items before it. Waiting for an item is
    itself a `check_cancelled`: what is made ahead for a thread that is no longer wanted is not wanted either.

    Raises:
        RuntimeError: the thread ended without having said so.
    """
    return closing(_ahead(items))


def _ahead(items: Iterable[T]) -> Generator[T]:
    queue: Queue[tuple[str, Any]] = Queue(1)
    taken, stopped = threading.Semaphore(0), threading.Event()

    def put(kind: str, value: Any = None) -> None:
        while not stopped.is_set():
            try:
                return queue.put((kind, value), timeout=_POLL_SECONDS)
            except Full:
                continue

    def work() -> None:
        _here.stopped = stopped
        try:
            for item in items:
                put("item", item)
                del item  # it is whoever takes it who keeps it
                while not taken.acquire(timeout=_POLL_SECONDS):
                    if stopped.is_set():
                        return
        except BaseException as error:
            put("error", error)
        else:
            put("end")

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = _received(queue, thread)
            if kind == "error":
                raise value
            if kind == "end":
                return
            taken.release()
            yield value
    finally:
        stopped.set()
        thread.join()  # for as long as one item takes to make, or to come to a `check_cancelled`


def _received(queue: Queue[tuple[str, Any]], thread: threading.Thread) -> tuple[str, Any]:
    """The next of what a thread puts into a queue; an error where it has ended, and nothing more will come."""
    while True:
        check_cancelled()
        alive = thread.is_alive()
        try:
            return queue.get(timeout=_POLL_SECONDS)
        except Empty:
            if not alive:
                raise RuntimeError("the thread that reads ahead has died without a word") from None


def parallel_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, start: Callable[[], object] | None = None
) -> Iterator[R]:
    """`function` of each item, in the items' order, by `workers` threads that each call `start` first.

    The first failure is raised; items that are not begun by then are given up.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=start)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


class BackgroundExecutor:
    """Threads for work whose end need not be waited for, such as writing; at most `workers` pieces of it at a time.

    A failure is raised at the next `check` or `submit`, or on leaving the block; where the block itself failed, it is
    logged. Of several failures the first that was submitted is told.
    """

    def __init__(self, workers: int = 1) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="behind")
        self._workers = workers
        self._pending: list[Future[object]] = []

    def __enter__(self) -> BackgroundExecutor:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown()
        try:
            self.check()
        except Exception as error:
            if kind is None:
                raise
            log.error("besides, what was going on behind failed: %s", error)

    def submit(self, function: Callable[[], object]) -> None:
        """Start `function` once there is a thread for it."""
        if len(self._pending) == self._workers:
            wait(self._pending, return_when=FIRST_COMPLETED)
        self.check()
        self._pending.append(self._pool.submit(function))

    def check(self) -> None:
        """Raise the failure of what is done; do not wait."""
        done = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if future not in done]
        for future in done:
            future.result()

    def wait(self) -> None:
        """Until nothing is pending; a failure is raised once."""
        wait(self._pending)
        self.check()
