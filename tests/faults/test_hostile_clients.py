"""Hundreds of hostile connections: another client is served as before, and the server's memory hardly grows."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from faults import attacks
from faults.form import WHOLE, cases
from helpers.serving import ServerProcess
from lengthwise.cli.benchmarks.load import Load, Request, post, run_load

CONNECTIONS = cases(100, 300)
SECONDS = cases(2, 5)  # of requests during an attack
CALM_SECONDS, CALM_PHASES = cases(1, 2), 5  # what a p99 is compared with: this many of so many seconds
REPETITIONS, CLEAR_RATIO, MAX_RATIO = cases(1, 3), 1.7, 2  # an attack is repeated unless its first ratio is clear
MAX_GROWTH = 64 * 2**20
BODY = json.dumps({"inputs": "the cat sat"}).encode()
REQUESTS = [post("/embed", BODY, 1)]
LARGE = post("/embed", BODY + b" " * 200_000, 1, "large")
# Within the seconds of an attack, all of them end connections.
TIMEOUTS = {"header": 1, "chunk": 0.8, "body": 2, "idle": 2, "write": 2}
# Fewer connections than the hostile ones.
LIMITS = {
    "all": {"max-connections": 60, "max-buffer-bytes": 4_000_000},
    "half_body": {"max-connections": 80, "max-request-bytes": 250_000, "max-buffer-bytes": 250_000},
}


class GoodClient:
    """Sends requests to a server that is attacked by others, and compares its latencies with those between attacks."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._calm: deque[Load] = deque(maxlen=CALM_PHASES)
        send_requests(server, seconds=CALM_SECONDS)
        self.measure_calm()
        self.memory = read_memory(server, "VmRSS")

    def measure_calm(self) -> None:
        """Measure latencies without an attack."""
        self._calm.append(send_requests(self._server, seconds=CALM_SECONDS))

    def measure_attack(self, kind: str) -> float:
        """The p99 during an attack, over that of the calm phases before and after it."""
        with attacked(self._server, kind):
            load = send_requests(self._server)
        time.sleep(0.5)  # in which the server ends the connections
        self.measure_calm()
        calm = Load(seconds={"": [seconds for phase in self._calm for seconds in phase.seconds[""]]})
        return load.percentile(0.99) / calm.percentile(0.99)


@pytest.fixture(scope="module")
def server(_built_artifact: Path) -> Iterator[ServerProcess]:
    """One server for all kinds of attacks."""
    server = ServerProcess(_built_artifact).wait_until_ready()
    yield server
    assert server.process.poll() is None
    server.close()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> GoodClient:
    return GoodClient(server)


@pytest.fixture
def limited_server(_built_artifact: Path, kind: str) -> Iterator[ServerProcess]:
    limits = {**{f"{name}-timeout": seconds for name, seconds in TIMEOUTS.items()}, **LIMITS[kind]}
    options = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
    server = ServerProcess(_built_artifact, *options).wait_until_ready()
    yield server
    assert server.process.poll() is None
    server.close()


@contextlib.contextmanager
def attacked(server: ServerProcess, kind: str, connections: int = CONNECTIONS) -> Iterator[None]:
    """Hostile connections from another process, after their start."""
    command = [sys.executable, attacks.__file__, str(server.port), kind, str(connections)]
    process = subprocess.Popen(command)
    try:
        time.sleep(2)
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def send_requests(
    server: ServerProcess, requests: Sequence[Request] = REQUESTS, connections: int = 4, seconds: float = SECONDS
) -> Load:
    """The requests of a good client, which must all be served."""
    load = run_load("127.0.0.1", server.port, requests, connections=connections, seconds=seconds, rate=50)
    assert load.statuses.keys() == {200}
    assert load.lost == 0
    return load


def read_memory(server: ServerProcess, name: str) -> int:
    """Memory of the process in bytes: VmRSS now, VmHWM the most since `reset_peak`."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def reset_peak(server: ServerProcess) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("kind", list(attacks.KINDS) if WHOLE else ["all"])
def test_good_client_is_served_during_an_attack(server: ServerProcess, client: GoodClient, kind: str) -> None:
    """The p99 is compared in `make faults` alone, which runs no other test meanwhile."""
    reset_peak(server)
    memory, ratios = read_memory(server, "VmRSS"), [client.measure_attack(kind)]
    while len(ratios) < REPETITIONS and max(ratios) > CLEAR_RATIO:
        ratios.append(client.measure_attack(kind))
    ratio, grown = statistics.median(ratios), read_memory(server, "VmHWM") - memory
    print(f"\n{kind}: p99 {ratio:.2f} times ({len(ratios)} measured), memory {grown / 2**20:+.0f} MB")  # noqa: T201
    assert grown <= MAX_GROWTH
    assert not WHOLE or ratio <= MAX_RATIO
    assert server.request("/embed", {"inputs": "the cat"})[0] == 200
    assert read_memory(server, "VmRSS") - client.memory <= MAX_GROWTH  # of all attacks so far


@pytest.mark.heavy
@pytest.mark.parametrize("kind", LIMITS)
def test_good_client_is_served_while_an_attack_exceeds_the_limits(limited_server: ServerProcess, kind: str) -> None:
    """There are more hostile connections than the server may have, and the good client comes from their address."""
    with attacked(limited_server, kind, 100):
        load = send_requests(limited_server, [*REQUESTS, LARGE], connections=1)
        metrics = limited_server.request_raw("/metrics")[1].decode()
    assert load.seconds.keys() == {"", "large"}
    reasons = set(re.findall(r'closed_connections_total\{reason="(\w+)"\}', metrics))
    assert {"chunk_timeout", "max_connections"} <= reasons, reasons
    assert kind != "all" or "header_timeout" in reasons
