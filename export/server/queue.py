"""The queue that turns requests into batches: planned by length, as offline, and the oldest first.

Decisions:
- When no batch is being computed, a text starts at once. Otherwise fewer than 16 texts wait up to 5 ms for more,
  because small batches take the processor from larger ones.
- The next batch is the one that holds the oldest text, among the batches that `plan_batches` makes of the queue.
  Similar lengths are batched together, no text waits for a later one, and none starves.
- Planning once per batch would take a good part of a small encoder's time under load. So the plan of a large window is
  kept until its batches of short texts are computed; later texts join the batch of their length, if it has room.
- Long texts must not occupy every worker. While short texts arrive, long ones leave one worker free, in their order.
- Capacity is counted in tokens. A request that is not tokenized yet reserves as many as its size in bytes suggests.
- All workers share one session: onnxruntime runs it in several threads with one copy of the weights.
- A batch is put together from bytes. NumPy releases the GIL for each operation on more than 500 elements, and a worker
  then waits up to 5 ms to get it back from the event loop.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.plan import plan_batches
from lengthwise.encoder.engine import Engine
from lengthwise.export.server.errors import Overloaded, ShuttingDown
from lengthwise.export.server.metrics import Metrics
from lengthwise.tokens.ragged import RaggedTokens

log = logging.getLogger(__name__)
LONG_TOKENS = 256
_SHORT_TEXTS_EXPECTED_SECONDS = 1.0  # after the last short text
_SMALL_BATCH_TEXTS, _BATCHING_DELAY_SECONDS = 16, 0.005
_WINDOW_ROWS = 1_024  # planned at a time: enough to batch similar lengths, and requests still finish in order
_KEPT_ROWS = 256  # whose plan is kept
_SMOOTHING = 0.1
_ID_BYTES = 8
_MAX_RETRY_SECONDS = 60


@dataclass(eq=False)
class Job:
    """The texts of one request.

    Attributes:
        tokens: their ids; rows without ids get zeros.
        deadline: on the clock of `time.monotonic`; after it the job is not computed.
        on_done: called once, in a worker's thread, with None when all vectors are there, or with an error.
        vectors: float32[texts, dim].
        capacity: tokens that it holds in the queue.
        pending: rows whose vectors are not there yet.
        is_started: whether a batch with some of its rows was started.
        is_closed: whether it is done, failed or cancelled.
        created: on the clock of `time.monotonic`.
    """

    tokens: RaggedTokens
    deadline: float
    on_done: Callable[[Job, Exception | None], None]
    vectors: NDArray[np.float32] = field(init=False)
    capacity: int = 0
    pending: int = 0
    is_started: bool = False
    is_closed: bool = False
    created: float = field(default_factory=time.monotonic)


class _Text(NamedTuple):
    """A queued text: the row of its vector, its number of ids, and these, int64 as bytes."""

    job: Job
    row: int
    length: int
    ids: bytes


class Reservation:
    """Capacity of a queue for one request, until its job is submitted or the request ends.

    Attributes:
        tokens: the capacity that is still held.
    """

    def __init__(self, queue: BatchQueue, tokens: int) -> None:
        self._queue, self.tokens = queue, tokens

    def release(self) -> None:
        """Give back what is still held."""
        self._queue.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class BatchQueue:
    """A queue of texts and the threads that compute them."""

    def __init__(self, engine: Engine, costs: BatchCosts, workers: int, max_tokens: int, metrics: Metrics) -> None:
        """Start the workers.

        Args:
            costs: of a batch, with its limits.
            workers: batches computed at once.
            max_tokens: the capacity.
        """
        self._engine, self._costs, self._workers, self._max_tokens = engine, costs, workers, max_tokens
        self._metrics, self._dim = metrics, engine.config.dim
        self._changed = threading.Condition()
        self._waiting: list[_Text] = []  # oldest first; some may belong to closed jobs
        self._planned: deque[list[_Text]] = deque()  # batches of short texts, all older than those that wait
        self._tokens = 0
        self._running = self._running_long = 0
        self._last_short = -math.inf
        self._rate = 0.0  # tokens per second of all workers
        metrics.queued_tokens.set_function(lambda: self._tokens)
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def tokens(self) -> int:
        """Tokens that are reserved, queued or being computed."""
        return self._tokens

    @property
    def is_alive(self) -> bool:
        """Whether all workers are running."""
        return all(thread.is_alive() for thread in self._threads)

    def check_capacity(self, tokens: int) -> None:
        """Check that the queue can take so many tokens; an empty queue takes any number.

        Raises:
            Overloaded: it cannot.
            ShuttingDown: it is closed.
        """
        if self._closed:
            raise ShuttingDown("the server is shutting down; use another one")
        if self._tokens and self._tokens + tokens > self._max_tokens:
            raise Overloaded(self._tokens, self._max_tokens, self._retry_after())

    def reserve(self, tokens: int) -> Reservation:
        """Reserve capacity.

        Raises:
            Overloaded, ShuttingDown: as `check_capacity`.
        """
        with self._changed:
            self.check_capacity(tokens)
            self._add_tokens(tokens)
        return Reservation(self, tokens)

    def release(self, reservation: Reservation) -> None:
        """Give back what a reservation still holds."""
        with self._changed:
            self._add_tokens(-reservation.tokens)
            reservation.tokens = 0

    def submit(self, job: Job, reservation: Reservation) -> None:
        """Queue a job; its own number of tokens replaces its reservation."""
        offsets, ids = job.tokens.offsets.tolist(), job.tokens.values.astype(np.int64).tobytes()
        texts = [
            _Text(job, row, stop - start, ids[_ID_BYTES * start : _ID_BYTES * stop])
            for row, (start, stop) in enumerate(pairwise(offsets))
            if stop > start
        ]
        job.capacity, job.pending = offsets[-1], len(texts)
        # Not np.zeros, which releases the GIL too.
        job.vectors = np.empty((len(job.tokens), self._dim), np.float32)
        if len(texts) < len(job.tokens):
            job.vectors[job.tokens.lengths == 0] = 0
        with self._changed:
            self._add_tokens(job.capacity - reservation.tokens)
            reservation.tokens = 0
            if texts:
                if min(text.length for text in texts) < LONG_TOKENS:
                    self._last_short = time.monotonic()
                self._waiting += texts
                self._changed.notify(len(texts))
        if not texts:
            self._finish(job, None)

    def cancel(self, job: Job) -> None:
        """Free a job's capacity; its texts that are still waiting are not computed."""
        with self._changed:
            self._close_job(job)

    def close(self) -> None:
        """Accept nothing more, and end the workers once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _add_tokens(self, tokens: int) -> None:
        self._tokens += tokens

    def _retry_after(self) -> int:
        seconds = self._tokens / self._rate if self._rate else 1.0
        return max(1, min(_MAX_RETRY_SECONDS, math.ceil(seconds)))

    def _close_job(self, job: Job) -> bool:
        """Close a job and free its capacity; False if it was closed before."""
        if job.is_closed:
            return False
        job.is_closed = True
        self._add_tokens(-job.capacity)
        return True

    def _finish(self, job: Job, error: Exception | None) -> None:
        with self._changed:
            was_open = self._close_job(job)
        if was_open:
            job.on_done(job, error)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (batch := self._take_batch()) is None:
                    if self._closed and not (self._waiting or self._planned):
                        return
                    self._changed.wait(_BATCHING_DELAY_SECONDS if self._waiting else None)
                is_long = max(text.length for text in batch) >= LONG_TOKENS
                self._running += 1
                self._running_long += is_long
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._running -= 1
                    self._running_long -= is_long
                    self._changed.notify_all()

    def _take_batch(self) -> list[_Text] | None:
        """Take the batch of the oldest text that may start out of the queue; None if none may."""
        now = time.monotonic()
        if self._planned:
            batch = self._planned.popleft()
            batch += self._take_similar(batch)
        elif self._should_wait_for_more(now) or not self._plan(now):
            return None
        else:
            batch = self._planned.popleft()
        for text in batch:
            if not text.job.is_started:
                text.job.is_started = True
                self._metrics.observe_stage("queue", now - text.job.created)
        return batch

    def _plan(self, now: float) -> bool:
        """Move the oldest texts that may start from those that wait to batches; False if none may.

        Of a small window only the first batch is kept, for later texts may make the others larger. The same holds for
        long texts, which may have to leave a worker free by then.
        """
        window, passed, seen = self._select_window(now)
        if not window:
            self._waiting = passed
            return False
        lengths = np.fromiter((text.length for text in window), np.int64, len(window))
        plan = [rows.tolist() for rows in plan_batches(lengths, self._costs, min_batches=2 * self._workers)]
        first, *others = sorted(plan, key=min)
        is_large = len(window) >= _KEPT_ROWS
        kept = [first, *(rows for rows in others if is_large and lengths[rows[0]] < LONG_TOKENS)]  # longest first
        taken = {row for rows in kept for row in rows}
        left = [text for row, text in enumerate(window) if row not in taken]
        self._waiting = passed + left + self._waiting[seen:]
        self._planned.extend([window[row] for row in rows] for rows in kept)
        return True

    def _take_similar(self, batch: list[_Text]) -> list[_Text]:
        """Take texts that came after a batch was planned and are as long as its own out of those that wait."""
        longest, shortest = batch[0].length, batch[-1].length
        room = self._costs.max_batch_rows(longest) - len(batch)
        similar = [text for text in self._waiting[:_WINDOW_ROWS] if shortest <= text.length <= longest][:room]
        taken = set(map(id, similar))
        self._waiting = [text for text in self._waiting if id(text) not in taken] if taken else self._waiting
        return similar

    def _should_wait_for_more(self, now: float) -> bool:
        is_small = self._running and 0 < len(self._waiting) < _SMALL_BATCH_TEXTS and not self._closed
        return bool(is_small) and now - self._waiting[0].job.created < _BATCHING_DELAY_SECONDS

    def _select_window(self, now: float) -> tuple[list[_Text], list[_Text], int]:
        """The oldest texts that may start, those that must leave a worker free, and how many were looked at.

        Texts of closed jobs are dropped, and jobs after their deadline are closed.
        """
        keep_one_free = self._workers > 1 and self._running_long >= self._workers - 1
        short_expected = now - self._last_short < _SHORT_TEXTS_EXPECTED_SECONDS
        max_length = LONG_TOKENS if keep_one_free and short_expected else math.inf
        window: list[_Text] = []
        passed: list[_Text] = []
        seen = 0
        for text in self._waiting:
            seen += 1
            if text.job.deadline < now:
                self._close_job(text.job)  # without a call: its request has timed out by the same deadline
            if text.job.is_closed:
                continue
            if text.length >= max_length:
                passed.append(text)
                continue
            window.append(text)
            if len(window) == _WINDOW_ROWS:
                break
        return window, passed, seen

    def _run(self, batch: list[_Text]) -> None:
        """Compute a batch; if that fails, each of its requests alone, so that only the cause fails."""
        batch = [text for text in batch if not text.job.is_closed]
        if not batch:
            return
        try:
            self._compute(batch)
        except Exception as error:  # any error of the runtime
            log.error("a batch of %d texts failed: %s: %s", len(batch), type(error).__name__, error)
            jobs = dict.fromkeys(text.job for text in batch)
            if len(jobs) == 1:
                self._finish(batch[0].job, error)
                return
            for job in jobs:
                self._run([text for text in batch if text.job is job])

    def _compute(self, batch: list[_Text]) -> None:
        longest = max(text.length for text in batch)
        padding = longest * np.int64(self._engine.config.pad_token_id).tobytes()
        cells = bytearray().join([text.ids + padding[len(text.ids) :] for text in batch])
        input_ids = np.frombuffer(cells, np.int64).reshape(len(batch), longest)
        lengths = np.array([text.length for text in batch], np.int64)
        started = time.perf_counter()
        vectors = self._engine.encode_batch(input_ids, lengths)
        seconds = time.perf_counter() - started
        tokens = int(lengths.sum())
        self._metrics.observe_batch(longest, len(batch), tokens, seconds)
        for vector, text in zip(vectors, batch, strict=True):
            text.job.vectors[text.row] = vector
        with self._changed:
            self._rate += _SMOOTHING * (tokens / max(seconds, 1e-6) * self._workers - self._rate)
            for text in batch:
                text.job.pending -= 1
            complete = [job for job in dict.fromkeys(text.job for text in batch) if not job.pending]
        for job in complete:
            self._finish(job, None)
