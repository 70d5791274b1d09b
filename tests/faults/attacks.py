"""Hostile clients, in a process of their own: `python attacks.py PORT KIND CONNECTIONS` attacks until it is killed.

Every connection that the server closes is opened again after a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable

HEAD = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"inputs": ["the cat"] * 400}).encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REOPEN_SECONDS = 0.5

Writer = asyncio.StreamWriter


async def send(writer: Writer, data: bytes, seconds: float = 0.0) -> None:
    """Send some bytes, as soon as the server reads them, and pause."""
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(seconds)


async def header_without_end(writer: Writer) -> None:
    await send(writer, b"GET / HTTP/1.1\r\n")
    while True:
        await send(writer, b"X-Field: " + b"a" * 1_000 + b"\r\n")


async def field_without_end(writer: Writer) -> None:
    await send(writer, b"GET / HTTP/1.1\r\nX-Field: ")
    while True:
        await send(writer, b"a" * 1_000)


async def target_without_end(writer: Writer) -> None:
    await send(writer, b"GET /")
    while True:
        await send(writer, b"a" * 1_000)


async def many_fields(writer: Writer) -> None:
    await send(writer, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 3_000)


async def half_request_line(writer: Writer) -> None:
    await send(writer, b"POST /emb")


async def half_header(writer: Writer) -> None:
    await send(writer, HEAD[:50])


async def large_half_header(writer: Writer) -> None:
    await send(writer, b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: " % n + b"a" * 150 + b"\r\n" for n in range(95)))


async def half_body(writer: Writer) -> None:
    await send(writer, HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[: len(BODY) // 2])


async def large_half_body(writer: Writer) -> None:
    await send(writer, HEAD + b"Content-Length: 2000000\r\n\r\n" + b" " * 1_900_000)


async def silence(writer: Writer) -> None:
    await send(writer, b"")


async def byte_at_a_time(writer: Writer) -> None:
    for byte in itertools.chain(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY):
        await send(writer, bytes([byte]), 0.5)


async def body_byte_at_a_time(writer: Writer) -> None:
    await send(writer, HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY))
    for byte in BODY:
        await send(writer, bytes([byte]), 0.5)


async def small_chunks(writer: Writer) -> None:
    await send(writer, CHUNKED)
    while True:
        await send(writer, b"1\r\n \r\n" * 20, 0.5)


async def chunk_extension(writer: Writer) -> None:
    await send(writer, CHUNKED + b"1;")
    while True:
        await send(writer, b"a" * 1_000)


async def trailers(writer: Writer) -> None:
    await send(writer, CHUNKED + b"15\r\n" + b'{"inputs": "the cat"}' + b"\r\n0\r\n")
    while True:
        await send(writer, b"X-Field: " + b"a" * 1_000 + b"\r\n")


async def pipelining(writer: Writer) -> None:
    while True:
        await send(writer, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 500)


async def unread_answers(writer: Writer) -> None:
    await send(writer, b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n" * 16)


async def slow_reader(writer: Writer) -> None:
    await send(writer, b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n" * 16)


KINDS: dict[str, Callable[[Writer], Awaitable[None]]] = {
    function.__name__: function
    for function in (
        header_without_end,
        field_without_end,
        target_without_end,
        many_fields,
        half_request_line,
        half_header,
        large_half_header,
        half_body,
        large_half_body,
        silence,
        byte_at_a_time,
        body_byte_at_a_time,
        small_chunks,
        chunk_extension,
        trailers,
        pipelining,
        unread_answers,
        slow_reader,
    )
}
READING = {"slow_reader": (1, 0.5), "unread_answers": (0, 0.5)}  # bytes, and seconds between them


async def attack(port: int, kind: str) -> None:
    """One connection, opened again and again."""
    size, seconds = READING.get(kind, (65_536, 0.0))
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), socket.socket() as connection:
            if kind in READING:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=connection, limit=1)
            sending = asyncio.ensure_future(KINDS[kind](writer))
            try:
                while not size or await reader.read(size):
                    await asyncio.sleep(seconds)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                writer.transport.abort()
        await asyncio.sleep(REOPEN_SECONDS)


async def main(port: int, kind: str, connections: int) -> None:
    """Attack with many connections."""
    kinds = list(KINDS) if kind == "all" else [kind]
    await asyncio.gather(*(attack(port, each) for each, _ in zip(itertools.cycle(kinds), range(connections))))


if __name__ == "__main__":
    os.nice(19)  # real ones have processors of their own
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
