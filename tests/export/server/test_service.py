"""The service: vectors that are not computed in time."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lengthwise.export.server.errors import RequestTimeout
from lengthwise.export.server.queue import Job, Reservation
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.ragged import RaggedTokens

_FLAGS = np.zeros(1, np.bool_)
TOKENS = RaggedTokens(np.full(3, 4, np.int32), np.array([0, 3]), _FLAGS, _FLAGS)


class LateQueue:
    """A queue that computes a job at once, or never.

    Attributes:
        cancelled: jobs whose requests have ended.
    """

    def __init__(self, *, is_stuck: bool) -> None:
        self._is_stuck, self.cancelled = is_stuck, list[Job]()

    def submit(self, job: Job, _: Reservation) -> None:
        job.vectors = np.ones((1, 2), np.float32)
        if not self._is_stuck:
            job.on_done(job, None)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)


def encode(queue: LateQueue, seconds: float) -> Any:
    service = SimpleNamespace(settings=ServeSettings(request_timeout=seconds), queue=queue)
    deadline = time.monotonic() + seconds
    return asyncio.run(Service.encode(cast(Service, service), TOKENS, cast(Reservation, None), deadline))


def test_vectors_arrive_in_time() -> None:
    queue = LateQueue(is_stuck=False)
    assert encode(queue, 30).tolist() == [[1, 1]]
    assert len(queue.cancelled) == 1


def test_late_vectors_are_a_timeout_and_leave_the_queue() -> None:
    queue = LateQueue(is_stuck=True)
    with pytest.raises(RequestTimeout, match=r"not computed within 0\.02 s; send fewer texts"):
        encode(queue, 0.02)
    assert len(queue.cancelled) == 1
