"""One connection: what a client may send, and how long it may take, before the server refuses it with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from helpers.serving import ServerProcess
from helpers.sockets import BODY, CHUNKED, HEAD, LENGTH, connect, exchange, read_answers, read_until_closed, send
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.server.connections import Connection
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.monitor import ConnectionMonitor
from lengthwise.export.server.settings import ServeSettings

TIMEOUTS = {"header": 1, "chunk": 1, "body": 3, "idle": 2, "write": 2}
LIMITS = ("--max-request-bytes", "100000", "--max-buffer-bytes", "150000", "--max-connections-per-address", "60")
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def server(_built_artifact: Path) -> Iterator[ServerProcess]:
    timeouts = [word for name, seconds in TIMEOUTS.items() for word in (f"--{name}-timeout", str(seconds))]
    server = ServerProcess(_built_artifact, *timeouts, *LIMITS).wait_until_ready()
    yield server
    assert server.process.poll() is None
    server.close()


@pytest.fixture(scope="module")
def vector(_built_artifact: Path) -> list[list[float]]:
    return OnnxEncoder.load(_built_artifact).encode(["the cat"]).tolist()


def closed(server: ServerProcess, reason: str) -> float:
    """How many connections the server closed for a reason."""
    return server.metric(f'lengthwise_closed_connections_total{{reason="{reason}"}}')


REFUSED = {
    "header_without_end": (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 20_000, 431, "larger than 16,384 bytes"),
    "many_long_fields": (
        b"GET / HTTP/1.1\r\n" + b"X: aaaa aaaa\r\n" * 99 + b"Y: " + b"a" * 16_000,
        431,
        "max_header_bytes",
    ),
    "target_without_end": (b"GET /" + b"a" * 20_000, 431, "larger than 16,384 bytes"),
    "blank_lines": (b"\r\n" * 10_000, 431, "larger than 16,384 bytes"),
    "many_fields": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "more than 100 fields (max_headers)"),
    "chunk_extension": (HEAD + CHUNKED + b"5;" + b"x" * 40_000, 400, "chunk extensions or trailers in a row"),
    "trailer_without_end": (
        HEAD + CHUNKED + b"1\r\n \r\n0\r\nX: " + b"a" * 40_000,
        400,
        "chunk extensions or trailers",
    ),
    "many_trailers": (HEAD + CHUNKED + b"1\r\n \r\n0\r\n" + b"X: y\r\n" * 101, 431, "more than 100 fields"),
    "too_large_body": (HEAD + b"Content-Length: 5000000\r\n\r\n" + b" " * 4_000_000, 413, "larger than 100,000 bytes"),
    "too_large_chunks": (HEAD + CHUNKED + b"ffff\r\n" + b" " * 65_535 + b"\r\nffff\r\n" + b" " * 65_535, 413, "larger"),
    "other_protocol": (b"\x16\x03\x01\x02\x00\x01\x00", 400, "not valid HTTP/1.1"),
    "http_2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/2"),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "no proxy"),
    "target": (b"GET \xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not valid HTTP/1.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_request_beyond_a_limit_is_refused_with_the_reason(server: ServerProcess, case: str) -> None:
    """The reason arrives although the rest of what the client sent was not read."""
    data, status, message = REFUSED[case]
    answer = exchange(server.port, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (int(head[9:12]), b"connection: close" in head) == (status, True)
    assert message in json.loads(body)["error"]["message"]
    assert server.request("/health/live")[0] == 200


def test_header_at_the_limits_is_served(server: ServerProcess) -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 150) for number in range(98))
    with connect(server.port) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        assert read_answers(connection, 1) == [(200, b'{"live":true}')]


@pytest.mark.parametrize(
    ("parts", "setting"),
    [
        ([b"GE"], "header_timeout"),
        ([b"GET / HTTP/1.1\r\nHost"], "header_timeout"),
        ([HEAD], "header_timeout"),
        ([HEAD, LENGTH], "chunk_timeout"),
        ([HEAD, LENGTH, BODY[:9]], "chunk_timeout"),
        ([HEAD, CHUNKED, b"15\r\n" + BODY], "chunk_timeout"),
        ([HEAD, CHUNKED, b"15\r\n" + BODY + b"\r\n0\r\n"], "chunk_timeout"),
    ],
)
def test_request_that_does_not_go_on_is_refused(server: ServerProcess, parts: list[bytes], setting: str) -> None:
    answer = exchange(server.port, *parts)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert f"({setting})".encode() in answer


@pytest.mark.parametrize(
    ("start", "piece", "setting"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"a", "header_timeout"),
        (HEAD + b"Content-Length: 900\r\n\r\n", b" ", "body_timeout"),
        (HEAD + CHUNKED, b"1\r\n \r\n", "body_timeout"),
    ],
)
def test_request_that_arrives_too_slowly_is_refused(
    server: ServerProcess, start: bytes, piece: bytes, setting: str
) -> None:
    """Every piece comes in time, but the whole does not."""
    with connect(server.port) as connection:
        connection.sendall(start)
        connection.settimeout(0.1)
        answer, deadline = b"", time.monotonic() + 60
        while not answer and time.monotonic() < deadline:
            send(connection, [piece])
            try:
                answer = connection.recv(65_536)
            except TimeoutError:
                continue
        connection.settimeout(60)
        answer += read_until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert f"({setting})".encode() in answer


def test_silent_and_idle_connections_are_closed(server: ServerProcess) -> None:
    before = {reason: closed(server, reason) for reason in ("header_timeout", "idle_timeout")}
    with connect(server.port) as silent, connect(server.port) as idle:
        idle.sendall(GET)
        assert read_answers(idle, 1)[0][0] == 200
        assert read_until_closed(silent) == read_until_closed(idle) == b""
    assert closed(server, "header_timeout") == before["header_timeout"] + 1
    assert closed(server, "idle_timeout") == before["idle_timeout"] + 1


def test_answer_that_is_not_read_is_given_up(server: ServerProcess) -> None:
    body = json.dumps({"inputs": ["the cat"] * 400}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def given_up() -> bool:
        return 'closed_connections_total{reason="write_timeout"}' in server.request_raw("/metrics")[1].decode()

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", server.port))
        deadline = time.monotonic() + 60
        while not given_up():
            assert time.monotonic() < deadline
            try:
                send(connection, [request])
            except TimeoutError:
                continue
            time.sleep(0.1)


def test_oldest_body_gives_way_when_memory_is_short(server: ServerProcess, vector: list[list[float]]) -> None:
    padded = BODY + b" " * 60_000
    start = HEAD + b"Content-Length: %d\r\n\r\n" % len(padded)
    with connect(server.port) as first, connect(server.port) as second, connect(server.port) as third:
        for connection in (first, second, third):
            connection.sendall(start + padded[:-1])
            time.sleep(0.1)
        answer = read_until_closed(first)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"max_buffer_bytes" in answer
        for connection in (second, third):
            connection.sendall(padded[-1:])
            ((status, body),) = read_answers(connection, 1)
            assert status == 200
            np.testing.assert_allclose(json.loads(body), vector, atol=1e-6)


def test_bodies_that_were_given_up_take_no_memory(server: ServerProcess, vector: list[list[float]]) -> None:
    """Also while their answers are delayed, because many requests of this address were refused."""
    padded = BODY + b" " * 90_000
    before, given_up = closed(server, "chunk_timeout"), closed(server, "max_buffer_bytes")
    with contextlib.ExitStack() as stack:
        for connection in [stack.enter_context(connect(server.port)) for _ in range(24)]:
            connection.sendall(HEAD + b"Content-Length: 10000\r\n\r\n" + b" " * 6_000)
        deadline = time.monotonic() + 60
        while closed(server, "chunk_timeout") < before + 24:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.request("/embed", padded)[0] == 200
    assert closed(server, "max_buffer_bytes") == given_up


def test_new_connection_takes_the_place_of_an_unused_one(server: ServerProcess) -> None:
    """So clients behind one address are served even if others hold all the connections it may have."""
    with connect(server.port) as used:
        used.sendall(GET)
        assert read_answers(used, 1)[0][0] == 200
        unused = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(80)]
        for connection in unused[::2]:
            connection.sendall(b"POST /embed HT")
        used.sendall(HEAD + LENGTH + BODY)
        assert read_answers(used, 1)[0][0] == 200
        for _ in range(5):
            assert server.request("/embed", {"inputs": "the cat"})[0] == 200
        assert server.metric("lengthwise_connections") <= 61
        assert closed(server, "max_connections_per_address") >= 20
        assert closed(server, "max_connections") == 0
        for connection in unused:
            connection.close()


# What is allowed


@pytest.mark.parametrize(
    "framing", [LENGTH + BODY, CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"]
)
def test_request_in_single_bytes_is_served(server: ServerProcess, framing: bytes, vector: list[list[float]]) -> None:
    with connect(server.port) as connection:
        for byte in HEAD + framing:
            connection.sendall(bytes([byte]))
        ((status, body),) = read_answers(connection, 1)
    assert status == 200
    np.testing.assert_allclose(json.loads(body), vector, atol=1e-6)


def test_chunk_extensions_and_trailers_are_ignored(server: ServerProcess, vector: list[list[float]]) -> None:
    data = b"15;name=value\r\n" + BODY + b"\r\n0\r\nContent-Encoding: gzip\r\n\r\n"
    with connect(server.port) as connection:
        for _ in range(2):
            connection.sendall(HEAD + CHUNKED + data)
            ((status, body),) = read_answers(connection, 1)
            assert status == 200
            np.testing.assert_allclose(json.loads(body), vector, atol=1e-6)


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    bodies = [json.dumps({"inputs": ["the cat"] * (1 + number % 5)}).encode() for number in range(12)]
    data = b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies)
    with connect(server.port) as connection:
        for _ in range(3):
            connection.sendall(data)
            answers = read_answers(connection, len(bodies))
            assert [(status, len(json.loads(body))) for status, body in answers] == [
                (200, 1 + number % 5) for number in range(12)
            ]


def test_too_many_pipelined_requests_end_with_the_connection(server: ServerProcess) -> None:
    answer = exchange(server.port, GET * 500)
    assert 1 <= answer.count(b"HTTP/1.1 200 OK") < 30
    assert answer.count(b"connection: close") == 1


def test_error_does_not_cost_the_answer_of_an_earlier_request(server: ServerProcess) -> None:
    answer = exchange(server.port, HEAD + LENGTH + BODY + b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 400 Bad Request" in answer


@pytest.mark.parametrize("upgrade", [b"", b"Upgrade: h2c\r\n"])
def test_data_after_the_last_request_is_no_error(upgrade: bytes) -> None:
    """As with uvicorn alone, a request that ends the connection may be followed by others, which are not answered."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> tuple[bool, list[bytes]]:
        monitor = ConnectionMonitor(ServeSettings(), Metrics(), refuse=lambda error: error)
        config = Config(app)
        config.load()
        connection = Connection(config, ServerState(), {}, monitor=monitor)
        transport = MagicMock(**{"is_closing.return_value": False, "get_extra_info.return_value": None})
        connection.connection_made(transport)
        end = b"Connection: close" + (b", Upgrade\r\n" if upgrade else b"\r\n")
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade + end + b"\r\n" + GET)
        await asyncio.gather(*connection.tasks)
        return connection.is_refused, [call.args[0] for call in transport.write.call_args_list]

    is_refused, written = asyncio.run(receive())
    assert not is_refused
    assert [data.startswith(b"HTTP/1.1 204 ") for data in written if data] == [True]


def test_many_refused_requests_are_answered_later(server: ServerProcess) -> None:
    data = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(50)]
    for connection in connections:
        connection.sendall(data)
    assert server.request("/embed", {"inputs": "the cat"})[0] == 200
    for connection in connections:
        assert read_until_closed(connection).startswith(b"HTTP/1.1 431 ")
        connection.close()
