"""The queue: every text once, the oldest first, near lengths together; places, deadlines, and who is to blame."""

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
from lengthwise.config import EncoderConfig
from lengthwise.export.server.errors import Overloaded, ShuttingDown
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.queue import LONG_TOKENS, BatchQueue, Job
from lengthwise.tokens.ragged import RaggedTokens

SECONDS = 20.0


class Gated(LookupEngine):
    """An engine that waits to be let through, and keeps what it was asked for."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.gate, self.lengths = threading.Event(), list[list[int]]()
        self.running, self.passes = 0, 0  # shorter ones are let through

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        self.lengths.append(sorted(lengths.tolist()))
        self.running += 1
        assert lengths.max() < self.passes or self.gate.wait(SECONDS)
        self.running -= 1
        if (input_ids == 3).any():
            raise ArithmeticError("this id breaks it")
        return super().encode_batch(input_ids, lengths)


class Bench:
    """A queue, and jobs whose ends are waited for."""

    def __init__(self, engine: Any, workers: int = 1, most: int = 10**6, costs: BatchCosts = PADDED) -> None:
        self.engine, self.queue = engine, BatchQueue(engine, costs, workers, most, Metrics())
        self.ends: dict[Job, Exception | None] = {}
        self._changed = threading.Condition()

    def send(self, lengths: Sequence[int], value: int = 4, seconds: float = SECONDS) -> Job:
        tokens = sum(lengths)
        reservation = self.queue.reserve(tokens)
        no = np.zeros(len(lengths), np.bool_)
        ids = np.full(tokens, value, np.int32)
        job = Job(RaggedTokens(ids, np.cumsum([0, *lengths]), no, no), time.monotonic() + seconds, self._done)
        self.queue.submit(job, reservation)
        return job

    def wait(self, *jobs: Job) -> list[Exception | None]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(job in self.ends for job in jobs), SECONDS)
        return [self.ends[job] for job in jobs]

    def _done(self, job: Job, error: Exception | None) -> None:
        with self._changed:
            assert job not in self.ends
            self.ends[job] = error
            self._changed.notify_all()


@pytest.fixture
def bench(encoder_config: Callable[..., EncoderConfig]) -> Iterator[Callable[..., Bench]]:
    made = []

    def make(**options: Any) -> Bench:
        made.append(Bench(Gated(encoder_config()), **options))
        return made[-1]

    yield make
    for each in made:
        each.engine.gate.set()
        each.queue.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=30), min_size=1, max_size=12),
    workers=st.integers(1, 3),
    max_tokens=st.integers(40, 300),
    chance=st.randoms(use_true_random=False),
)
def test_every_text_gets_its_own_vector(
    encoder_config: Callable[..., EncoderConfig],
    requests: list[list[int]],
    workers: int,
    max_tokens: int,
    chance: random.Random,
) -> None:
    engine = LookupEngine(encoder_config())
    found = Bench(engine, workers, costs=BatchCosts(max_tokens, 16, 2, pads=True))
    jobs = [found.send(lengths, chance.choice([4, 5, 6])) for lengths in requests]
    assert found.wait(*jobs) == [None] * len(jobs)
    for job, lengths in zip(jobs, requests, strict=True):
        right = np.stack(
            [engine.table[job.tokens.row(row)].mean(axis=0) if n else np.zeros(6) for row, n in enumerate(lengths)]
        )
        np.testing.assert_allclose(job.vectors, right, atol=1e-6)
    assert engine.rows == sum(length > 0 for lengths in requests for length in lengths)
    assert found.queue.tokens == 0
    found.queue.close()


def test_near_lengths_go_together_and_the_oldest_first(bench: Callable[..., Bench]) -> None:
    found = bench(costs=BatchCosts(100, 8, 2, pads=True))
    first = found.send([1])  # takes the worker
    until(lambda: found.engine.running == 1)
    jobs = [found.send([length]) for length in (50, 5, 49, 5, 50, 6)]
    found.engine.gate.set()
    assert found.wait(first, *jobs) == [None] * 7
    assert found.engine.lengths == [[1], [50, 50], [5, 5, 6], [49]]


def test_a_long_text_leaves_a_worker_to_short_ones(bench: Callable[..., Bench]) -> None:
    found = bench(workers=2)
    found.engine.passes = LONG_TOKENS
    found.wait(found.send([5]))
    first = found.send([LONG_TOKENS])
    until(lambda: found.engine.running == 1)
    second = found.send([LONG_TOKENS + 1])
    found.wait(found.send([6]))
    assert found.engine.lengths == [[5], [LONG_TOKENS], [6]]
    found.engine.gate.set()
    assert found.wait(first, second) == [None, None]


def test_where_nothing_is_short_all_workers_take_long_texts(bench: Callable[..., Bench]) -> None:
    found = bench(workers=2)
    for _ in range(2):
        found.send([LONG_TOKENS] * 40)
    until(lambda: found.engine.running == 2)
    assert [min(lengths) for lengths in found.engine.lengths] == [LONG_TOKENS] * 2


def test_places_are_counted_and_given_back(bench: Callable[..., Bench]) -> None:
    found = bench(most=100)
    job = found.send([60])
    with pytest.raises(Overloaded, match=r"60 of at most 100 tokens are queued; try again in \d+ s") as caught:
        found.send([41])
    assert caught.value.retry_after >= 1
    other = found.send([40])
    found.engine.gate.set()
    found.wait(job, other)
    assert found.queue.tokens == 0
    assert found.wait(found.send([500])) == [None]  # larger than all places, and nothing else is there


def test_a_job_that_nobody_wants_is_not_computed(bench: Callable[..., Bench]) -> None:
    found = bench()
    first = found.send([2])
    until(lambda: found.engine.running == 1)
    given_up, late, good = found.send([7]), found.send([8], seconds=0), found.send([9])
    found.queue.cancel(given_up)
    found.queue.cancel(given_up)
    found.engine.gate.set()
    assert found.wait(first, good) == [None, None]
    found.queue.close()
    assert [length for lengths in found.engine.lengths for length in lengths] == [2, 9]
    assert {given_up, late} & found.ends.keys() == set()
    assert found.queue.tokens == 0


def test_only_the_one_to_blame_fails(bench: Callable[..., Bench]) -> None:
    found = bench()
    first = found.send([1])
    until(lambda: found.engine.running == 1)
    jobs = [found.send([5, 5]), found.send([5], value=3), found.send([5])]
    found.engine.gate.set()
    ends = found.wait(first, *jobs)
    assert [type(end) for end in ends] == [type(None), type(None), ArithmeticError, type(None)]
    assert found.queue.is_alive
    assert found.wait(found.send([5])) == [None]


def test_closing_finishes_what_was_accepted(bench: Callable[..., Bench]) -> None:
    found = bench()
    jobs = [found.send([length]) for length in (5, 300, 7)]
    closing = threading.Thread(target=found.queue.close)
    closing.start()
    until(lambda: found.queue._closed)
    with pytest.raises(ShuttingDown, match="shutting down"):
        found.send([1])
    found.engine.gate.set()
    closing.join(SECONDS)
    assert found.wait(*jobs) == [None] * 3
    assert not found.queue.is_alive
