"""Limits on all connections together, with connections that are always in use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lengthwise.export.server.connections import Phase
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.monitor import ConnectionMonitor
from lengthwise.export.server.settings import ServeSettings


class FakeConnection:
    """A connection with a given rank; None if it is in use."""

    def __init__(self, address: str, rank: tuple[int, float] | None = None) -> None:
        self.address, self._rank = address, rank
        self.rankings = self.checks = 0
        self.is_due = False
        self.phase, self.since = Phase.BODY, 0.0
        self.received = self.buffered = self.unsent = 0
        self.is_refused = self.is_aborted = False
        self.errors: list[Any] = []
        self.transport = self

    def rank(self, _: float) -> tuple[int, float] | None:
        self.rankings += 1
        return self._rank

    def check_timeouts(self, _: float) -> bool:
        self.checks += 1
        return self.is_due

    def abort(self) -> None:
        self.is_aborted = True

    def refuse(self, error: Any) -> None:
        self.errors.append(error)


def run(settings: dict[str, int], *connections: FakeConnection) -> list[Any]:
    """Add connections to a monitor; the errors with which they were refused."""

    async def add() -> list[Any]:
        monitor = ConnectionMonitor(ServeSettings(**settings), Metrics(), refuse=lambda error: error)
        return [monitor.add(connection) for connection in connections]  # type: ignore[arg-type]

    return asyncio.run(add())


def test_connection_is_refused_only_if_all_others_of_its_address_are_in_use() -> None:
    used, new, other = FakeConnection("a"), FakeConnection("a"), FakeConnection("b")
    errors = run({"max_connections_per_address": 1}, used, new, other)
    assert errors[0] is errors[2] is None
    assert (errors[1].status, "max_connections_per_address" in str(errors[1])) == (429, True)
    unused, new = FakeConnection("a", (1, 0.0)), FakeConnection("a")
    assert run({"max_connections_per_address": 1}, unused, new) == [None, None]
    assert unused.is_aborted


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
@pytest.mark.parametrize("kept", [0, 20, 500])
def test_new_connection_is_cheap(limit: str, kept: int) -> None:
    """Not every connection is ranked for each new one, however many of them are in use."""
    connections = [FakeConnection("a", None if number < kept else (1, number)) for number in range(3_000)]
    errors = run({limit: 500, **({} if limit == "max_connections" else {"max_connections": 2_048})}, *connections)
    assert [connection.is_aborted for connection in connections[:kept]] == [False] * kept
    assert sum(connection.rankings for connection in connections) <= 5 * len(connections)
    if kept < 500:
        assert errors == [None] * 3_000
        open_ones = [connection for connection in connections if not connection.is_aborted]
        assert open_ones == connections[:kept] + connections[-(500 - kept) :]


def test_connections_that_become_unused_or_used_are_noticed() -> None:
    """Those that become unused at once; a stall, which lasts a second, at the next check."""

    async def add() -> list[Any]:
        monitor = ConnectionMonitor(ServeSettings(max_connections=2), Metrics(), refuse=lambda error: error)
        first, second = FakeConnection("a"), FakeConnection("a")
        errors = [monitor.add(each) for each in (first, second, FakeConnection("b"))]  # type: ignore[arg-type]
        second._rank = (2, 0.0)
        monitor.offer(second)  # type: ignore[arg-type]
        second._rank = None
        errors.append(monitor.add(FakeConnection("b")))  # type: ignore[arg-type]
        second._rank = (2, 1.0)
        monitor.offer(second)  # type: ignore[arg-type]
        errors.append(monitor.add(FakeConnection("b")))  # type: ignore[arg-type]
        assert second.is_aborted
        first._rank = (3, 0.0)
        list(monitor.check(0.0))
        errors.append(monitor.add(FakeConnection("b")))  # type: ignore[arg-type]
        assert first.is_aborted
        return [error and error.status for error in errors]

    assert asyncio.run(add()) == [None, None, 503, 503, None, None]


def test_total_is_limited_too() -> None:
    errors = run({"max_connections": 2}, *(FakeConnection(address) for address in "abc"))
    assert [error and error.status for error in errors] == [None, None, 503]


def test_connection_of_the_lowest_rank_is_closed_first() -> None:
    ranks = [None, (2, 1.0), (1, 5.0), (1, 4.0), (3, 0.0)]
    connections = [FakeConnection("a", rank) for rank in ranks]
    assert run({"max_connections": 5}, *connections, FakeConnection("b")) == [None] * 6
    assert [connection.is_aborted for connection in connections] == [False, False, False, True, False]


@pytest.mark.parametrize("sizes", [[40, 40, 40], [100, 40], [30, 30, 30, 30, 90]])
def test_oldest_bodies_give_way(sizes: list[int]) -> None:
    async def hold() -> list[FakeConnection]:
        settings = ServeSettings(max_request_bytes=100, max_buffer_bytes=100)
        monitor = ConnectionMonitor(settings, Metrics(), refuse=lambda error: error)
        connections = [FakeConnection("a") for _ in sizes]
        for number, (connection, size) in enumerate(zip(connections, sizes, strict=True)):
            connection.since = number
            monitor.add(connection)  # type: ignore[arg-type]
            monitor.hold(connection, size)  # type: ignore[arg-type]
        return connections

    connections = asyncio.run(hold())
    assert sum(connection.buffered for connection in connections) <= 100
    assert not connections[-1].errors
    given_up = [bool(connection.errors) for connection in connections]
    assert given_up == sorted(given_up, reverse=True)
    assert any(given_up)


def test_complete_body_counts_until_its_request_is_answered() -> None:
    """It is not given up itself."""

    async def hold() -> tuple[FakeConnection, list[FakeConnection]]:
        settings = ServeSettings(max_request_bytes=100, max_buffer_bytes=100)
        monitor = ConnectionMonitor(settings, Metrics(), refuse=lambda error: error)
        complete, *others = (FakeConnection("a") for _ in range(3))
        for connection in (complete, *others):
            monitor.add(connection)  # type: ignore[arg-type]
        monitor.hold(complete, 60)  # type: ignore[arg-type]
        complete.phase = Phase.IDLE
        monitor.hold(others[0], 60)  # type: ignore[arg-type]
        monitor.release(complete)  # type: ignore[arg-type]
        monitor.hold(others[1], 60)  # type: ignore[arg-type]
        return complete, others

    complete, (early, late) = asyncio.run(hold())
    assert (complete.errors, [error.status for error in early.errors], late.errors) == ([], [429], [])


def test_connections_that_are_due_are_closed_one_by_one() -> None:
    """Between two of them the answers to others are sent, and connections may end."""

    async def check() -> list[int]:
        monitor = ConnectionMonitor(ServeSettings(), Metrics(), refuse=lambda error: error)
        connections = [FakeConnection("a") for _ in range(5)]
        for connection in connections:
            connection.is_due = connection is not connections[1]
            monitor.add(connection)  # type: ignore[arg-type]
        for step, _ in enumerate(monitor.check(0.0)):
            if step == 0:
                monitor.remove(connections[2])  # type: ignore[arg-type]
            assert sum(connection.checks for connection in connections) == (1, 3, 4)[step]
        return [connection.checks for connection in connections]

    assert asyncio.run(check()) == [1, 1, 0, 1, 1]


def test_pause_after_a_closed_connection_grows_with_what_it_has_sent() -> None:
    async def pauses() -> list[float]:
        monitor = ConnectionMonitor(ServeSettings(), Metrics(), refuse=lambda error: error)
        for received in (0, 1_000_000, 10**12):
            connection = FakeConnection("a")
            connection.received, connection.is_due = received, True
            monitor.add(connection)  # type: ignore[arg-type]
        return list(monitor.check(0.0))

    none, some, most = asyncio.run(pauses())
    assert 0 < none < some < most < 0.1
