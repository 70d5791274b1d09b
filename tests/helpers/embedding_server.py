"""A small server of embeddings in a thread, with faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Encode = Callable[[list[str]], Any]  # to vectors that JSON can hold


@contextmanager
def serving(
    encode: Encode,
    *,
    interface: str = "openai",
    info: dict[str, Any] | None = None,
    hang: Callable[[int], bool] | None = None,
) -> Iterator[str]:
    """The address of a server.

    Args:
        encode: the vectors of a request; a ValueError becomes HTTP 413.
        interface: openai or tei.
        info: what `/info` says.
        hang: whether to keep silent, by the number of the request.
    """
    requests = 0
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._answer(200, {"data": [{"id": "small"}]})
            elif self.path == "/info" and info is not None:
                self._answer(200, info)
            else:
                self._answer(404, {"error": "no such route"})

        def do_POST(self) -> None:
            nonlocal requests
            requests += 1
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if hang is not None and hang(requests):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not released.wait(0.05):
                    try:
                        self.wfile.write(b"x: y\r\n")  # a byte now and then
                        self.wfile.flush()
                    except OSError:
                        return
                return
            if self.path != {"openai": "/v1/embeddings", "tei": "/embed"}[interface]:
                self._answer(404, {"error": "no such route"})
                return
            try:
                vectors = encode(body["inputs" if interface == "tei" else "input"])
            except ValueError as error:
                self._answer(413, {"error": str(error)})
                return
            found = vectors.tolist() if isinstance(vectors, np.ndarray) else vectors
            rows = [{"index": number, "embedding": vector} for number, vector in enumerate(found)]
            self._answer(200, found if interface == "tei" else {"data": rows[::-1]})

        def _answer(self, status: int, record: Any) -> None:
            data = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        released.set()
        server.shutdown()
        server.server_close()


def race(encode: Encode) -> Encode:
    """The same with one buffer for all requests."""
    buffer: list[str] = []

    def racing(texts: list[str]) -> Any:
        nonlocal buffer
        buffer = texts
        time.sleep(0.02)
        return encode((buffer * len(texts))[: len(texts)])

    return racing
