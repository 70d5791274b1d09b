"""The batch queue: order and batching of texts, capacity, deadlines, and failed batches."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.engines import LookupEngine
from lengthwise.batching.costs import PADDED, BatchCosts
from lengthwise.batching.plan import BatchPlan, plan_batches
from lengthwise.config import EncoderConfig
from lengthwise.export.server.errors import Overloaded, ShuttingDown
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.queue import LONG_TOKENS, BatchQueue, Job
from lengthwise.tokens.ragged import RaggedTokens

TIMEOUT_SECONDS = 20.0


class GatedEngine(LookupEngine):
    """An engine that waits until its gate is set, and fails for the id 3.

    Attributes:
        lengths: the lengths of each batch, in order.
        running: batches being computed.
        ungated_length: batches of shorter texts do not wait.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.gate, self.lengths = threading.Event(), list[list[int]]()
        self.running = self.ungated_length = 0

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        self.lengths.append(sorted(lengths.tolist()))
        self.running += 1
        assert lengths.max() < self.ungated_length or self.gate.wait(TIMEOUT_SECONDS)
        self.running -= 1
        if (input_ids == 3).any():
            raise ArithmeticError("id 3")
        return super().encode_batch(input_ids, lengths)


class QueueRunner:
    """Sends jobs to a queue and waits for their results."""

    def __init__(self, engine: Any, workers: int = 1, max_tokens: int = 10**6, costs: BatchCosts = PADDED) -> None:
        self.engine, self.queue = engine, BatchQueue(engine, costs, workers, max_tokens, Metrics())
        self.results: dict[Job, Exception | None] = {}
        self._changed = threading.Condition()

    def send(self, lengths: Sequence[int], value: int = 4, seconds: float = TIMEOUT_SECONDS) -> Job:
        tokens = sum(lengths)
        reservation = self.queue.reserve(tokens)
        flags = np.zeros(len(lengths), np.bool_)
        ids = np.full(tokens, value, np.int32)
        job = Job(RaggedTokens(ids, np.cumsum([0, *lengths]), flags, flags), time.monotonic() + seconds, self._done)
        self.queue.submit(job, reservation)
        return job

    def wait(self, *jobs: Job) -> list[Exception | None]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(job in self.results for job in jobs), TIMEOUT_SECONDS)
        return [self.results[job] for job in jobs]

    def _done(self, job: Job, error: Exception | None) -> None:
        with self._changed:
            assert job not in self.results
            self.results[job] = error
            self._changed.notify_all()


@pytest.fixture
def make_queue(encoder_config: Callable[..., EncoderConfig]) -> Iterator[Callable[..., QueueRunner]]:
    started = []

    def make(**options: Any) -> QueueRunner:
        started.append(QueueRunner(GatedEngine(encoder_config()), **options))
        return started[-1]

    yield make
    for runner in started:
        runner.engine.gate.set()
        runner.queue.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=30), min_size=1, max_size=12),
    workers=st.integers(1, 3),
    max_tokens=st.integers(40, 300),
    rng=st.randoms(use_true_random=False),
)
def test_every_text_gets_its_own_vector(
    encoder_config: Callable[..., EncoderConfig],
    requests: list[list[int]],
    workers: int,
    max_tokens: int,
    rng: random.Random,
) -> None:
    engine = LookupEngine(encoder_config())
    runner = QueueRunner(engine, workers, costs=BatchCosts(max_tokens, 16, 2, pads=True))
    jobs = [runner.send(lengths, rng.choice([4, 5, 6])) for lengths in requests]
    assert runner.wait(*jobs) == [None] * len(jobs)
    for job, lengths in zip(jobs, requests, strict=True):
        expected = np.stack(
            [engine.table[job.tokens.row(row)].mean(axis=0) if n else np.zeros(6) for row, n in enumerate(lengths)]
        )
        np.testing.assert_allclose(job.vectors, expected, atol=1e-6)
    assert engine.rows == sum(length > 0 for lengths in requests for length in lengths)
    assert runner.queue.tokens == 0
    runner.queue.close()


def test_similar_lengths_are_batched_and_the_oldest_goes_first(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue(costs=BatchCosts(100, 8, 2, pads=True))
    first = runner.send([1])  # takes the worker
    wait_until(lambda: runner.engine.running == 1)
    jobs = [runner.send([length]) for length in (50, 5, 49, 5, 50, 6)]
    runner.engine.gate.set()
    assert runner.wait(first, *jobs) == [None] * 7
    assert runner.engine.lengths == [[1], [50, 50], [5, 5, 6], [49]]


def test_a_large_window_is_planned_once(
    make_queue: Callable[..., QueueRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[int] = []

    def plan(lengths: NDArray[np.int64], *arguments: Any, **options: Any) -> BatchPlan:
        planned.append(len(lengths))
        return plan_batches(lengths, *arguments, **options)

    monkeypatch.setattr("lengthwise.export.server.queue.plan_batches", plan)
    runner = make_queue(costs=BatchCosts(10**6, 128, 2, pads=True))
    first = runner.send([1])
    wait_until(lambda: runner.engine.running == 1)
    jobs = [runner.send([9, 20, 3] * 100), runner.send([9, LONG_TOKENS] * 106), runner.send([3] * 40)]
    runner.engine.gate.set()
    assert runner.wait(first, *jobs) == [None] * 4
    assert planned == [1, 552, 106, 53]  # the long ones again
    sizes = [(lengths[0], lengths[-1], len(lengths)) for lengths in runner.engine.lengths]
    assert sizes[1:6] == [(9, 9, 103), (20, 20, 100), (3, 3, 70), (3, 3, 70), (9, 9, 103)]
    assert sizes[6:] == [(LONG_TOKENS, LONG_TOKENS, 53)] * 2


def test_later_texts_join_the_batches_of_a_kept_plan(
    make_queue: Callable[..., QueueRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_queue(costs=BatchCosts(10**6, 128, 2, pads=True))
    encode_batch, later = runner.engine.encode_batch, list[Job]()

    def send_later(input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        if lengths[0] == 9:
            later.append(runner.send([3, 4] * 30 + [20, 19], value=5))
        vectors: NDArray[np.float32] = encode_batch(input_ids, lengths)
        return vectors

    monkeypatch.setattr(runner.engine, "encode_batch", send_later)
    first = runner.send([1])
    wait_until(lambda: runner.engine.running == 1)
    job = runner.send([9, 20, 3] * 100)
    runner.engine.gate.set()
    assert runner.wait(first, job) + runner.wait(*later) == [None] * 3
    sizes = [(lengths[0], lengths[-1], len(lengths)) for lengths in runner.engine.lengths]
    assert sizes == [(1, 1, 1), (9, 9, 100), (20, 20, 101), (3, 3, 128), (3, 4, 32), (19, 19, 1)]
    for sent in (job, *later):
        expected = [runner.engine.table[sent.tokens.row(row)].mean(axis=0) for row in range(len(sent.tokens))]
        np.testing.assert_allclose(sent.vectors, expected, atol=1e-6)


def test_long_texts_leave_a_worker_free_for_short_ones(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue(workers=2)
    runner.engine.ungated_length = LONG_TOKENS
    runner.wait(runner.send([5]))
    first = runner.send([LONG_TOKENS])
    wait_until(lambda: runner.engine.running == 1)
    second = runner.send([LONG_TOKENS + 1])
    runner.wait(runner.send([6]))
    assert runner.engine.lengths == [[5], [LONG_TOKENS], [6]]
    runner.engine.gate.set()
    assert runner.wait(first, second) == [None, None]


def test_long_texts_use_all_workers_if_there_are_no_short_ones(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue(workers=2)
    for _ in range(2):
        runner.send([LONG_TOKENS] * 40)
    wait_until(lambda: runner.engine.running == 2)
    assert [min(lengths) for lengths in runner.engine.lengths] == [LONG_TOKENS] * 2


def test_capacity_is_limited_and_released(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue(max_tokens=100)
    job = runner.send([60])
    with pytest.raises(Overloaded, match=r"60 of at most 100 tokens are queued; try again in \d+ s") as caught:
        runner.send([41])
    assert caught.value.retry_after >= 1
    other = runner.send([40])
    runner.engine.gate.set()
    runner.wait(job, other)
    assert runner.queue.tokens == 0
    assert runner.wait(runner.send([500])) == [None]  # an empty queue takes more than its capacity


def test_cancelled_and_late_jobs_are_not_computed(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue()
    first = runner.send([2])
    wait_until(lambda: runner.engine.running == 1)
    cancelled, late, valid = runner.send([7]), runner.send([8], seconds=0), runner.send([9])
    runner.queue.cancel(cancelled)
    runner.queue.cancel(cancelled)
    runner.engine.gate.set()
    assert runner.wait(first, valid) == [None, None]
    runner.queue.close()
    assert [length for lengths in runner.engine.lengths for length in lengths] == [2, 9]
    assert {cancelled, late} & runner.results.keys() == set()
    assert runner.queue.tokens == 0


def test_only_the_request_that_causes_a_failure_fails(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue()
    first = runner.send([1])
    wait_until(lambda: runner.engine.running == 1)
    jobs = [runner.send([5, 5]), runner.send([5], value=3), runner.send([5])]
    runner.engine.gate.set()
    results = runner.wait(first, *jobs)
    assert [type(result) for result in results] == [type(None), type(None), ArithmeticError, type(None)]
    assert runner.queue.is_alive
    assert runner.wait(runner.send([5])) == [None]


def test_close_finishes_accepted_jobs(make_queue: Callable[..., QueueRunner]) -> None:
    runner = make_queue()
    jobs = [runner.send([length]) for length in (5, 300, 7)]
    closing = threading.Thread(target=runner.queue.close)
    closing.start()
    wait_until(lambda: runner.queue._closed)
    with pytest.raises(ShuttingDown, match="shutting down"):
        runner.send([1])
    runner.engine.gate.set()
    closing.join(TIMEOUT_SECONDS)
    assert runner.wait(*jobs) == [None] * 3
    assert not runner.queue.is_alive
