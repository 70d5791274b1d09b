"""A server as a process of its own on loopback, and a client that sends what it is told, right or wrong."""

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

SECONDS = 60.0


class Served:
    """An artifact behind HTTP.

    Attributes:
        process: the server's.
        port: where it listens.
        said: the lines that it printed so far.
    """

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it; it listens, and may still be loading."""
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/serve_model.py"), str(folder), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.told("listening").rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def told(self, beginning: str) -> str:
        """The next line that begins so; the process has to say it, within a minute."""
        until = time.monotonic() + SECONDS
        while (line := self._lines.get(timeout=max(0.0, until - time.monotonic()))) is not None:
            if line.startswith(beginning):
                return line
        raise AssertionError(f"it ended without {beginning!r}: {''.join(self.said)}")

    def ready(self) -> Served:
        """Once it is."""
        self.told("ready")
        return self

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and answer, JSON as what it says; bytes and texts are sent as they are, the rest as JSON."""
        status, answer, found = self.exchange(path, body, method, headers)
        return status, json.loads(answer) if "json" in found.get("content-type", "") else answer

    def exchange(
        self, path: str, body: Any = None, method: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, bytes and headers of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        given = {"Content-Type": "application/json"} if body is not None else {}
        data = body if isinstance(body, bytes | str | None) else json.dumps(body)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, data, {**given, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.exchange("/metrics")[1].decode().splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Tell it to end; its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(SECONDS)

    def close(self) -> None:
        """Kill it, if it is still there."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.said.append(line)
            self._lines.put(line)
        self._lines.put(None)
