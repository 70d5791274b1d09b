"""The server: throughput against batch encoding and other servers, latency, long texts, overload, start-up, soak."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from lengthwise.cli.benchmarks.corpora import load_corpus
from lengthwise.cli.benchmarks.harness import Result, median
from lengthwise.cli.benchmarks.load import Load, Request, post, run_load, wait_until_ready
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.errors import LengthwiseError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.util.system import cpu_count

SCRIPTS = Path(__file__).parents[1]
CONNECTIONS = 64
START_SECONDS = 300.0  # at most; on a machine that is busy otherwise a start takes minutes
LARGE_REQUEST = 16  # texts
SHORT_TOKENS = 32  # at most, of a short text
LONG_FACTOR = 100  # tokens of a long text, relative to the mean of the short ones
PACED_CONNECTIONS = 256


class Server:
    """A server process.

    Attributes:
        ready_after: seconds from its start until it was ready.
    """

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.port = port
        began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=SCRIPTS.parent, start_new_session=True
        )
        try:
            wait_until_ready(self._is_ready, START_SECONDS)
        except BaseException:
            self.close()
            raise
        self.ready_after = time.perf_counter() - began

    def send(self, requests: Sequence[Request], **options: Any) -> Load:
        """Send requests to it, see `load.send_requests`."""
        return run_load("127.0.0.1", self.port, requests, **options)

    def memory(self) -> int:
        """Resident bytes of the process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # as clock_getcpuclockid(3) names its clock on Linux

    def info(self) -> dict[str, Any]:
        """The answer to GET /info."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/info", timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def close(self) -> None:
        """Kill it and its child processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise LengthwiseError(
                f"the server exited with status {self.process.returncode}; run it by hand to see the error"
            )
        body = json.dumps({"inputs": ["ready"]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/embed", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@contextmanager
def serving(kind: str, artifact: Path, *options: str) -> Iterator[Server]:
    """Run `ours`, with these options, or a baseline of this name on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = [str(SCRIPTS / "serve_model.py"), str(artifact), "--port", str(port), "--model-name", "m", *options]
    theirs = [str(Path(__file__).with_name(f"baseline_{kind}.py")), str(artifact), str(port)]
    server = Server([sys.executable, *(ours if kind == "ours" else theirs)], port)
    try:
        yield server
    finally:
        server.close()


def measure(
    shape_name: str, corpus: str, seconds: float, overload_seconds: float, soak_seconds: float, runs: int
) -> Result:
    """Measure everything on an artifact of this shape."""
    texts, tokenizer = load_corpus(corpus)
    result = Result("serve")
    with tempfile.TemporaryDirectory() as name:
        artifact = Path(name) / "artifact"
        build_artifact(SHAPES[shape_name].encoder(tokenizer.vocab_size), tokenizer, artifact)
        encoder = OnnxEncoder.load(artifact)
        short = [text for text in texts[:20_000] if len(encoder.tokenizer.encode_batch([text])[0]) <= SHORT_TOKENS]
        short = short[:4_096]
        title = f"{SHAPES[shape_name]}, texts of at most {SHORT_TOKENS} tokens"
        one_by_one, capacity = _throughput(result, title, artifact, encoder, short, seconds, runs)
        with serving("ours", artifact) as server:
            result.table(
                "Idle server",
                ["quantity", "value"],
                [
                    ["start-up", f"{server.ready_after:.1f} s"],
                    ["memory", f"{server.memory() / 1e6:.0f} MB"],
                ],
            )
            _latency(result, server, encoder, short, seconds)
            _mixed(result, server, encoder, short, one_by_one, seconds)
            _overload(result, server, short, capacity, overload_seconds)
            if soak_seconds:
                _soak(result, server, encoder, texts, soak_seconds)
    return result


def embed_requests(texts: Sequence[str], size: int, kind: str = "") -> list[Request]:
    """Requests of so many texts each."""
    return [
        post("/embed", json.dumps({"inputs": list(texts[start : start + size])}).encode(), size, kind)
        for start in range(0, len(texts) - size + 1, size)
    ]


def _throughput(
    result: Result, title: str, artifact: Path, encoder: OnnxEncoder, short: list[str], seconds: float, runs: int
) -> tuple[float, float]:
    """Measure texts per second of each server and of batch encoding in alternation.

    Returns:
        Texts per second of our server, with one text per request and with `LARGE_REQUEST`.
    """
    rates: dict[str, list[float]] = {}

    def note(name: str, rate: float) -> None:
        rates.setdefault(name, []).append(rate)

    offline = f"batch encoding, {cpu_count()} threads"
    encoder.encode(short)
    for _ in range(runs):
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            encoder.encode(short)
            rounds += 1
        note(offline, rounds * len(short) / (time.perf_counter() - began))
        for kind in ("ours", "fastapi", "litserve"):
            with serving(kind, artifact) as server:
                for size in (1, LARGE_REQUEST):
                    requests = embed_requests(short, size)
                    server.send(requests, connections=CONNECTIONS, seconds=2)
                    load = server.send(requests, connections=CONNECTIONS, seconds=seconds)
                    if load.statuses.keys() != {200} or load.lost:
                        click.echo(f"note: {kind} responded {load.statuses}, and to {load.lost} not at all", err=True)
                    note(f"{kind}, {size} texts per request", load.texts / load.took)
    rows = []
    for name, found in rates.items():
        speedup = "" if name.startswith(("ours", "batch")) else _times(rates[f"ours{name[name.index(',') :]}"], found)
        rows.append([name, f"{median(found):,.0f}", f"{median(found) / median(rates[offline]):.2f}", speedup])
    columns = ["side", "texts/s", "of batch encoding", "speedup of ours"]
    result.table(f"{title}, {CONNECTIONS} connections", columns, rows)
    return median(rates["ours, 1 texts per request"]), median(rates[f"ours, {LARGE_REQUEST} texts per request"])


def _times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"{median(ours) / median(theirs):.2f}"


def _latency(result: Result, server: Server, encoder: OnnxEncoder, short: list[str], seconds: float) -> None:
    """Measure one text at a time, against the same work without a server."""
    some = short[:500]

    def encode_directly(text: str) -> None:
        ids = np.array([encoder.tokenizer.encode_batch([text])[0].ids], np.int64)
        encoder.engine.encode_batch(ids, np.array([ids.shape[1]]))

    direct = _timed(encode_directly, [text for text in some if encoder.tokenizer.encode_batch([text])[0].ids])
    load = server.send(embed_requests(some, 1), connections=1, seconds=seconds)
    rows = [
        ["tokenizer and onnxruntime alone", f"{1e3 * median(direct):.2f}", f"{1e3 * _percentile(direct, 0.99):.2f}"],
        ["the server", f"{1e3 * load.percentile(0.5):.2f}", f"{1e3 * load.percentile(0.99):.2f}"],
        ["the difference", f"{1e3 * (load.percentile(0.5) - median(direct)):.2f}", ""],
    ]
    result.table("One text at a time, ms", ["side", "p50", "p99"], rows)


def _mixed(
    result: Result, server: Server, encoder: OnnxEncoder, short: list[str], capacity: float, seconds: float
) -> None:
    """Measure short texts at a fixed rate, without and with 1 long text in 100."""
    long = " ".join(short)
    ids = encoder.tokenizer.encode_batch([long])[0].ids
    tokens = sum(len(each.ids) for each in encoder.tokenizer.encode_batch(short)) / len(short)
    long_tokens = int(LONG_FACTOR * tokens)
    long = long[: int(len(long) * long_tokens / len(ids))]
    alone = embed_requests(short, 1, "short")
    mixed = [
        request
        for number, request in enumerate(alone)
        for request in ([*embed_requests([long], 1, "long"), request] if number % 100 == 50 else [request])
    ]
    rows = []
    for part in (0.3, 0.6):
        rate = part * capacity
        without = server.send(alone, connections=PACED_CONNECTIONS, seconds=3 * seconds, rate=rate)
        loaded = server.send(mixed, connections=PACED_CONNECTIONS, seconds=3 * seconds, rate=rate)
        before, after = (load.percentile(0.99, "short") for load in (without, loaded))
        rows.append(
            [f"{rate:,.0f} texts/s ({part:.0%} of capacity)"]
            + [f"{1e3 * value:.1f}" for value in (before, after, loaded.percentile(0.5, "long"))]
            + [f"{after / before:.2f}"]
        )
    columns = ["rate", "p99 of short texts, ms", "the same among long texts", "p50 of long texts", "ratio"]
    result.table(
        f"One text in 100 has {long_tokens:,} tokens, {LONG_FACTOR} times the mean of the others", columns, rows
    )


def _overload(result: Result, server: Server, short: list[str], capacity: float, seconds: float) -> None:
    """Send requests at three times the capacity."""
    requests = embed_requests(short, LARGE_REQUEST)
    server.send(requests, connections=CONNECTIONS, seconds=3)
    before = server.memory()
    load = server.send(requests, connections=1_024, seconds=seconds, rate=3 * capacity / LARGE_REQUEST)
    after = server.memory()
    refused = load.percentile(0.5, "429"), load.percentile(0.99, "429")
    rows: list[list[Any]] = [
        ["load", f"{seconds:g} s, {3 * capacity:,.0f} texts/s"],
        ["responses", ", ".join(f"{count:,} x {status}" for status, count in sorted(load.statuses.items()))],
        ["without a response", load.lost],
        ["goodput, of capacity", f"{load.texts / load.took / capacity:.2f}"],
        ["latency of a 429, p50 and p99", " and ".join(f"{1e3 * each:.1f} ms" for each in refused)],
        ["memory before and after", f"{before / 1e6:.0f} and {after / 1e6:.0f} MB"],
    ]
    result.table("Overload, three times the capacity", ["quantity", "value"], rows)


def _soak(result: Result, server: Server, encoder: OnnxEncoder, texts: list[str], seconds: float) -> None:
    """Send requests of random sizes, and compare each response with batch encoding."""
    rng = np.random.default_rng(0)
    some = texts[:4_000]
    vectors = encoder.encode(some)
    requests = []
    for _ in range(3_000):
        size = min(len(some) - 1, int(rng.choice([1, 1, 2, 5, 20, 80])))
        start = int(rng.integers(0, len(some) - size))
        body = {"input": some[start : start + size], "model": "m", "encoding_format": "base64"}
        requests.append(
            post("/v1/embeddings", json.dumps(body).encode(), size, check=_compare_with(vectors[start : start + size]))
        )
    server.send(requests, connections=16, seconds=max(20.0, seconds / 20))
    before = server.memory()
    load = server.send(requests, connections=16, seconds=seconds)
    rows = [
        ["duration", f"{seconds:g} s"],
        ["responses", ", ".join(f"{count:,} x {status}" for status, count in sorted(load.statuses.items()))],
        ["wrong vectors", "0 (each response was compared, to 1e-6)"],
        ["memory", f"{before / 1e6:.0f} MB, then {server.memory() / 1e6:.0f} MB ({server.memory() / before - 1:+.1%})"],
    ]
    result.table("Soak", ["quantity", "value"], rows)


def _compare_with(expected: Any) -> Callable[[bytes], bool]:
    def check(body: bytes) -> bool:
        data = json.loads(body)["data"]
        found = np.stack([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data])
        return bool(np.abs(found - expected).max() <= 1e-6)

    return check


def _timed(function: Callable[[str], None], items: Sequence[str]) -> list[float]:
    seconds = []
    for item in items:
        began = time.perf_counter()
        function(item)
        seconds.append(time.perf_counter() - began)
    return seconds


def _percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[int(part * len(values))]
