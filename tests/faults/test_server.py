"""A server that is terminated under load, gets malformed requests, and runs for a long time."""

from __future__ import annotations

import base64
import json
import random
import signal
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.form import cases
from helpers.serving import ServerProcess
from helpers.texts import TEXTS
from lengthwise.cli.benchmarks.load import Request, post, run_load
from lengthwise.export.artifact.engine import OnnxEncoder

OPTIONS = ("--model-name", "m", "--max-request-bytes", "100000", "--max-text-tokens", "256")
VALID_STATUSES = {200, 400, 404, 405, 408, 413, 415, 422}
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
STATUSES: Counter[int] = Counter()


@pytest.fixture(scope="module")
def server(_built_artifact: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(_built_artifact, *OPTIONS).wait_until_ready()
    yield server
    print(f"\nstatuses of malformed requests: {dict(STATUSES)}")  # noqa: T201
    assert server.process.poll() is None
    server.close()


@pytest.fixture(scope="module")
def expected(_built_artifact: Path) -> Any:
    """Texts of many lengths and their vectors, from batch encoding."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(TEXTS, k=chance.choice([1, 1, 1, 2, 5]))) for _ in range(200)]
    return texts, OnnxEncoder.load(_built_artifact).encode(texts)


def requests(expected: Any, sizes: tuple[int, ...] = (1, 2, 7)) -> list[Request]:
    """Requests whose responses are compared with the expected vectors."""
    texts, vectors = expected
    found = []
    for start in range(0, len(texts) - max(sizes)):
        size = sizes[start % len(sizes)]
        body = {"input": texts[start : start + size], "model": "m", "encoding_format": "base64"}

        def check(response: bytes, start: int = start, size: int = size) -> bool:
            data = json.loads(response)["data"]
            got = np.stack([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data])
            return bool(np.abs(got - vectors[start : start + size]).max() <= 1e-6)

        found.append(post("/v1/embeddings", json.dumps(body).encode(), size, check=check))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(cases(1, 20)))
def test_termination_under_load_loses_no_request(artifact_folder: Path, expected: Any, number: int) -> None:
    """Every request that was read gets a response: its vectors, or 503 and a closed connection."""
    server = ServerProcess(artifact_folder, *OPTIONS, "--shutdown-delay", "0.5").wait_until_ready()
    try:
        delay = random.Random(number).uniform(0.3, 1.2)
        threading.Timer(delay, server.process.send_signal, [signal.SIGTERM]).start()
        until = lambda: server.process.poll() is not None  # noqa: E731
        load = run_load("127.0.0.1", server.port, requests(expected), connections=16, seconds=60, until=until)
        assert server.process.wait(60) == 0
        assert load.statuses.keys() <= {200, 503}
        assert load.statuses[200] > 10
        assert load.lost == 0
    finally:
        server.close()


@pytest.mark.slow
def test_sustained_load(server: ServerProcess, expected: Any) -> None:
    """36,000 requests of mixed sizes in the whole form: no wrong vector, and no growth of memory."""

    def memory() -> int:
        lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    every = requests(expected, (1, 1, 3, 20, 60))
    rate = cases(40, 200)
    run_load("127.0.0.1", server.port, every, connections=8, seconds=cases(2, 20), rate=rate)
    before = memory()
    load = run_load("127.0.0.1", server.port, every, connections=8, seconds=cases(3, 180), rate=rate)
    grown = memory() / before - 1
    print(f"\n{sum(load.statuses.values()):,} requests in {load.took:.0f} s; memory grew by {grown:.1%}")  # noqa: T201
    assert load.statuses.keys() == {200}
    assert grown <= 0.05


# Malformed requests


def send_raw(server: ServerProcess, data: bytes) -> int:
    """The status of the response to some bytes; 0 if the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return int(answer[9:12]) if answer else 0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\0", "\ud800", 10**40, -1, 2**31, 2**63, [], {}, "moon " * 300]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = {
    "/embed": ["inputs", "truncate", "normalize"],
    "/predict": ["inputs", "truncate", "raw_scores"],
    "/tokenize": ["inputs", "add_special_tokens"],
    "/v1/embeddings": ["input", "model", "encoding_format", "dimensions", "user"],
    "/v2/models/m/infer": ["id", "inputs", "outputs"],
}
VALID_BODIES: dict[str, Any] = {
    "/embed": {"inputs": ["the cat"]},
    "/predict": {"inputs": [["the cat"]]},
    "/tokenize": {"inputs": "the cat"},
    "/v1/embeddings": {"input": [[2, 3]], "model": "m"},
    "/v2/models/m/infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
}
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["text", "input_ids", "attention_mask"]) | JSON,
        "datatype": st.sampled_from(["BYTES", "INT64", "INT32"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data": st.lists(st.integers(-1, 30) | st.text(max_size=3) | st.lists(st.integers(0, 9), max_size=3)) | JSON,
    },
)


def almost_valid(path: str) -> st.SearchStrategy[Any]:
    """Almost valid bodies."""
    values = JSON | st.lists(TENSOR, max_size=3) | st.lists(st.text(max_size=5), max_size=5)
    changes = st.dictionaries(st.sampled_from(KEYS[path]), values, max_size=3)
    return JSON | changes.map(lambda change: {**VALID_BODIES[path], **change})


@pytest.mark.slow
@pytest.mark.parametrize("path", VALID_BODIES)
@settings(max_examples=cases(60, 2_000), deadline=None, suppress_health_check=CHECKS)
@given(data=st.data())
def test_arbitrary_json_bodies(server: ServerProcess, path: str, data: st.DataObject) -> None:
    body = json.dumps(data.draw(almost_valid(path))).encode()
    status, answer = server.request(path, body)
    STATUSES[status] += 1
    assert status in VALID_STATUSES
    assert status == 200 or "error" in answer
    if STATUSES.total() % 50 == 0:
        assert server.request("/embed", {"inputs": "the cat"})[0] == 200


@pytest.mark.slow
@settings(max_examples=cases(100, 2_000), deadline=None, suppress_health_check=CHECKS)
@given(path=st.sampled_from(list(VALID_BODIES)), body=st.binary(max_size=60), chance=st.randoms(use_true_random=False))
def test_arbitrary_bodies(server: ServerProcess, path: str, body: bytes, chance: random.Random) -> None:
    whole = json.dumps(VALID_BODIES[path]).encode()
    place = chance.randrange(len(whole))
    damaged = chance.choice([body, whole[:place], whole[:place] + body + whole[place:], whole[:place] + body])
    status = server.request(path, damaged)[0]
    STATUSES[status] += 1
    assert status in VALID_STATUSES


MALFORMED_HEADS = [
    b"POST /embed HTTP/1.1\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 9_000 + b"\r\n",
    b"GET /v2/models/%00%ff/infer HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n" * 100,
]


@pytest.mark.parametrize("number", range(len(MALFORMED_HEADS)))
def test_malformed_heads(server: ServerProcess, number: int) -> None:
    assert send_raw(server, MALFORMED_HEADS[number]) in {0, *VALID_STATUSES, 431}
    assert server.request("/health/ready")[0] == 200


@pytest.mark.slow
@settings(max_examples=cases(60, 1_500), deadline=None, suppress_health_check=CHECKS)
@given(data=st.binary(max_size=80), place=st.integers(0, 200))
def test_arbitrary_heads(server: ServerProcess, data: bytes, place: int) -> None:
    body = b'{"inputs": "the cat"}'
    head = (
        b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 21"
    )
    whole = head + b"\r\n\r\n" + body
    status = send_raw(server, whole[:place] + data + whole[place:])
    STATUSES[status] += 1
    assert status in {0, *VALID_STATUSES, 431, 501}


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": ' + b"[" * 49_000 + b"]" * 49_000 + b"}",
        b'{"a": ' * 15_000 + b"1" + b"}" * 15_000,
        b'{"inputs": "' + b"\\u0000" * 15_000 + b'"}',
        b'{"inputs": [' + b'"a",' * 24_000 + b'"a"]}',
        b'{"inputs": ' + b"9" * 90_000 + b"}",
        json.dumps({"inputs": "\u0301" * 14_000}).encode(),
        json.dumps({"inputs": ["moon"], "inputs ": {"a": [1] * 20_000}}).encode(),
    ],
    ids=["lists", "objects", "nul", "items", "digits", "accents", "more"],
)
def test_hostile_bodies(server: ServerProcess, body: bytes) -> None:
    began = time.monotonic()
    assert server.request("/embed", body)[0] in VALID_STATUSES
    assert time.monotonic() - began < 20
    assert server.request("/health/ready")[0] == 200


def test_compressed_body_is_refused(server: ServerProcess) -> None:
    bomb = zlib.compress(b" " * 50_000_000)
    for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
        assert server.request("/embed", bomb, headers={"Content-Encoding": encoding})[0] == 415


def test_malformed_requests_do_not_affect_valid_ones(server: ServerProcess, expected: Any) -> None:
    """Under concurrent load."""
    bad = [
        post("/embed", json.dumps({"inputs": ["a", None]}).encode(), 0),
        post("/v1/embeddings", json.dumps({"input": [[1], [10**9]], "model": "m"}).encode(), 0),
        post("/embed", json.dumps({"inputs": "moon " * 300}).encode(), 0),
        post("/embed", b'{"inputs": ', 0),
    ]
    mixed = [request for pair in zip(requests(expected), bad * 60, strict=False) for request in pair]
    load = run_load("127.0.0.1", server.port, mixed, connections=12, seconds=cases(3, 30))
    assert load.statuses.keys() == {200, 400, 422}
    assert load.lost == 0
