"""Threads for overlapping work: prefetch one item, map in parallel, run in the background.

- Threads, not processes: the tokenizer, matrix products and parquet, where the time goes, release the GIL.
- A failure in a thread is raised where its result is used.
- A thread cannot be stopped from outside, so long work polls `check_cancelled`; leaving `prefetch` waits for the next
  poll, no longer.
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
_current = threading.local()  # .cancelled: in a thread of `prefetch`, the event that is set once its block was left


class Cancelled(BaseException):
    """Ends work whose result is no longer needed; never leaves this module's threads.

    Not an Exception, so that no handler in between takes it for a failure.
    """


def check_cancelled() -> None:
    """Raise `Cancelled` in a thread of a `prefetch` whose block was left; do nothing in any other thread.

    Work that takes seconds per item calls this now and then.
    """
    cancelled = getattr(_current, "cancelled", None)
    if cancelled is not None and cancelled.is_set():
        raise Cancelled


def prefetch(items: Iterable[T]) -> closing[Generator[T]]:
    """The same items, made in another thread, one ahead of the consumer: the next is begun when one is consumed.

    Use it as `with prefetch(items) as prefetched: for item in prefetched: ...`; leaving the block stops the thread at
    its next item or `check_cancelled`. What `items` raises is raised here, after the items before it. Waiting for an
    item polls `check_cancelled` too, so that nested prefetching is cancelled from the outside in.

    Raises:
        RuntimeError: the thread died without passing on an item, an error or the end.
    """
    return closing(_prefetch(items))


def _prefetch(items: Iterable[T]) -> Generator[T]:
    queue: Queue[tuple[str, Any]] = Queue(1)
    consumed, cancelled = threading.Semaphore(0), threading.Event()

    def put(kind: str, value: Any = None) -> None:
        while not cancelled.is_set():
            try:
                return queue.put((kind, value), timeout=_POLL_SECONDS)
            except Full:
                continue

    def work() -> None:
        _current.cancelled = cancelled
        try:
            for item in items:
                put("item", item)
                del item  # only the consumer keeps it in memory
                while not consumed.acquire(timeout=_POLL_SECONDS):
                    if cancelled.is_set():
                        return
        except BaseException as error:
            put("error", error)
        else:
            put("end")

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = _get(queue, thread)
            if kind == "error":
                raise value
            if kind == "end":
                return
            consumed.release()
            yield value
    finally:
        cancelled.set()
        thread.join()  # until the item is made, or the thread comes to a `check_cancelled`


def _get(queue: Queue[tuple[str, Any]], thread: threading.Thread) -> tuple[str, Any]:
    """The queue's next entry; an error if the thread that fills it has died and the queue is empty."""
    while True:
        check_cancelled()
        alive = thread.is_alive()
        try:
            return queue.get(timeout=_POLL_SECONDS)
        except Empty:
            if not alive:
                raise RuntimeError("the prefetch thread died without a result") from None


def parallel_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, initializer: Callable[[], object] | None = None
) -> Iterator[R]:
    """`function` of each item, in the items' order, in `workers` threads that each call `initializer` first.

    The first failure is raised; items that are not begun by then are dropped.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=initializer)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


class BackgroundExecutor:
    """Threads for tasks whose end need not be waited for, such as writing; at most `workers` tasks at a time.

    A failure is raised at the next `check` or `submit`, or on leaving the block; if the block itself failed, it is
    logged instead. Of several failures, the one that was submitted first is raised.
    """

    def __init__(self, workers: int = 1) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="background")
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
            log.error("a background task failed as well: %s", error)

    def submit(self, function: Callable[[], object]) -> None:
        """Run `function` in the background; wait first while all workers are busy."""
        if len(self._pending) == self._workers:
            wait(self._pending, return_when=FIRST_COMPLETED)
        self.check()
        self._pending.append(self._pool.submit(function))

    def check(self) -> None:
        """Raise the failure of a finished task, if there is one; do not wait."""
        done = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if future not in done]
        for future in done:
            future.result()

    def wait(self) -> None:
        """Wait for all tasks; a failure is raised once."""
        wait(self._pending)
        self.check()
