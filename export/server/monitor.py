"""All connections of a server: how many there are, what they hold in memory, and which ones take too long.

Decisions:
- A new connection beyond a limit takes the place of one that is not in use: first of those that have sent no whole
  request, then of those between two requests, then of those that have stalled in the middle of a body or an answer. It
  is refused only if every other one is in use.
- Ranking all connections for each new one would delay the answers to others. They are ranked at the first new one
  after a check, and later only those that may have changed: that are new, or whose last answer was sent.
- Memory for bodies is limited for all connections together. A complete body counts until its request is answered, but
  only incomplete ones are given up. The one that began first goes first: a client that sends at an ordinary rate began
  later than one that has stalled.
- Connections that are due are closed or answered one by one, with pauses between them that grow with what they have
  sent, so that many hostile ones, which then come back, do not delay the answers to others.
- Memory for unread answers is limited likewise. Beyond the limit, clients that have not read theirs for two seconds are
  disconnected, the one that is slowest first, and new requests get 429.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from enum import Enum
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from lengthwise.export.server.errors import RequestError
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.settings import ServeSettings

_CHECKS_PER_TIMEOUT, _MAX_SECONDS_BETWEEN_CHECKS = 4, 0.1
_CLOSED_PER_CHECK, _SECONDS_BETWEEN_CLOSINGS = 8, 0.005
_SECONDS_PER_BYTE, _MAX_SECONDS_BETWEEN_CLOSINGS = 1 / 50e6, 0.05  # a client that comes back may send as much again
_PROMPT_REFUSALS = 8  # of an address, at a time
_UNREAD_SECONDS = 2.0
_UNRANKED = (-1, 0.0)  # before all ranks


class Phase(Enum):
    """What is read from a connection next."""

    IDLE = "a request"
    HEADER = "the rest of a header"
    BODY = "the rest of a body"
    REFUSED = "nothing, until an error is answered"
    LINGERING = "bytes that are ignored, until the client closes the connection"


class Monitored(Protocol):
    """What the monitor needs of a connection; see `connections.Connection` for the attributes."""

    address: str
    phase: Phase
    since: float
    received: int
    buffered: int
    unsent: int
    unsent_since: float
    throttled: bool
    is_refused: bool
    flow: FlowControl
    transport: asyncio.Transport

    def refuse(self, error: RequestError) -> None:
        """Answer with an error, and close."""

    def check_timeouts(self, now: float) -> bool:
        """Close the connection if it takes too long; whether it was closed."""

    def rank(self, now: float) -> tuple[int, float] | None:
        """How readily it may be closed for another one, the least first; None if it is in use."""


class _Candidates:
    """Connections that may be closed in favour of new ones, the first of them in order of their ranks.

    A rank is from when its connection was put in: it is computed again when the connection is about to be chosen.
    """

    def __init__(self, connections: Iterable[Monitored], now: float) -> None:
        ranked = ((each.rank(now), each) for each in connections)
        self._heap = [(rank, number, each) for number, (rank, each) in enumerate(ranked) if rank is not None]
        heapq.heapify(self._heap)
        self._next = len(self._heap)

    def put(self, connection: Monitored, rank: tuple[int, float]) -> None:
        """Put in a connection, again if it is in already."""
        heapq.heappush(self._heap, (rank, self._next, connection))
        self._next += 1

    def take(self, connections: Container[Monitored], now: float) -> Monitored | None:
        """Take out the first one of those that are still open; None if all are in use."""
        while self._heap:
            rank, _, connection = heapq.heappop(self._heap)
            actual = connection.rank(now) if connection in connections else None
            if actual is None:
                continue
            if actual <= rank:
                return connection
            self.put(connection, actual)
        return None


class ConnectionMonitor:
    """The connections of one server.

    Attributes:
        unsent: bytes of answers that clients have not read.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, refuse: Callable[[Exception], Any]) -> None:
        """Args:
        refuse: makes the ASGI application that answers with an error.
        """
        self.settings, self.refuse = settings, refuse
        self._metrics = metrics
        self._connections: dict[Monitored, None] = {}
        self._by_address: dict[str, dict[Monitored, None]] = {}
        self._refused: Counter[str] = Counter()  # open connections by address
        self._throttled: list[Monitored] = []
        self._candidates: dict[str | None, _Candidates] = {}  # since the last check, by address; None: of all
        self._receiving: dict[Monitored, None] = {}  # those with bodies, by when the first of these began
        self._buffered = 0
        self.unsent = 0
        metrics.connections.set_function(lambda: len(self._connections))

    def add(self, connection: Monitored) -> RequestError | None:
        """Register a connection; the error with which it is refused, if there are too many."""
        settings, address = self.settings, connection.address
        peers = self._by_address.setdefault(address, {})
        error = None
        if len(peers) >= settings.max_connections_per_address and not self._make_room(address):
            limit = settings.max_connections_per_address
            message = f"{address} has more than {limit:,} connections in use (max_connections_per_address)"
            error = RequestError(429, message, code="too_many_connections")
        elif len(self._connections) >= settings.max_connections and not self._make_room(None):
            message = f"more than {settings.max_connections:,} connections are in use (max_connections)"
            error = RequestError(503, message, code="too_many_connections")
        # The last connection of an address may have been closed.
        self._by_address.setdefault(address, peers)[connection] = self._connections[connection] = None
        self.offer(connection)
        return error

    def offer(self, connection: Monitored) -> None:
        """A connection may not be in use any more."""
        for address in (connection.address, None):
            candidates = self._candidates.get(address)
            if candidates is not None:
                candidates.put(connection, _UNRANKED)

    def remove(self, connection: Monitored) -> None:
        """Forget a connection."""
        self.release(connection)
        self.unsent -= connection.unsent
        connection.unsent = 0
        self._connections.pop(connection, None)
        if connection.is_refused:
            connection.is_refused = False
            self._refused[connection.address] -= 1
            self._refused += Counter()  # forgets those without any
        peers = self._by_address.get(connection.address, {})
        peers.pop(connection, None)
        if not peers:
            self._by_address.pop(connection.address, None)

    def hold(self, connection: Monitored, size: int) -> None:
        """Count bytes of a body; give up incomplete bodies if there are too many."""
        connection.buffered += size
        self._buffered += size
        self._receiving[connection] = None
        while self._buffered > self.settings.max_buffer_bytes:
            oldest = self._oldest_incomplete()
            if oldest is None:
                return
            self.release(oldest)
            self.count_closed("max_buffer_bytes")
            message = "too many bodies are being received (max_buffer_bytes); try again later"
            oldest.refuse(RequestError(429, message, code="overloaded"))

    def _oldest_incomplete(self) -> Monitored | None:
        """The connection whose incomplete body began first; None if there is none."""
        while self._receiving:
            oldest = next(iter(self._receiving))
            if oldest.phase is Phase.BODY:
                return oldest
            del self._receiving[oldest]  # complete
        return None

    def release(self, connection: Monitored) -> None:
        """The bodies of a connection are not in memory any more."""
        self._receiving.pop(connection, None)
        self._buffered -= connection.buffered
        connection.buffered = 0

    def count_refusal(self, connection: Monitored) -> bool:
        """Count a refused connection; whether so many of its address are open that its answer is delayed."""
        if not connection.is_refused:
            connection.is_refused = True
            self._refused[connection.address] += 1
        return self._refused[connection.address] > _PROMPT_REFUSALS

    def throttle(self, connection: Monitored) -> None:
        """Read nothing from a connection until the next check."""
        connection.throttled = True
        connection.flow.pause_reading()
        self._throttled.append(connection)

    def abort(self, connection: Monitored, reason: str) -> bool:
        """Close a connection without an answer."""
        self.count_closed(reason)
        self.remove(connection)
        connection.transport.abort()
        return True

    def count_closed(self, reason: str) -> None:
        """Count a connection that the server closes."""
        self._metrics.closed_connections.labels(reason).inc()

    async def watch(self) -> None:
        """Check the timeouts of all connections, until it is cancelled."""
        settings = self.settings
        timeouts = (settings.header_timeout, settings.chunk_timeout, settings.body_timeout, settings.write_timeout)
        shortest = min(*timeouts, settings.idle_timeout)
        seconds = min(_MAX_SECONDS_BETWEEN_CHECKS, shortest / _CHECKS_PER_TIMEOUT)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            for pause in self.check(loop.time()):
                await asyncio.sleep(pause)

    def check(self, now: float) -> Iterator[float]:
        """Enforce the timeouts, and the limit of unread answers.

        Yields:
            The seconds in which other work is to be done, after each connection that was closed.
        """
        self._candidates.clear()
        throttled, self._throttled = self._throttled, []
        for connection in throttled:
            connection.throttled = False
            if connection in self._connections:
                connection.flow.resume_reading()
        closed = 0
        for connection in list(self._connections):
            if connection not in self._connections or not connection.check_timeouts(now):
                continue
            closed += 1
            if closed == _CLOSED_PER_CHECK:
                break
            yield min(
                _SECONDS_BETWEEN_CLOSINGS + connection.received * _SECONDS_PER_BYTE, _MAX_SECONDS_BETWEEN_CLOSINGS
            )
        self.unsent = sum(connection.unsent for connection in self._connections)
        if self.unsent > self.settings.max_buffer_bytes:
            slow = [each for each in self._connections if each.unsent and now - each.unsent_since > _UNREAD_SECONDS]
            for connection in sorted(slow, key=lambda each: each.unsent_since):
                if self.unsent <= self.settings.max_buffer_bytes:
                    break
                self.abort(connection, "max_buffer_bytes")

    def _make_room(self, address: str | None) -> bool:
        """Close a connection of an address, or of all, that is not in use; whether there was one."""
        now = asyncio.get_running_loop().time()
        connections = self._connections if address is None else self._by_address[address]
        if address not in self._candidates:
            self._candidates[address] = _Candidates(connections, now)
        chosen = self._candidates[address].take(connections, now)
        if chosen is None:
            return False
        return self.abort(chosen, "max_connections" if address is None else "max_connections_per_address")
