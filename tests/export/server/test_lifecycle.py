"""A server from start to end: not ready before its golden vectors are right, and nothing accepted is lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.paths import ROOT
from helpers.serving import Served
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.artifact.folder import Artifact, describe_files, write_manifest
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings

Start = Callable[..., Served]


@pytest.fixture
def start(_built_artifact: Path) -> Iterator[Start]:
    """Starts servers that end with the test."""
    started = []

    def run(*options: str, folder: Path = _built_artifact, **more: Any) -> Served:
        started.append(Served(folder, *options, **more))
        return started[-1]

    yield run
    for served in started:
        served.close()


def keep_asking(server: Served, path: str, wanted: int) -> Any:
    """Ask until the status is the wanted one."""
    end = time.monotonic() + 60
    while True:
        status, answer = server.ask(path)
        if status == wanted:
            return answer
        assert time.monotonic() < end
        time.sleep(0.02)


def wrong_golden(folder: Path) -> None:
    """Golden vectors that no graph computes, in an artifact that is whole."""
    tensors = load_file(folder / "golden.safetensors")
    tensors["vectors"] = tensors["vectors"] + np.float32(0.01)
    save_file(tensors, folder / "golden.safetensors")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    write_manifest(folder, {**manifest, "files": describe_files(folder)})


def test_it_answers_before_it_is_ready_and_then_well(start: Start) -> None:
    server = start()
    seen = {server.ask("/health/ready")[0]}
    assert server.ask("/health/live")[0] == 200
    keep_asking(server, "/health/ready", 200)
    assert seen <= {200, 503}
    assert server.ask("/embed", {"inputs": "the cat"})[0] == 200


def test_no_pytorch_and_no_datasets_are_imported(artifact_folder: Path) -> None:
    code = (
        "import sys; import lengthwise.export.server.lifecycle; from lengthwise.export.server.service import Service;"
        "from lengthwise.export.artifact.folder import Artifact;"
        "from lengthwise.export.server.settings import ServeSettings;"
        "from lengthwise.export.server.metrics import Metrics;"
        f"Service(Artifact.open({str(artifact_folder)!r}), ServeSettings(), Metrics()).close();"
        "print(sorted({'torch', 'datasets', 'onnx', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_golden_vectors_that_are_not_computed_here(artifact_folder: Path, start: Start) -> None:
    wrong_golden(artifact_folder)
    server = start(folder=artifact_folder)
    said = server.told("error")
    assert "does not reproduce the golden vectors here: they differ by 0.01" in said
    assert server.process.wait(60) == 2


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 8, "max_text_tokens": 8, "max_queue_tokens": 8}])
def test_a_service_that_falls_ill_says_so_and_recovers(artifact_folder: Path, limits: dict[str, int]) -> None:
    """Limits for clients, below what the golden vectors need, do not make it ill."""
    service = Service(Artifact.open(artifact_folder), ServeSettings(self_check_interval=0.02, **limits), Metrics())
    right, states = service._golden, []

    async def live() -> None:
        watching = asyncio.create_task(service.watch())
        for vectors, wanted in ((right.vectors, "ready"), (right.vectors + 1, "failed"), (right.vectors, "ready")):
            service._golden = type(right)(right.input_ids, right.lengths, vectors)
            await asyncio.sleep(0.05)
            async with asyncio.timeout(20):
                while service.state != wanted:
                    await asyncio.sleep(0.01)
            states.append(service.is_ready)
        watching.cancel()

    asyncio.run(live())
    service.close()
    assert states == [True, False, True]


def test_a_graph_whose_vectors_depend_on_the_batch_is_not_served(artifact_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="with the graph int8_dynamic a text's vector depends on its batch"):
        Service(Artifact.open(artifact_folder), ServeSettings(variant="int8_dynamic"), Metrics())


@pytest.mark.parametrize("variant", ["portable", "fp16", "int8"])
def test_other_graphs_are_served_with_their_own_tolerance(artifact_folder: Path, variant: Any) -> None:
    service = Service(Artifact.open(artifact_folder), ServeSettings(variant=variant), Metrics())
    right = OnnxEncoder.load(artifact_folder, variant=variant).encode(["the cat sat"])

    async def ask() -> Any:
        with service.reserve(1) as reservation:
            return await service.encode(service.tokenize(["the cat sat"]), reservation, time.monotonic() + 20)

    np.testing.assert_allclose(asyncio.run(ask()), right, atol=1e-6)
    service.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["none"], "error: none: not an artifact"),
        (["none", "--max-text-tokens", "9999"], "max_batch_tokens is 4096"),
        (["none", "--port", "70000"], "less than or equal to 65535"),
        (["none", "--device", "tpu"], "device = 'tpu'"),
    ],
)
def test_mistakes_on_the_command_line(options: list[str], told: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/serve_model.py"), "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken(artifact_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, str(ROOT / "scripts/serve_model.py"), str(artifact_folder)]
        port = str(taken.getsockname()[1])
        done = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}: cannot be listened on" in done.stderr


def test_a_key(start: Start) -> None:
    server = start(environment={"LENGTHWISE_API_KEY": "séc ret"}).ready()
    assert "séc" not in "".join(server.said)
    for path in ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/ready"):
        assert server.ask(path)[0] == 200
    body = {"inputs": "the cat"}
    for headers in (
        {},
        {"Authorization": "Bearer no"},
        {"Authorization": "Basic séc ret"},
        {"Authorization": "séc ret"},
    ):
        sent = {name: value.encode() for name, value in headers.items()}
        status, error = server.ask("/embed", body, headers=sent)  # type: ignore[arg-type]
        assert (status, error["error"]["code"]) == (401, "invalid_api_key")
        assert server.ask("/metrics", headers=sent)[0] == 401  # type: ignore[arg-type]
    right = {"Authorization": "Bearer séc ret".encode()}
    assert server.ask("/embed", body, headers=right)[0] == 200  # type: ignore[arg-type]
    assert server.ask("/info", headers=right)[0] == 200  # type: ignore[arg-type]


def test_too_much_at_a_time_is_refused_at_once(start: Start) -> None:
    server = start("--max-queue-tokens", "64", "--max-text-tokens", "64", "--workers", "1").ready()
    statuses: list[int] = []
    retry: set[str] = set()

    def ask() -> None:
        for _ in range(10):
            status, _, headers = server.exchange("/embed", {"inputs": ["moon " * 9] * 6})
            statuses.append(status)
            retry.add(headers.get("retry-after", "none"))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert all(seconds == "none" or int(seconds) >= 1 for seconds in retry)
    assert server.metric("lengthwise_rejected_requests_total") == statuses.count(429)
    assert server.metric("lengthwise_queued_tokens") == 0


def test_a_deadline(start: Start) -> None:
    server = start("--request-timeout", "0.000001").ready()
    status, error = server.ask("/embed", {"inputs": "the cat"})
    assert status in (408, 504)
    assert "in time" in error["error"]["message"] or "not computed within" in error["error"]["message"]
    assert keep_asking(server, "/health/ready", 200)["ready"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_ending(start: Start, signum: int) -> None:
    server = start("--shutdown-delay", "1.5").ready()
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    kept.request("GET", "/health/ready")
    assert kept.getresponse().read()
    server.process.send_signal(signum)
    server.told("ending")
    state = keep_asking(server, "/health/ready", 503)
    assert state == {"ready": False, "state": "draining"}
    kept.request("POST", "/embed", json.dumps({"inputs": "the cat"}), {"Content-Type": "application/json"})
    answer = kept.getresponse()
    assert (answer.status, answer.getheader("connection")) == (503, "close")
    assert int(answer.getheader("retry-after") or 0) >= 1
    assert server.process.wait(60) == 0
    assert server.told("ended")


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    server = start("--shutdown-delay", "60", "--shutdown-timeout", "90").ready()
    server.process.send_signal(signal.SIGTERM)
    server.told("ending")
    assert server.end() == 2
    assert "ended at once by a second signal" in "".join(server.said)


def test_told_to_end_while_it_loads(start: Start) -> None:
    server = start("--shutdown-delay", "0")
    assert server.end() == 0


def test_an_artifact_that_is_damaged(artifact_folder: Path, start: Start) -> None:
    shutil.copy(artifact_folder / "config.json", artifact_folder / "onnx/model.onnx")
    server = start(folder=artifact_folder)
    assert "the file is not the one that was exported" in server.told("error")
    assert server.process.wait(60) == 2
