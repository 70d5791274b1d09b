"""A load generator for HTTP servers: many connections from one process, closed loop or at a fixed rate.

General HTTP clients take longer per request than the server, so the protocol is implemented here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass
class Load:
    """The outcome of many requests.

    Attributes:
        statuses: number of responses by status.
        seconds: latency of each answered request, by its kind.
        texts: number of texts in requests answered with 200.
        lost: requests whose connection was closed without a response.
        took: total seconds.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    texts: int = 0
    lost: int = 0
    took: float = 0.0

    def percentile(self, part: float, kind: str = "") -> float:
        """A percentile of a kind's latencies, in seconds."""
        ordered = sorted(self.seconds.get(kind, ()))
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


@dataclass(frozen=True)
class Request:
    """One request as bytes.

    Attributes:
        texts: number of texts in it.
        kind: the name under which its latency is recorded.
        check: whether a response body is right; not checked if None.
    """

    data: bytes
    texts: int
    kind: str = ""
    check: Callable[[bytes], bool] | None = None


def post(path: str, body: bytes, texts: int, kind: str = "", check: Callable[[bytes], bool] | None = None) -> Request:
    """A POST of JSON with keep-alive."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return Request(head.encode() + _HEAD_END + body, texts, kind, check)


class WrongResponse(Exception):
    """A response with status 200 and a wrong body."""


class Connection(asyncio.Protocol):
    """One connection, with one request in flight at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._whole = -1
        self._response: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport, self.closed = cast(asyncio.Transport, transport), False

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request in flight."""
        self.closed = True
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionResetError("closed without a response"))

    def data_received(self, data: bytes) -> None:
        """Collect a response; resolve the request once it is complete."""
        self._received += data
        if self._whole < 0:
            end = self._received.find(_HEAD_END)
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            at = head.find(_LENGTH)
            stop = head.find(b"\r\n", at)
            length = int(head[at + len(_LENGTH) : stop if stop >= 0 else None]) if at >= 0 else 0
            self._whole = end + len(_HEAD_END) + length
            self._body = end + len(_HEAD_END)
            self._closes = b"connection: close" in head
        if len(self._received) >= self._whole and self._response is not None and not self._response.done():
            status, body = int(self._received[9:12]), bytes(self._received[self._body : self._whole])
            self._received.clear()
            self._whole = -1
            if self._closes:
                self.closed = True
            self._response.set_result((status, body))

    async def send(self, data: bytes) -> tuple[int, bytes]:
        """Send a request and wait for its status and body."""
        self._response = asyncio.get_running_loop().create_future()
        if self._transport is None or self.closed:
            raise ConnectionResetError("not connected")
        self._transport.write(data)
        return await self._response

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def send_requests(
    host: str,
    port: int,
    requests: Sequence[Request],
    *,
    connections: int,
    seconds: float,
    rate: float | None = None,
    until: Callable[[], bool] = lambda: False,
    repeat: bool = True,
) -> Load:
    """Send the given requests in order.

    Args:
        connections: number of concurrent connections.
        rate: requests per second; as fast as responses arrive if None.
        until: stops early once it is true.
        repeat: whether to begin again after the last one.
    """
    load, loop = Load(), asyncio.get_running_loop()
    began = time.perf_counter()
    cycle = _cycle(requests) if repeat else iter(requests)
    due_times = _due_times(began, rate)

    async def work() -> None:
        connection: Connection | None = None
        while time.perf_counter() < began + seconds and not until():
            due = next(due_times)
            if due > began + seconds:
                break
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            request = next(cycle, None)
            if request is None:
                break
            try:
                if connection is None or connection.closed:
                    _, connection = await loop.create_connection(Connection, host, port)
            except OSError:  # no server is listening: nothing was sent
                if until():
                    break
                await asyncio.sleep(0.01)
                continue
            sent = time.perf_counter()
            try:
                status, body = await connection.send(request.data)
            except ConnectionError:
                load.lost += 1
                continue
            load.statuses[status] = load.statuses.get(status, 0) + 1
            if status == 200:
                load.texts += request.texts
                load.seconds.setdefault(request.kind, []).append(time.perf_counter() - max(sent, due))
                if request.check is not None and not request.check(body):
                    raise WrongResponse(request.kind)
            else:
                load.seconds.setdefault(str(status), []).append(time.perf_counter() - sent)
        if connection is not None:
            connection.close()

    workers = [asyncio.create_task(work()) for _ in range(connections)]
    await asyncio.gather(*workers)
    load.took = time.perf_counter() - began
    return load


def run_load(host: str, port: int, requests: Sequence[Request], **options: object) -> Load:
    """`send_requests` in an event loop of its own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(send_requests(host, port, requests, **options))  # type: ignore[arg-type]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(send_requests(host, port, requests, **options))  # type: ignore[arg-type]


def _cycle(requests: Sequence[Request]) -> Iterator[Request]:
    while True:
        yield from requests


def _due_times(began: float, rate: float | None) -> Iterator[float]:
    number = 0
    while True:
        yield began if rate is None else began + number / rate
        number += 1


def wait_until_ready(check: Callable[[], bool], seconds: float = 60.0) -> float:
    """Seconds until `check` returns true."""
    began = time.perf_counter()
    while not check():
        if time.perf_counter() - began > seconds:
            raise TimeoutError(f"not ready within {seconds:g} s")
        time.sleep(0.01)
    return time.perf_counter() - began
