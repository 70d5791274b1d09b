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
        self.phase, self.since = Phase.BODY, 0.0
        self.buffered = self.unsent = 0
        self.is_refused = self.is_aborted = False
        self.errors: list[Any] = []
        self.transport = self

    def rank(self, _: float) -> tuple[int, float] | None:
        return self._rank

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
