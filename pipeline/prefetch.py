"""Work side by side: threads that go one item ahead, or take items between them.

Threads, not processes: what the pipeline spends its time in (the tokenizer, matrix products, parquet) lets go of
Python's lock. A failure in a thread is raised where its result is asked for; nothing is left waiting for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)
_POLL_SECONDS = 0.1


def ahead(items: Iterable[T], depth: int = 1) -> closing[Generator[T]]:
    """The same items, made in another thread, `depth` ahead of where they are used.

    Use it as `with ahead(items) as made: for item in made: ...`; leaving the block stops the thread. What `items`
    raises is raised here, after the items before it.
    """
    return closing(_ahead(items, depth))


def _ahead(items: Iterable[T], depth: int) -> Generator[T]:
    queue: Queue[tuple[str, Any]] = Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any = None) -> None:
        while not stopped.is_set():
            try:
                return queue.put((kind, value), timeout=_POLL_SECONDS)
            except Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
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
            kind, value = queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()  # for as long as one item takes to make


def in_threads(
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


class Behind:
    """One thread for work whose end need not be waited for, such as writing; at most one piece of it at a time.

    A failure is raised at the next `check` or `submit`, or on leaving the block; where the block itself failed, it is
    logged.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._pending: Any = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown()
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            log.error("besides, what was going on behind failed: %s", error)

    def submit(self, function: Callable[[], object]) -> None:
        """Start `function` once the piece before it is done."""
        self.wait()
        self._pending = self._pool.submit(function)

    def check(self) -> None:
        """Raise the failure of what is done; do not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is pending; a failure is raised once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
