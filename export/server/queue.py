"""Requests to batches: what waits is planned by length, as offline, and the oldest goes first.

Notable decisions:
- There is no waiting for company. A free worker takes what is there; while all are busy, a queue forms by itself, and
  the next batch is the larger for it.
- A batch is one of those that `pipeline.batching.plan_batches` makes of all that waits: the one with the oldest text
  in it. So near lengths go together, and no text waits for one that came after it: none starves.
- A text that takes long must not take all workers, since short ones would wait for it. While short ones come, long ones
  leave a worker free.
- Places are counted in tokens. A request whose texts are not tokenized yet holds as many as its bytes let expect.
- One session serves all workers: onnxruntime runs it in several threads, with one copy of the weights.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.server.metrics import Metrics
from pipeline.batching import BatchCosts, plan_batches
from pipeline.encode import Engine
from pipeline.errors import LengthwiseError
from pipeline.tokens import TokenShard

log = logging.getLogger(__name__)
LONG_TOKENS = 256
_SHORT_SECONDS = 1.0  # after a short text, in which others are expected
_WINDOW_ROWS = 512  # that are planned at a time: enough for near lengths to meet, and requests end in turn
_SMOOTHING = 0.1
_MOST_SECONDS = 60


class Overloaded(LengthwiseError):
    """No place; `retry_after` are seconds until there may be one."""

    def __init__(self, tokens: int, most: int, retry_after: int) -> None:
        super().__init__(f"{tokens:,} tokens are waiting, and {most:,} may; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(LengthwiseError):
    """The queue takes nothing any more."""


@dataclass(eq=False)
class Job:
    """The texts of one request.

    Attributes:
        tokens: their ids; of these, rows without ids get zeros.
        deadline: when nobody wants them any more, of `time.monotonic`.
        done: is called once, in a worker's thread, when all vectors are there, or with an error.
        vectors: float32[texts, dim].
    """

    tokens: TokenShard
    deadline: float
    done: Callable[[Job, Exception | None], None]
    vectors: NDArray[np.float32] = field(init=False)
    waiting: NDArray[np.int64] = field(init=False)  # rows that are in no batch yet
    left: int = field(init=False)  # rows whose vectors are not there yet
    held: int = 0  # tokens for which it holds places
    begun: bool = False
    over: bool = False
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.waiting = np.flatnonzero(self.tokens.lengths)
        self.left = len(self.waiting)


@dataclass(frozen=True)
class _Batch:
    parts: list[tuple[Job, NDArray[np.int64]]]
    lengths: NDArray[np.int64]

    @property
    def is_long(self) -> bool:
        return int(self.lengths.max()) >= LONG_TOKENS


class BatchQueue:
    """Workers, and what waits for them."""

    def __init__(self, engine: Engine, costs: BatchCosts, workers: int, most_tokens: int, metrics: Metrics) -> None:
        """Start the workers.

        Args:
            costs: of a batch, with its limits.
            workers: batches at a time.
            most_tokens: places.
        """
        self._engine, self._costs, self._workers, self._most = engine, costs, workers, most_tokens
        self._metrics = metrics
        self._changed = threading.Condition()
        self._jobs: list[Job] = []  # with rows that wait, the oldest first
        self._held = 0
        self._running_long = 0
        self._last_short = -math.inf
        self._rate = 0.0  # tokens a second, of all workers
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held(self) -> int:
        """Tokens that places are taken for."""
        return self._held

    @property
    def alive(self) -> bool:
        """Whether all workers are."""
        return all(thread.is_alive() for thread in self._threads)

    def reserve(self, tokens: int) -> None:
        """Take places.

        A request larger than all places is taken where there is nothing else.

        Raises:
            Overloaded: there are too few.
            Closed: after `close`.
        """
        with self._changed:
            if self._closed:
                raise Closed("the server is ending; ask another one")
            if self._held and self._held + tokens > self._most:
                raise Overloaded(self._held, self._most, self._retry_after())
            self._hold(tokens)

    def release(self, tokens: int) -> None:
        """Give places back."""
        with self._changed:
            self._hold(-tokens)

    def submit(self, job: Job, reserved: int) -> None:
        """Queue a job for which `reserved` places were taken; it holds as many as it has tokens from here on."""
        job.held = int(job.tokens.offsets[-1])
        job.vectors = np.zeros((len(job.tokens), self._engine.config.dim), np.float32)
        with self._changed:
            self._hold(job.held - reserved)
            if job.left:
                if int(job.tokens.lengths.min(initial=LONG_TOKENS, where=job.tokens.lengths > 0)) < LONG_TOKENS:
                    self._last_short = time.monotonic()
                self._jobs.append(job)
                self._changed.notify(len(job.waiting))
                return
        self._finish(job, None)

    def cancel(self, job: Job) -> None:
        """Nobody wants it any more: its places are free, and what is not begun is not computed."""
        with self._changed:
            self._forget(job)

    def close(self) -> None:
        """Take nothing more, and end the workers once all that waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _hold(self, tokens: int) -> None:
        self._held += tokens
        self._metrics.queued_tokens.set(self._held)

    def _retry_after(self) -> int:
        seconds = self._held / self._rate if self._rate else 1.0
        return max(1, min(_MOST_SECONDS, math.ceil(seconds)))

    def _forget(self, job: Job) -> bool:
        """Take a job out; whether it was still there."""
        if job.over:
            return False
        job.over = True
        self._hold(-job.held)
        if job in self._jobs:
            self._jobs.remove(job)
        return True

    def _finish(self, job: Job, error: Exception | None) -> None:
        with self._changed:
            wanted = self._forget(job)
        if wanted:
            job.done(job, error)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (batch := self._next()) is None:
                    if self._closed and not self._jobs:
                        return
                    self._changed.wait()
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._running_long -= batch.is_long
                    self._changed.notify_all()

    def _next(self) -> _Batch | None:
        """The batch of the oldest text that may be begun; it is taken out of what waits."""
        now = time.monotonic()
        for job in [job for job in self._jobs if job.deadline < now]:
            self._forget(job)  # whoever waited for it has left: the deadline is theirs
        leave_one = self._workers > 1 and self._running_long >= self._workers - 1
        only_short = leave_one and now - self._last_short < _SHORT_SECONDS
        window: list[tuple[Job, int]] = []
        lengths: list[NDArray[np.int64]] = []
        for job in self._jobs:
            rows = job.waiting
            found = job.tokens.lengths[rows]
            if only_short:
                rows, found = rows[found < LONG_TOKENS], found[found < LONG_TOKENS]
            if len(rows):
                window += [(job, row) for row in rows.tolist()]
                lengths.append(found)
            if len(window) >= _WINDOW_ROWS:
                break
        if not window:
            return None
        every = np.concatenate(lengths)
        rows = next(batch for batch in plan_batches(every, self._costs) if 0 in batch)
        taken: dict[Job, list[int]] = {}
        for place in rows.tolist():
            job, row = window[place]
            taken.setdefault(job, []).append(row)
        parts = [(job, np.array(found, np.int64)) for job, found in taken.items()]
        for job, found in parts:
            if not job.begun:
                job.begun = True
                self._metrics.took("queue", now - job.since)
            job.waiting = np.setdiff1d(job.waiting, found, assume_unique=True)
            if not len(job.waiting):
                self._jobs.remove(job)
        batch = _Batch(parts, np.concatenate([job.tokens.lengths[found] for job, found in parts]))
        self._running_long += batch.is_long
        return batch

    def _run(self, batch: _Batch) -> None:
        """Compute a batch; where that fails, its requests one by one, so that only the one to blame fails."""
        wanted = [(job, rows) for job, rows in batch.parts if not job.over]
        if not wanted:
            return
        try:
            self._compute(wanted)
        except Exception as error:  # whatever the runtime raises
            log.error("a batch of %d rows failed: %s: %s", len(batch.lengths), type(error).__name__, error)
            if len(wanted) == 1:
                self._finish(wanted[0][0], error)
                return
            for job, rows in wanted:
                self._run(_Batch([(job, rows)], job.tokens.lengths[rows]))

    def _compute(self, parts: list[tuple[Job, NDArray[np.int64]]]) -> None:
        lengths = np.concatenate([job.tokens.lengths[rows] for job, rows in parts])
        longest = int(lengths.max())
        input_ids = np.full((len(lengths), longest), self._engine.config.pad_token_id, np.int64)
        place = 0
        for job, rows in parts:
            for row in rows.tolist():
                input_ids[place, : lengths[place]] = job.tokens.row(row)
                place += 1
        began = time.perf_counter()
        vectors = self._engine.encode_batch(input_ids, lengths)
        seconds = time.perf_counter() - began
        tokens = int(lengths.sum())
        self._metrics.batch(longest, len(lengths), tokens, seconds)
        self._rate += _SMOOTHING * (tokens / max(seconds, 1e-6) * self._workers - self._rate)
        place = 0
        for job, rows in parts:
            job.vectors[rows] = vectors[place : place + len(rows)]
            place += len(rows)
            with self._changed:
                job.left -= len(rows)
                complete = job.left == 0
            if complete:
                self._finish(job, None)
