"""The lifecycle of a server: not ready before its golden vectors are reproduced, and no accepted request is lost."""

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
from helpers.serving import ServerProcess
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.artifact.folder import Artifact, describe_files, write_manifest
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(_built_artifact: Path) -> Iterator[Start]:
    """Starts servers, and ends them after the test."""
    started = []

    def run(*options: str, folder: Path = _built_artifact, **more: Any) -> ServerProcess:
        started.append(ServerProcess(folder, *options, **more))
        return started[-1]

    yield run
    for server in started:
        server.close()


def wait_for_status(server: ServerProcess, path: str, expected: int) -> Any:
    """Repeat a request until it has the expected status; the answer."""
    deadline = time.monotonic() + 60
    while True:
        status, answer = server.request(path)
        if status == expected:
            return answer
        assert time.monotonic() < deadline
        time.sleep(0.02)


def corrupt_golden_vectors(folder: Path) -> None:
    """Replace the golden vectors by ones that no graph computes, and keep the manifest valid."""
    tensors = load_file(folder / "golden.safetensors")
    tensors["vectors"] = tensors["vectors"] + np.float32(0.01)
    save_file(tensors, folder / "golden.safetensors")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    write_manifest(folder, {**manifest, "files": describe_files(folder)})


def test_server_answers_while_it_loads_and_encodes_once_ready(start: Start) -> None:
    server = start()
    first = server.request("/health/ready")[0]
    assert server.request("/health/live")[0] == 200
    wait_for_status(server, "/health/ready", 200)
    assert first in (200, 503)
    assert server.request("/embed", {"inputs": "the cat"})[0] == 200


def test_serving_imports_neither_pytorch_nor_datasets(artifact_folder: Path) -> None:
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


def test_server_ends_if_golden_vectors_are_not_reproduced(artifact_folder: Path, start: Start) -> None:
    corrupt_golden_vectors(artifact_folder)
    server = start(folder=artifact_folder)
    assert "does not reproduce the golden vectors here: they differ by 0.01" in server.wait_for_line("error")
    assert server.process.wait(60) == 2


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 8, "max_text_tokens": 8, "max_queue_tokens": 8}])
def test_state_follows_the_check_of_golden_vectors(artifact_folder: Path, limits: dict[str, int]) -> None:
    """Limits for clients do not apply to the check, even if they are below what the golden vectors need."""
    service = Service(Artifact.open(artifact_folder), ServeSettings(self_check_interval=0.02, **limits), Metrics())
    golden, states = service._golden, []

    async def follow_state() -> None:
        watching = asyncio.create_task(service.watch())
        for change, expected in ((0, "ready"), (1, "failed"), (0, "ready")):
            service._golden = type(golden)(golden.input_ids, golden.lengths, golden.vectors + change)
            await asyncio.sleep(0.05)
            async with asyncio.timeout(20):
                while service.state != expected:
                    await asyncio.sleep(0.01)
            states.append(service.is_ready)
        watching.cancel()

    asyncio.run(follow_state())
    service.close()
    assert states == [True, False, True]


def test_graph_whose_vectors_depend_on_the_batch_is_refused(artifact_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="with the graph int8_dynamic a text's vector depends on its batch"):
        Service(Artifact.open(artifact_folder), ServeSettings(variant="int8_dynamic"), Metrics())


@pytest.mark.parametrize("variant", ["portable", "fp16", "int8"])
def test_other_graphs_are_checked_with_their_own_tolerance(artifact_folder: Path, variant: Any) -> None:
    service = Service(Artifact.open(artifact_folder), ServeSettings(variant=variant), Metrics())
    expected = OnnxEncoder.load(artifact_folder, variant=variant).encode(["the cat sat"])

    async def encode() -> Any:
        with service.reserve(1) as reservation:
            return await service.encode(service.tokenize(["the cat sat"]), reservation, time.monotonic() + 20)

    np.testing.assert_allclose(asyncio.run(encode()), expected, atol=1e-6)
    service.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none"], "error: none: there is no such artifact"),
        (["none", "--max-text-tokens", "9999"], "max_batch_tokens is 4096"),
        (["none", "--port", "70000"], "less than or equal to 65535"),
        (["none", "--device", "tpu"], "device = 'tpu'"),
    ],
)
def test_command_line_mistake_is_reported(options: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/serve_model.py"), "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "listening" not in done.stdout
    assert "Traceback" not in done.stderr


def test_port_in_use_is_reported(artifact_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = [sys.executable, str(ROOT / "scripts/serve_model.py"), str(artifact_folder)]
        port = str(other.getsockname()[1])
        done = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}: cannot be listened on" in done.stderr


def test_api_key_is_required_on_protected_routes(start: Start) -> None:
    server = start(environment={"LENGTHWISE_API_KEY": "séc ret"}).wait_until_ready()
    assert "séc" not in "".join(server.output)
    for path in ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/ready"):
        assert server.request(path)[0] == 200
    body = {"inputs": "the cat"}
    for headers in (
        {},
        {"Authorization": "Bearer no"},
        {"Authorization": "Basic séc ret"},
        {"Authorization": "séc ret"},
    ):
        encoded = {name: value.encode() for name, value in headers.items()}
        status, error = server.request("/embed", body, headers=encoded)
        assert (status, error["error"]["code"]) == (401, "invalid_api_key")
        assert server.request("/metrics", headers=encoded)[0] == 401
    valid = {"Authorization": "Bearer séc ret".encode()}
    assert server.request("/embed", body, headers=valid)[0] == 200
    assert server.request("/info", headers=valid)[0] == 200


def test_overload_is_rejected_with_429(start: Start) -> None:
    server = start("--max-queue-tokens", "64", "--max-text-tokens", "64", "--workers", "1").wait_until_ready()
    statuses: list[int] = []
    retry_after: set[str] = set()

    def send_requests() -> None:
        for _ in range(10):
            status, _, headers = server.request_raw("/embed", {"inputs": ["moon " * 9] * 6})
            statuses.append(status)
            retry_after.add(headers.get("retry-after", "none"))

    threads = [threading.Thread(target=send_requests) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert all(seconds == "none" or int(seconds) >= 1 for seconds in retry_after)
    assert server.metric("lengthwise_rejected_requests_total") == statuses.count(429)
    assert server.metric("lengthwise_queued_tokens") == 0


def test_request_timeout_is_reported(start: Start) -> None:
    server = start("--request-timeout", "0.000001").wait_until_ready()
    status, error = server.request("/embed", {"inputs": "the cat"})
    assert status in (408, 504)
    assert "in time" in error["error"]["message"] or "not computed within" in error["error"]["message"]
    assert wait_for_status(server, "/health/ready", 200)["ready"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_the_server_and_ends_it_with_zero(start: Start, signum: int) -> None:
    server = start("--shutdown-delay", "1.5").wait_until_ready()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/health/ready")
    assert connection.getresponse().read()
    server.process.send_signal(signum)
    server.wait_for_line("ending")
    state = wait_for_status(server, "/health/ready", 503)
    assert state == {"ready": False, "state": "draining"}
    connection.request("POST", "/embed", json.dumps({"inputs": "the cat"}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (503, "close")
    assert int(answer.getheader("retry-after") or 0) >= 1
    assert server.process.wait(60) == 0
    assert server.wait_for_line("ended")


def test_second_signal_ends_the_server_at_once(start: Start) -> None:
    server = start("--shutdown-delay", "60", "--shutdown-timeout", "90").wait_until_ready()
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_line("ending")
    assert server.terminate() == 2
    assert "ended at once by a second signal" in "".join(server.output)


def test_signal_during_loading_ends_the_server_with_zero(start: Start) -> None:
    server = start("--shutdown-delay", "0")
    assert server.terminate() == 0


@pytest.mark.parametrize("last_line", ["listening", "ready"])
def test_server_whose_output_nobody_reads_serves_on_and_ends(last_line: str, artifact_folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/serve_model.py"), str(artifact_folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--shutdown-delay", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        port = 0
        for line in process.stdout:
            if line.startswith("listening"):
                port = int(line.rpartition(":")[2])
            if line.startswith(last_line):
                break
        process.stdout.close()
        deadline = time.monotonic() + 60
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                break
            connection.close()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_damaged_artifact_is_reported(artifact_folder: Path, start: Start) -> None:
    shutil.copy(artifact_folder / "config.json", artifact_folder / "onnx/model.onnx")
    server = start(folder=artifact_folder)
    assert "the file is not the one that was exported" in server.wait_for_line("error")
    assert server.process.wait(60) == 2
