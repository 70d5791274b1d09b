"""Bytes over a socket: what a server sends back to them, and whether it closes the connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence

HEAD = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs": "the cat"}'
LENGTH = b"Content-Length: 21\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def connect(port: int, seconds: float = 60.0) -> Iterator[socket.socket]:
    """A connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def read_until_closed(connection: socket.socket) -> bytes:
    """Everything that arrives until the other side closes the connection; it must do so within the timeout."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            answer += part
    return answer


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of the next answers, which have a Content-Length and stand one after the other."""
    received, answers = b"", []
    while len(answers) < count:
        head, end, rest = received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if end and len(rest) >= length:
            answers.append((int(head[9:12]), rest[:length]))
            received = rest[length:]
            continue
        part = connection.recv(65_536)
        assert part, (answers, received)
        received += part
    return answers


def exchange(port: int, *parts: bytes) -> bytes:
    """Send some parts, each in a segment of its own, and read until the server closes the connection."""
    with connect(port) as connection:
        send(connection, parts)
        return read_until_closed(connection)


def send(connection: socket.socket, parts: Sequence[bytes]) -> None:
    """Send parts until the server closes the connection."""
    with contextlib.suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
