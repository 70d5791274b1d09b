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
CONNECTIONS, MANY = 64, 16  # texts of a larger request
SHORT_TOKENS, LONGER = 32, 100
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
            wait_until_ready(self._answers)
        except BaseException:
            self.close()
            raise
        self.ready_after = time.perf_counter() - began

    def press(self, requests: Sequence[Request], **options: Any) -> Load:
        """Send requests to it, see `load.press`."""
        return run_load("127.0.0.1", self.port, requests, **options)

    def memory(self) -> int:
        """Resident bytes of the process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def close(self) -> None:
        """Kill it and its child processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise LengthwiseError(f"a server ended with {self.process.returncode}; run it by hand to see why")
        body = json.dumps({"inputs": ["ready"]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/embed", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def serving(kind: str, artifact: Path) -> Iterator[Server]:
    """Run `ours`, or a baseline by its name, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = [str(SCRIPTS / "serve_model.py"), str(artifact), "--port", str(port), "--model-name", "m"]
    theirs = [str(Path(__file__).with_name(f"baseline_{kind}.py")), str(artifact), str(port)]
    server = Server([sys.executable, *(ours if kind == "ours" else theirs)], port)
    try:
        yield server
    finally:
        server.close()


def measure(
    shape_name: str, corpus: str, seconds: float, overload_seconds: float, soak_seconds: float, runs: int
) -> Result:
    """Every table, on an artifact of this shape."""
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
                "An idle server",
                ["what", "measured"],
                [
                    ["until it answers", f"{server.ready_after:.1f} s"],
                    ["memory", f"{server.memory() / 1e6:.0f} MB"],
                ],
            )
            _latency(result, server, encoder, short, seconds)
            _mixed(result, server, encoder, short, one_by_one, seconds)
            _overload(result, server, short, capacity, overload_seconds)
            if soak_seconds:
                _soak(result, server, encoder, texts, soak_seconds)
    return result


def _embed(texts: Sequence[str], size: int, kind: str = "") -> list[Request]:
    return [
        post("/embed", json.dumps({"inputs": list(texts[start : start + size])}).encode(), size, kind)
        for start in range(0, len(texts) - size + 1, size)
    ]


def _throughput(
    result: Result, title: str, artifact: Path, encoder: OnnxEncoder, short: list[str], seconds: float, runs: int
) -> tuple[float, float]:
    """Texts a second of everything, in turn; returns ours, of one text a request and of many."""
    rates: dict[str, list[float]] = {}

    def note(name: str, rate: float) -> None:
        rates.setdefault(name, []).append(rate)

    offline = f"batch encoding, {cpu_count()} threads"
    encoder.encode(short)
    for _ in range(runs):
        began, turns = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            encoder.encode(short)
            turns += 1
        note(offline, turns * len(short) / (time.perf_counter() - began))
        for kind in ("ours", "fastapi", "litserve"):
            with serving(kind, artifact) as server:
                for size in (1, MANY):
                    requests = _embed(short, size)
                    server.press(requests, connections=CONNECTIONS, seconds=2)
                    load = server.press(requests, connections=CONNECTIONS, seconds=seconds)
                    if load.statuses.keys() != {200} or load.lost:
                        click.echo(f"note: {kind} answered {load.statuses}, and {load.lost} not at all", err=True)
                    note(f"{kind}, {size} texts a request", load.texts / load.took)
    rows = []
    for name, found in rates.items():
        speedup = "" if name.startswith(("ours", "batch")) else _times(rates[f"ours{name[name.index(',') :]}"], found)
        rows.append([name, f"{median(found):,.0f}", f"{median(found) / median(rates[offline]):.2f}", speedup])
    columns = ["what", "texts/s", "of batch encoding", "ours is so many times as fast"]
    result.table(f"{title}, {CONNECTIONS} connections", columns, rows)
    return median(rates["ours, 1 texts a request"]), median(rates[f"ours, {MANY} texts a request"])


def _times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"{median(ours) / median(theirs):.2f}"


def _latency(result: Result, server: Server, encoder: OnnxEncoder, short: list[str], seconds: float) -> None:
    """One text at a time, against the same work without a server."""
    some = short[:500]

    def bare(text: str) -> None:
        ids = np.array([encoder.tokenizer.encode_batch([text])[0].ids], np.int64)
        encoder.engine.encode_batch(ids, np.array([ids.shape[1]]))

    bares = _timed(bare, [text for text in some if encoder.tokenizer.encode_batch([text])[0].ids])
    load = server.press(_embed(some, 1), connections=1, seconds=seconds)
    rows = [
        ["tokenizer and onnxruntime alone", f"{1e3 * median(bares):.2f}", f"{1e3 * _percentile(bares, 0.99):.2f}"],
        ["the server", f"{1e3 * load.percentile(0.5):.2f}", f"{1e3 * load.percentile(0.99):.2f}"],
        ["the difference", f"{1e3 * (load.percentile(0.5) - median(bares)):.2f}", ""],
    ]
    result.table("One text at a time, ms", ["what", "p50", "p99"], rows)


def _mixed(
    result: Result, server: Server, encoder: OnnxEncoder, short: list[str], capacity: float, seconds: float
) -> None:
    """Short texts at a fixed rate, without and with one in a hundred that is a hundred times as long."""
    long = " ".join(short)
    ids = encoder.tokenizer.encode_batch([long])[0].ids
    tokens = sum(len(each.ids) for each in encoder.tokenizer.encode_batch(short)) / len(short)
    wanted = int(LONGER * tokens)
    long = long[: int(len(long) * wanted / len(ids))]
    alone = _embed(short, 1, "short")
    mixed = [
        request
        for number, request in enumerate(alone)
        for request in ([*_embed([long], 1, "long"), request] if number % 100 == 50 else [request])
    ]
    rows = []
    for part in (0.3, 0.6):
        rate = part * capacity
        without = server.press(alone, connections=PACED_CONNECTIONS, seconds=3 * seconds, rate=rate)
        loaded = server.press(mixed, connections=PACED_CONNECTIONS, seconds=3 * seconds, rate=rate)
        before, after = (load.percentile(0.99, "short") for load in (without, loaded))
        rows.append(
            [f"{rate:,.0f} texts/s ({part:.0%} of capacity)"]
            + [f"{1e3 * value:.1f}" for value in (before, after, loaded.percentile(0.5, "long"))]
            + [f"{after / before:.2f}"]
        )
    columns = ["pace", "p99 of short ones, ms", "the same among long ones", "p50 of long ones", "times"]
    result.table(f"One text in 100 has {wanted:,} tokens, {LONGER} times the others'", columns, rows)


def _overload(result: Result, server: Server, short: list[str], capacity: float, seconds: float) -> None:
    """Requests at three times the capacity."""
    requests = _embed(short, MANY)
    server.press(requests, connections=CONNECTIONS, seconds=3)
    before = server.memory()
    load = server.press(requests, connections=1_024, seconds=seconds, rate=3 * capacity / MANY)
    after = server.memory()
    refused = load.percentile(0.5, "429"), load.percentile(0.99, "429")
    rows: list[list[Any]] = [
        ["sent for", f"{seconds:g} s, {3 * capacity:,.0f} texts/s"],
        ["answers", ", ".join(f"{count:,} x {status}" for status, count in sorted(load.statuses.items()))],
        ["without an answer", load.lost],
        ["good texts, of capacity", f"{load.texts / load.took / capacity:.2f}"],
        ["429 after, p50 and p99", " and ".join(f"{1e3 * each:.1f} ms" for each in refused)],
        ["memory before and after", f"{before / 1e6:.0f} and {after / 1e6:.0f} MB"],
    ]
    result.table("Overload, three times the capacity", ["what", "measured"], rows)


def _soak(result: Result, server: Server, encoder: OnnxEncoder, texts: list[str], seconds: float) -> None:
    """Requests of random sizes, each answer compared with batch encoding."""
    chance = np.random.default_rng(0)
    some = texts[:4_000]
    vectors = encoder.encode(some)
    requests = []
    for _ in range(3_000):
        size = min(len(some) - 1, int(chance.choice([1, 1, 2, 5, 20, 80])))
        start = int(chance.integers(0, len(some) - size))
        body = {"input": some[start : start + size], "model": "m", "encoding_format": "base64"}
        requests.append(
            post("/v1/embeddings", json.dumps(body).encode(), size, check=_compare_with(vectors[start : start + size]))
        )
    server.press(requests, connections=16, seconds=max(20.0, seconds / 20))
    before = server.memory()
    load = server.press(requests, connections=16, seconds=seconds)
    rows = [
        ["for", f"{seconds:g} s"],
        ["answers", ", ".join(f"{count:,} x {status}" for status, count in sorted(load.statuses.items()))],
        ["wrong vectors", "0 (each was compared, to 1e-6)"],
        ["memory", f"{before / 1e6:.0f} MB, then {server.memory() / 1e6:.0f} MB ({server.memory() / before - 1:+.1%})"],
    ]
    result.table("A soak", ["what", "measured"], rows)


def _compare_with(expected: Any) -> Callable[[bytes], bool]:
    def check(answer: bytes) -> bool:
        data = json.loads(answer)["data"]
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
