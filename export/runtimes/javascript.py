"""onnxruntime's JavaScript builds: onnxruntime-node in a Node process, onnxruntime-web (WebAssembly) in a browser.

Batches and results are exchanged as bytes (`javascript_driver/session.mjs` documents the format): with Node through
its standard input and output, with the browser over HTTP on this machine. The browser is any Chromium, headless.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime, check_output_names

DRIVER = Path(__file__).with_name("javascript_driver")
_PACKAGES = DRIVER / "node_modules"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_BROWSER_VARIABLE = "LENGTHWISE_BROWSER"
_BROWSER_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# A browser with a debugging pipe reads from descriptor 3 and writes to 4.
_WITH_PIPE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(os.open(os.devnull, os.O_WRONLY), 4);"
    " os.set_inheritable(3, True); os.set_inheritable(4, True);"
    " os.execv(sys.argv[2], sys.argv[2:])"
)
_START_SECONDS = 120.0
_RESPONSE_SECONDS = 300.0
_TYPES: Mapping[str, str] = MappingProxyType({"float32": "<f4", "int64": "<i8", "float64": "<f8"})


class _JavaScriptRuntime(Runtime):
    optional = True

    def load(self, path: Path) -> None:
        self._start(path)
        record, _ = _decode(self._receive(_START_SECONDS))
        check_output_names(record["outputs"])
        self._versions: dict[str, str] = record["versions"]

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        header = struct.pack("<II", *input_ids.shape)
        self._send(header + np.ascontiguousarray(input_ids).tobytes() + np.ascontiguousarray(attention_mask).tobytes())
        _, (vectors, states) = _decode(self._receive(_RESPONSE_SECONDS))
        return vectors, states

    def describe(self) -> dict[str, str]:
        return self._versions

    @abstractmethod
    def _start(self, path: Path) -> None:
        """Start loading a model; the first response reports the result."""

    @abstractmethod
    def _send(self, request: bytes) -> None:
        """Send a batch."""

    @abstractmethod
    def _receive(self, seconds: float) -> bytes:
        """The next response, within a timeout."""


class OnnxRuntimeNode(_JavaScriptRuntime):
    """onnxruntime-node, on the CPU."""

    name = "onnxruntime-node"
    _process: subprocess.Popen[bytes] | None = None

    def _start(self, path: Path) -> None:
        node = _installed("onnxruntime-node", "node", shutil.which("node"))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        command = [node, str(DRIVER / "node.mjs"), str(path.resolve())]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, cwd=DRIVER
            )
        except OSError as error:
            self._errors.close()
            raise NotRunnable(f"{node} cannot be started ({error})") from error

    def _send(self, request: bytes) -> None:
        stdin = _pipe(self._process, "stdin")
        try:
            stdin.write(struct.pack("<I", len(request)) + request)
            stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self._exit_reason()) from None

    def _receive(self, seconds: float) -> bytes:
        timer = threading.Timer(seconds, self._process.kill)  # type: ignore[union-attr]  # started
        timer.start()
        try:
            return self._read(struct.unpack("<I", self._read(4))[0])
        finally:
            timer.cancel()

    def _read(self, size: int) -> bytes:
        data = _pipe(self._process, "stdout").read(size)
        if len(data) < size:
            raise RuntimeError(self._exit_reason())
        return data

    def _exit_reason(self) -> str:
        """Why the process ended, from its stderr."""
        self._errors.seek(0)
        message = self._errors.read().decode(errors="replace").strip()
        return f"node ended: {message[-300:] or 'it was killed, or took too long'}"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._errors.close()
            self._process = None


class OnnxRuntimeWeb(_JavaScriptRuntime):
    """onnxruntime-web's WebAssembly build, on one thread, in a headless Chromium."""

    name = "onnxruntime-web (wasm)"
    _browser: subprocess.Popen[bytes] | None = None

    def _start(self, path: Path) -> None:
        named = os.environ.get(_BROWSER_VARIABLE)
        found = named or next(filter(None, map(shutil.which, _BROWSERS)), None)
        program = shutil.which(_installed("onnxruntime-web", "a Chromium or Chrome", found))
        if program is None:
            raise NotRunnable(f"{found} cannot be started; see {_BROWSER_VARIABLE}")
        if path.with_name(path.name + ".data").exists():
            raise NotRunnable("a graph above 2 GB, with its weights in a second file, cannot be sent to a browser")
        self._server = _Server(path)
        self._profile = tempfile.mkdtemp(prefix="lengthwise-browser-")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
        options = [*_BROWSER_OPTIONS, *sandbox, f"--user-data-dir={self._profile}"]
        self._browser = self._open_browser([program, *options, self._server.address])

    def _open_browser(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a browser that exits with this process, even if killed, because its debugging pipe closes."""
        read_end, self._pipe = os.pipe()
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WITH_PIPE, str(read_end), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(read_end,),
                process_group=0,
                env={**os.environ, "TMPDIR": self._profile},  # so its temporary files are deleted with the profile
            )
        finally:
            os.close(read_end)

    def _send(self, request: bytes) -> None:
        self._server.requests.put(request)

    def _receive(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return self._server.responses.get(timeout=1)
            if self._browser is None or self._browser.poll() is not None:
                raise RuntimeError("the browser ended without a response")
        raise RuntimeError(f"the browser gave no response within {seconds:.0f} s")

    def close(self) -> None:
        if self._browser is not None:
            os.close(self._pipe)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._browser.pid, 9)
            self._browser.wait()
            self._browser = None
            self._server.close()
            shutil.rmtree(self._profile, ignore_errors=True)


class _Server(ThreadingHTTPServer):
    """Serves the page, onnxruntime-web, the model and the batches, and receives the results.

    Attributes:
        secret: prefix of every path, which keeps out other pages and programs.
    """

    daemon_threads = True

    def __init__(self, model: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.secret = f"/{secrets.token_urlsafe()}/"
        self.address = f"http://127.0.0.1:{self.server_port}{self.secret}"
        self.requests: queue.Queue[bytes | None] = queue.Queue()
        self.responses: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.requests.put(None)
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:  # named by the base class
        name = self._resource()
        library = _PACKAGES / "onnxruntime-web/dist" / Path(name or "").name
        if name == "":
            self._reply(b'<!doctype html><script type="module" src="web.mjs"></script>', "text/html")
        elif name in ("web.mjs", "session.mjs"):
            self._reply((DRIVER / name).read_bytes(), "text/javascript")
        elif name == "model":
            self._reply(self.server.model.read_bytes(), "application/octet-stream")
        elif name == "request":
            request = self.server.requests.get()
            self._reply(request or b"", "application/octet-stream", 200 if request else 204)
        elif name is not None and name.startswith("ort/") and library.is_file():
            self._reply(library.read_bytes(), "application/wasm" if library.suffix == ".wasm" else "text/javascript")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        length = self.headers["Content-Length"]
        if self._resource() != "answer" or length is None:
            self.send_error(404)
            return
        self.server.responses.put(self.rfile.read(int(length)))
        self._reply(b"", "text/plain")

    def _resource(self) -> str | None:
        """The path after the secret; None without the secret."""
        return self.path.removeprefix(self.server.secret) if self.path.startswith(self.server.secret) else None

    def _reply(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the browser has ended
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def _installed(package: str, what: str, program: str | None) -> str:
    """The program; raises NotRunnable if it or the package is not installed."""
    if program is None:
        raise NotRunnable(f"{what} is not installed; install it, then run make runtimes")
    if not (_PACKAGES / package).is_dir():
        raise NotRunnable(f"{package} is not installed; run make runtimes (npm ci in export/runtimes/{DRIVER.name})")
    return program


def _pipe(process: subprocess.Popen[bytes] | None, name: str) -> IO[bytes]:
    pipe: IO[bytes] = getattr(process, name)
    return pipe


def _decode(response: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The record and the arrays of a response.

    Raises:
        RuntimeError: the response is an error message.
    """
    (length,) = struct.unpack_from("<I", response)
    record = json.loads(response[4 : 4 + length])
    if "error" in record:
        raise RuntimeError(record["error"])
    offset, arrays = 4 + -(-length // 4) * 4, []
    for array in record.get("arrays", ()):
        kind = np.dtype(_TYPES.get(array["type"], "<f4"))
        count = int(np.prod(array["dims"], dtype=np.int64))
        arrays.append(
            np.frombuffer(response, kind, count, offset).reshape(array["dims"]).astype(kind.newbyteorder("="))
        )
        offset += count * kind.itemsize
    return record, arrays
