"""Requests to batches: what waits is planned by length, as offline, and the oldest goes first.

Notable decisions:
- Where nothing is computed, a text is begun at once. While another batch is, a few texts wait for company, for some
  milliseconds at most: small batches would take the processor from those who bring more texts.
- A batch is one of those that `plan.plan_batches` makes of all that waits: the one with the oldest text
  in it. So near lengths go together, and no text waits for one that came after it: none starves.
- A text that takes long must not take all workers, since short ones would wait for it. While short ones come, long ones
  leave a worker free, and the order among them is kept.
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
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.plan import BatchCosts, plan_batches
from lengthwise.encoder.engine import Engine
from lengthwise.errors import LengthwiseError
from lengthwise.export.server.metrics import Metrics
from lengthwise.tokens.ragged import RaggedTokens

log = logging.getLogger(__name__)
LONG_TOKENS = 256
_SHORT_SECONDS = 1.0  # after a short text, in which others are expected
_FEW_TEXTS, _COMPANY_SECONDS = 16, 0.005
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
        held: tokens for which it holds places.
        left: rows whose vectors are not there yet.
        begun: whether some are computed.
        over: whether it is done, failed or given up.
        since: when it was made, of `time.monotonic`.
    """

    tokens: RaggedTokens
    deadline: float
    done: Callable[[Job, Exception | None], None]
    vectors: NDArray[np.float32] = field(init=False)
    held: int = 0
    left: int = 0
    begun: bool = False
    over: bool = False
    since: float = field(default_factory=time.monotonic)


class _Text(NamedTuple):
    """A text that waits, or is in a batch: where its ids are, and where its vector goes."""

    job: Job
    row: int
    start: int
    length: int


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
        self._waiting: list[_Text] = []  # the oldest first; some may be of jobs that are over
        self._held = 0
        self._running = self._running_long = 0
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

    def check(self, tokens: int) -> None:
        """Refuse where there are too few places; one larger than all of them is taken where there is nothing else.

        Raises:
            Overloaded: there are.
            Closed: after `close`.
        """
        if self._closed:
            raise Closed("the server is ending; ask another one")
        if self._held and self._held + tokens > self._most:
            raise Overloaded(self._held, self._most, self._retry_after())

    def reserve(self, tokens: int) -> None:
        """Take places.

        Raises:
            Overloaded, Closed: as `check`.
        """
        with self._changed:
            self.check(tokens)
            self._hold(tokens)

    def release(self, tokens: int) -> None:
        """Give places back."""
        with self._changed:
            self._hold(-tokens)

    def submit(self, job: Job, reserved: int) -> None:
        """Queue a job for which `reserved` places were taken; it holds as many as it has tokens from here on."""
        offsets = job.tokens.offsets.tolist()
        texts = [
            _Text(job, row, start, stop - start) for row, (start, stop) in enumerate(pairwise(offsets)) if stop > start
        ]
        job.held, job.left = offsets[-1], len(texts)
        job.vectors = np.zeros((len(job.tokens), self._engine.config.dim), np.float32)
        with self._changed:
            self._hold(job.held - reserved)
            if texts:
                if min(text.length for text in texts) < LONG_TOKENS:
                    self._last_short = time.monotonic()
                self._waiting += texts
                self._changed.notify(len(texts))
        if not texts:
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
                    if self._closed and not self._waiting:
                        return
                    self._changed.wait(_COMPANY_SECONDS if self._waiting else None)
                is_long = _is_long(batch)
                self._running += 1
                self._running_long += is_long
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._running -= 1
                    self._running_long -= is_long
                    self._changed.notify_all()

    def _next(self) -> list[_Text] | None:
        """The batch of the oldest text that may be begun; it is taken out of what waits."""
        now = time.monotonic()
        few = self._running and 0 < len(self._waiting) < _FEW_TEXTS and not self._closed
        if few and now - self._waiting[0].job.since < _COMPANY_SECONDS:
            return None
        leave_one = self._workers > 1 and self._running_long >= self._workers - 1
        longest = LONG_TOKENS if leave_one and now - self._last_short < _SHORT_SECONDS else math.inf
        window: list[_Text] = []
        passed: list[_Text] = []
        seen = 0
        for text in self._waiting:
            seen += 1
            if text.job.deadline < now:
                self._forget(text.job)  # whoever waited for it has left: the deadline is theirs
            if text.job.over:
                continue
            if text.length >= longest:
                passed.append(text)
                continue
            window.append(text)
            if len(window) == _WINDOW_ROWS:
                break
        if not window:
            self._waiting = passed
            return None
        lengths = np.fromiter((text.length for text in window), np.int64, len(window))
        places = next(rows for rows in plan_batches(lengths, self._costs) if rows.min() == 0).tolist()
        batch = [window[place] for place in places]
        taken = set(places)
        left = [text for place, text in enumerate(window) if place not in taken]
        self._waiting = passed + left + self._waiting[seen:]
        for text in batch:
            if not text.job.begun:
                text.job.begun = True
                self._metrics.took("queue", now - text.job.since)
        return batch

    def _run(self, batch: list[_Text]) -> None:
        """Compute a batch; where that fails, its requests one by one, so that only the one to blame fails."""
        batch = [text for text in batch if not text.job.over]
        if not batch:
            return
        try:
            self._compute(batch)
        except Exception as error:  # whatever the runtime raises
            log.error("a batch of %d texts failed: %s: %s", len(batch), type(error).__name__, error)
            jobs = dict.fromkeys(text.job for text in batch)
            if len(jobs) == 1:
                self._finish(batch[0].job, error)
                return
            for job in jobs:
                self._run([text for text in batch if text.job is job])

    def _compute(self, batch: list[_Text]) -> None:
        longest = max(text.length for text in batch)
        input_ids = np.full((len(batch), longest), self._engine.config.pad_token_id, np.int64)
        for cells, (job, _, start, length) in zip(input_ids, batch, strict=True):
            cells[:length] = job.tokens.values[start : start + length]
        lengths = np.fromiter((text.length for text in batch), np.int64, len(batch))
        began = time.perf_counter()
        vectors = self._engine.encode_batch(input_ids, lengths)
        seconds = time.perf_counter() - began
        tokens = int(lengths.sum())
        self._metrics.batch(longest, len(batch), tokens, seconds)
        for vector, (job, row, _, _) in zip(vectors, batch, strict=True):
            job.vectors[row] = vector
        with self._changed:
            self._rate += _SMOOTHING * (tokens / max(seconds, 1e-6) * self._workers - self._rate)
            for text in batch:
                text.job.left -= 1
            complete = [job for job in dict.fromkeys(text.job for text in batch) if not job.left]
        for job in complete:
            self._finish(job, None)


def _is_long(batch: list[_Text]) -> bool:
    return max(text.length for text in batch) >= LONG_TOKENS
