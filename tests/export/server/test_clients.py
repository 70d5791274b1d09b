"""What clients in use send: upgrades, expectations, nulls, names with slashes, probes, and requests from web pages."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from starlette.testclient import TestClient

from helpers.serving import ServerProcess
from helpers.sockets import BODY, CHUNKED, HEAD, LENGTH, connect, exchange, read_answers
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.server.api import Api
from lengthwise.export.server.app import create_app
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.operations import OPERATIONS
from lengthwise.export.server.settings import ServeSettings

NAME = "org/the model/v1.0 é"
VECTORS_TOLERANCE = 1e-6
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAA\r\nUpgrade: h2c\r\n"
WEBSOCKET = b"Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
CHUNKED_BODY = CHUNKED + b"5\r\n" + BODY[:5] + b"\r\n10\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def server(_built_artifact: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(_built_artifact, "--model-name", NAME).wait_until_ready()
    yield server
    server.close()


@pytest.fixture(scope="module")
def vector(_built_artifact: Path) -> Any:
    return OnnxEncoder.load(_built_artifact).encode(["the cat"])[0]


# Upgrades and expectations


@pytest.mark.parametrize("upgrade", [H2C, H2C.lower(), WEBSOCKET, b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n"])
@pytest.mark.parametrize("body", [LENGTH + BODY, CHUNKED_BODY], ids=["length", "chunked"])
@pytest.mark.parametrize("split", ["whole", "after the header", "bytes"])
def test_upgrade_is_ignored(server: ServerProcess, upgrade: bytes, body: bytes, split: str, vector: Any) -> None:
    request = HEAD + upgrade + body
    end = request.index(b"\r\n\r\n") + 4
    parts = {
        "whole": [request],
        "after the header": [request[:end], request[end:]],
        "bytes": [bytes([byte]) for byte in request],
    }
    with connect(server.port) as connection:
        for _ in range(2):  # the connection is kept
            for part in parts[split]:
                connection.sendall(part)
            ((status, answer),) = read_answers(connection, 1)
            assert status == 200
            np.testing.assert_allclose(json.loads(answer)[0], vector, atol=VECTORS_TOLERANCE)


def test_upgrade_among_pipelined_requests_is_ignored(server: ServerProcess) -> None:
    get = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
    data = get + H2C + b"\r\n" + HEAD + H2C + LENGTH + BODY + get + b"\r\n" + HEAD + WEBSOCKET + CHUNKED_BODY + get
    with connect(server.port) as connection:
        connection.sendall(data + b"\r\n")
        answers = read_answers(connection, 5)
    assert [status for status, _ in answers] == [200] * 5
    assert [body[:2] for _, body in answers] == [b'{"', b"[[", b'{"', b"[[", b'{"']


@pytest.mark.slow
def test_java_http_client_works(server: ServerProcess, vector: Any) -> None:
    java = shutil.which("java")
    source = Path(__file__).with_name("Upgrade.java")
    if java is None:
        pytest.skip("there is no Java here")
    command = [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(source), f"{server.url}/embed", BODY.decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "error: " in done.stderr:
        pytest.skip("this Java has no compiler")
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines] == ["200"] * 3
    for line in lines:
        np.testing.assert_allclose(json.loads(line[4:])[0], vector, atol=VECTORS_TOLERANCE)


@pytest.mark.parametrize("expect", [b"Expect: 100-continue\r\n", b"expect: 100-Continue\r\n"])
def test_expectation_is_met(server: ServerProcess, expect: bytes) -> None:
    with connect(server.port) as connection:
        connection.sendall(HEAD + expect + LENGTH)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_answers(connection, 1)[0][0] == 200


def test_expectation_is_refused_with_the_connection(server: ServerProcess) -> None:
    """The client does not send its body then, so what it sends next would be taken for it."""
    answer = exchange(server.port, HEAD.replace(b"/embed", b"/nowhere") + b"Expect: 100-continue\r\n" + LENGTH)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in answer
    assert b"100 Continue" not in answer
    answer = exchange(server.port, HEAD + b"Expect: 100-continue\r\nContent-Length: 900000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


# Optional fields

DEFAULTS = {
    "/embed": ["truncate", "normalize", "truncation_direction", "prompt_name", "dimensions"],
    "/tokenize": ["add_special_tokens"],
    "/v1/embeddings": ["encoding_format", "dimensions", "user", "model"],
    "/v2/models/NAME/infer": ["id", "outputs", "parameters"],
}
BODIES: dict[str, Any] = {
    "/embed": {"inputs": ["the cat"]},
    "/tokenize": {"inputs": "the cat"},
    "/v1/embeddings": {"input": ["the cat"]},
    "/v2/models/NAME/infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["the cat"]}]},
}


@pytest.mark.parametrize("route", BODIES)
def test_null_means_the_default(server: ServerProcess, route: str) -> None:
    path, body = route.replace("NAME", quote(NAME, safe="")), BODIES[route]
    status, expected = server.request(path, body)
    assert status == 200
    for names in (*([name] for name in DEFAULTS[route]), DEFAULTS[route]):
        assert server.request(path, {**body, **dict.fromkeys(names)}) == (200, expected)
    extra = {"user": "u", "input_type": "query", "task": None, "priority": 1, "extra_body": {"a": [None]}}
    assert server.request(path, {**extra, **body}) == (200, expected)


@pytest.mark.parametrize("route", ["/embed", "/tokenize", "/v1/embeddings"])
def test_null_of_a_required_field_is_refused(server: ServerProcess, route: str) -> None:
    (name,) = BODIES[route]
    status, error = server.request(route, {name: None})
    assert (status, error["error"]["param"]) == (422, name)
    assert "null" in error["error"]["message"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"prompt_name": "query"}, "this model has no prompts"),
        ({"dimensions": 5}, "dimensions is 5, but the vectors of this model are 12 wide"),
        ({"truncate": True, "truncation_direction": "Left"}, "only truncated on the right"),
    ],
)
def test_option_that_would_change_vectors_is_not_ignored(server: ServerProcess, option: Any, message: str) -> None:
    status, error = server.request("/embed", {"inputs": "the cat", **option})
    assert (status, error["error"]["param"]) == (400, list(option)[-1])
    assert message in error["error"]["message"]


# Names and methods


@pytest.mark.parametrize("encoded", [quote(NAME), quote(NAME, safe="")], ids=["slashes", "%2F"])
def test_name_with_slashes_is_found_on_every_route(server: ServerProcess, encoded: str) -> None:
    assert server.request(f"/v1/models/{encoded}")[1]["id"] == NAME
    for base in (f"/v2/models/{encoded}", f"/v2/models/{encoded}/versions/1"):
        assert server.request(base)[1]["name"] == NAME
        assert server.request(f"{base}/ready") == (200, {"name": NAME, "ready": True})
        status, answer = server.request(f"{base}/infer", BODIES["/v2/models/NAME/infer"])
        assert (status, answer["model_name"]) == (200, NAME)
    for path in ("/v1/models/other/name", f"/v1/models/{encoded}/x", f"/v2/models/{encoded}/versions/2", "/v1/models/"):
        assert server.request(path)[0] == 404


def test_openai_client_retrieves_the_model(server: ServerProcess) -> None:
    import openai  # here, since every test process reads this file

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    (listed,) = client.models.list().data
    assert client.models.retrieve(NAME) == listed
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize("name", ["a/../b", "/a", "a//b", "a/", "a/ready", "a/infer", "a/versions/2"])
def test_name_that_clients_cannot_request_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose another"):
        ServeSettings(model_name=name)


def test_head_has_the_header_of_get(server: ServerProcess) -> None:
    ignored = {"date"}
    for operation in OPERATIONS:
        if operation.method == "GET" and operation.path != "/metrics":
            path = operation.path.replace("{name}", quote(NAME, safe=""))
            status, _, expected = server.request_raw(path)
            found, body, headers = server.request_raw(path, method="HEAD")
            assert (found, body) == (status, b"")
            assert {k: v for k, v in headers.items() if k not in ignored} == {
                k: v for k, v in expected.items() if k not in ignored
            }
    assert server.request("/metrics", method="HEAD")[0] == 200


def test_options_lists_the_methods(server: ServerProcess) -> None:
    for operation in OPERATIONS:
        path = operation.path.replace("{name}", quote(NAME, safe=""))
        status, _, headers = server.request_raw(path, method="OPTIONS")
        allowed = set(headers["allow"].split(", "))
        assert status == 204
        assert {operation.method, "OPTIONS"} <= allowed
        assert server.request_raw(path, method="DELETE")[0] == 405
    with connect(server.port) as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_answers(connection, 1)[0][0] == 204
    assert server.request("/nowhere", method="OPTIONS")[0] == 404


# Web pages of other origins

ORIGIN = "https://a.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type, authorization",
}


def cross_origin_headers(cors_origin: str | None, origin: str = ORIGIN) -> tuple[str | None, str | None]:
    """The origins that are allowed by the answers to a preflight and to a request."""
    settings = ServeSettings(cors_origin=cors_origin, api_key="k")
    with TestClient(create_app(Api(settings, Metrics()))) as client:
        preflight = client.options("/v1/embeddings", headers={**PREFLIGHT, "Origin": origin})
        answer = client.get("/info", headers={"Origin": origin})  # an error, which a page must be able to read
        assert answer.status_code == 401
        return tuple(each.headers.get("access-control-allow-origin") for each in (preflight, answer))  # type: ignore[return-value]


def test_pages_of_other_origins_need_the_setting() -> None:
    assert cross_origin_headers(None) == (None, None)
    assert cross_origin_headers("*") == ("*", "*")
    assert cross_origin_headers(f"http://b.example:8080 {ORIGIN}") == (ORIGIN, ORIGIN)
    assert cross_origin_headers(ORIGIN, "https://evil.example") == (None, None)


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/", "https://a.example/path", "https://a b"])
def test_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin; write it as"):
        ServeSettings(cors_origin=origin)


# Text Embeddings Inference


def test_client_of_text_embeddings_inference_works(
    server: ServerProcess, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # this machine is no network
    client = InferenceClient(server.url)
    np.testing.assert_allclose(client.feature_extraction("the cat")[0], vector, atol=VECTORS_TOLERANCE)
    found = client.feature_extraction("the cat", normalize=True, truncate=True, truncation_direction="Right")
    np.testing.assert_allclose(found[0], vector / np.linalg.norm(vector), atol=VECTORS_TOLERANCE)
    _, info = server.request("/info")
    assert info["model_type"].keys() == {"embedding"}
    assert (info["max_input_length"], info["max_client_batch_size"], info["auto_truncate"]) == (4_096, 1_024, False)
    assert server.request("/health")[0] == 200
