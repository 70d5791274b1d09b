"""A server in a process of its own, on loopback, and a client that sends valid and malformed requests to it."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

TIMEOUT_SECONDS = 60.0


class ServerProcess:
    """A process that serves an artifact.

    Attributes:
        process: the process.
        port: the port that it listens on.
        output: the lines that it has printed so far, standard error included.
    """

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it, and wait until it listens; it may still be loading the model."""
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/serve_model.py"), str(folder), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.wait_for_line("listening").rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for_line(self, prefix: str) -> str:
        """The next line with this prefix; the process must print it within a minute."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (line := self._lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            if line.startswith(prefix):
                return line
        raise AssertionError(f"the server ended without printing {prefix!r}: {''.join(self.output)}")

    def wait_until_ready(self) -> ServerProcess:
        """Wait until the model is loaded."""
        self.wait_for_line("ready")
        return self

    def request(
        self, path: str, body: Any = None, method: str | None = None, headers: Mapping[str, str | bytes] | None = None
    ) -> tuple[int, Any]:
        """Send a request over a connection of its own.

        Args:
            body: bytes and strings are sent unchanged, other values as JSON.
            method: GET without a body and POST with one, by default.

        Returns:
            The status, and the body of the answer: parsed if it is JSON, otherwise bytes.
        """
        status, answer, answer_headers = self.request_raw(path, body, method, headers)
        return status, json.loads(answer) if "json" in answer_headers.get("content-type", "") else answer

    def request_raw(
        self, path: str, body: Any = None, method: str | None = None, headers: Mapping[str, str | bytes] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of an answer, the names of the headers in lower case; arguments as in `request`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        default: dict[str, str | bytes] = {"Content-Type": "application/json"} if body is not None else {}
        data = body if isinstance(body, bytes | str | None) else json.dumps(body)
        method = method or ("GET" if body is None else "POST")
        try:
            connection.request(method, path, data, {**default, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.request_raw("/metrics")[1].decode().splitlines()
        samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def terminate(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end of the process; its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(TIMEOUT_SECONDS)

    def close(self) -> None:
        """Kill the process if it is still running."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.output.append(line)
            self._lines.put(line)
        self._lines.put(None)
