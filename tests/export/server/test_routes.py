"""The routes of a server process: vectors equal batch encoding, and every mistake is reported with its cause."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.serving import ServerProcess
from helpers.texts import TEXTS
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.server.operations import OPERATIONS
from lengthwise.export.server.settings import ServeSettings

LIMITS = ("--max-text-tokens", "64", "--max-batch-tokens", "256", "--max-items", "40", "--max-request-bytes", "20000")


@pytest.fixture(scope="module")
def server(_built_artifact: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(_built_artifact, "--model-name", "lines", *LIMITS).wait_until_ready()
    yield server
    server.close()


@pytest.fixture(scope="module")
def encoder(_built_artifact: Path) -> OnnxEncoder:
    return OnnxEncoder.load(_built_artifact)


def assert_equal(found: Any, expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(np.array(found, np.float32), expected, rtol=0, atol=1e-6)


def embed(server: ServerProcess, inputs: Any, **more: Any) -> tuple[int, Any]:
    return server.request("/embed", {"inputs": inputs, **more})


def embeddings(server: ServerProcess, value: Any, **more: Any) -> tuple[int, Any]:
    return server.request("/v1/embeddings", {"input": value, "model": "lines", **more})


# Vectors


def test_vectors_equal_batch_encoding(server: ServerProcess, encoder: OnnxEncoder) -> None:
    texts = [*TEXTS, "", " ", "unheard of", "moon " * 64, "a\0b", "😀"]
    status, found = embed(server, texts)
    assert status == 200
    assert_equal(found, encoder.encode(texts))
    assert_equal(embed(server, TEXTS[0])[1], encoder.encode(TEXTS[:1]))


def test_vectors_do_not_depend_on_concurrent_requests(server: ServerProcess, encoder: OnnxEncoder) -> None:
    texts = [" ".join(TEXTS[number % 7].split()[: number % 5 + 1]) for number in range(60)]
    expected = encoder.encode(texts)
    wrong: list[Any] = []

    def send_requests(number: int) -> None:
        for turn in range(6):
            start = (number * 7 + turn * 11) % 50
            status, found = embed(server, texts[start : start + number + 1])
            if status != 200 or np.abs(np.array(found) - expected[start : start + number + 1]).max() > 1e-6:
                wrong.append((number, turn, status))

    threads = [threading.Thread(target=send_requests, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_normalize_and_truncate(server: ServerProcess, encoder: OnnxEncoder) -> None:
    status, found = embed(server, ["cats and dogs", ""], normalize=True)
    assert status == 200
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0], abs=1e-6)
    status, error = embed(server, ["moon", "moon " * 65])
    assert (status, error["error"]["param"]) == (422, "inputs.1")
    assert "item 1: 65 tokens, but this server accepts at most 64" in error["error"]["message"]
    before = server.metric("lengthwise_truncated_texts_total")
    status, found = embed(server, ["moon", "moon " * 65], truncate=True)
    assert_equal(found, encoder.encode(["moon", "moon " * 64]))
    assert server.metric("lengthwise_truncated_texts_total") == before + 1


def test_openai_client_works(server: ServerProcess, encoder: OnnxEncoder) -> None:
    import openai  # here, since every test process reads this file

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    expected = encoder.encode(list(TEXTS))
    answer = client.embeddings.create(model="lines", input=list(TEXTS))
    assert_equal([each.embedding for each in answer.data], expected)
    assert [each.index for each in answer.data] == list(range(len(TEXTS)))
    tokens = sum(len(text.split()) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (tokens, tokens, "lines")
    as_floats = client.embeddings.create(model="lines", input=TEXTS[0], encoding_format="float")
    assert_equal(as_floats.data[0].embedding, expected[0])
    ids = [server.request("/tokenize", {"inputs": text})[1][0] for text in TEXTS[:2]]
    rows = [[token["id"] for token in row] for row in ids]
    assert_equal([each.embedding for each in client.embeddings.create(model="lines", input=rows).data], expected[:2])
    assert_equal(client.embeddings.create(model="lines", input=rows[1]).data[0].embedding, expected[1])
    assert [model.id for model in client.models.list()] == ["lines"]
    assert_equal(client.embeddings.create(model="lines", input="moon", dimensions=12).data[0].embedding, expected[4])
    with pytest.raises(openai.BadRequestError, match="dimensions is 5, but the vectors of this model are 12 wide"):
        client.embeddings.create(model="lines", input="moon", dimensions=5)
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here, but 'lines'"):
        client.embeddings.create(model="gpt", input="moon")


def test_base64_is_float32(server: ServerProcess, encoder: OnnxEncoder) -> None:
    _, found = embeddings(server, "rain fell", encoding_format="base64")
    vector = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), "<f4")
    assert_equal(vector, encoder.encode(["rain fell"])[0])


def test_open_inference_protocol(server: ServerProcess, encoder: OnnxEncoder) -> None:
    assert server.request("/v2/health/ready")[0] == server.request("/v2/health/live")[0] == 200
    assert server.request("/v2/models/lines/ready") == (200, {"name": "lines", "ready": True})
    _, model = server.request("/v2/models/lines")
    assert {each["name"] for each in model["inputs"]} == {"text", "input_ids", "attention_mask"}
    assert model["outputs"] == [{"name": "sentence_embedding", "datatype": "FP32", "shape": [-1, 12]}]
    texts = {"name": "text", "datatype": "BYTES", "shape": [2], "data": list(TEXTS[:2])}
    for version in ("", "/versions/1"):
        status, found = server.request(f"/v2/models/lines{version}/infer", {"id": "7", "inputs": [texts]})
        assert (status, found["id"], found["model_name"]) == (200, "7", "lines")
        output = found["outputs"][0]
        assert_equal(np.reshape(output["data"], output["shape"]), encoder.encode(list(TEXTS[:2])))
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [2, 3], "data": [[5, 6, 7], [8, 9, 9]]}
    mask = {"name": "attention_mask", "datatype": "INT64", "shape": [2, 3], "data": [1, 1, 1, 1, 0, 0]}
    _, found = server.request("/v2/models/lines/infer", {"inputs": [ids, mask]})
    expected = encoder.encode_ids([[5, 6, 7], [8, 0, 0]], [3, 1])
    assert_equal(np.reshape(found["outputs"][0]["data"], (2, 12)), expected)
    status, error = server.request("/v2/models/none/infer", {"inputs": [texts]})
    assert (status, error) == (404, {"error": "there is no model 'none' here, but 'lines'"})
    assert server.request("/v2/models/lines/versions/2")[0] == 404
    assert server.request("/v2")[1]["name"] == "lengthwise"


def test_tokenize_returns_ids_texts_and_flags(server: ServerProcess) -> None:
    status, found = server.request("/tokenize", {"inputs": ["the cat", "", "zebra"]})
    assert status == 200
    assert [[token["text"] for token in row] for row in found] == [["the", "cat"], [], ["[UNK]"]]
    assert [token["special"] for row in found for token in row] == [False, False, True]
    assert len(server.request("/tokenize", {"inputs": "moon " * 65})[1][0]) == 65  # longer than the limit for encoding


# Model and state


def test_info_health_and_printed_settings(server: ServerProcess) -> None:
    _, info = server.request("/info")
    assert (info["model_id"], info["dim"], info["max_text_tokens"], info["variant"]) == ("lines", 12, 64, "native")
    assert info["trained"] is False
    assert server.request("/health/live") == (200, {"live": True})
    assert server.request("/health/ready") == (200, {"ready": True, "state": "ready"})
    printed = dict(re.findall(r"^(\w+) {2,}(\S+)", "".join(server.output), re.MULTILINE))
    assert (printed["max_items"], printed["host"]) == ("40", "127.0.0.1")
    assert set(ServeSettings.model_fields) <= set(printed)  # however long a name is, a gap is left after it


def test_metrics_count_requests_and_batches(server: ServerProcess) -> None:
    def read_metrics() -> list[float]:
        return [
            server.metric(f"lengthwise_{name}")
            for name in ("requests_total", "batch_tokens_sum", "batch_rows_sum", "batch_padding_ratio_count")
        ]

    before = read_metrics()
    embed(server, ["the cat", "the dog"])
    found = np.subtract(read_metrics(), before)
    assert found[0] >= 1
    assert found[1:3].tolist() == [4, 2]
    text = server.request_raw("/metrics")[1].decode()
    assert 'lengthwise_requests_total{route="/embed",status="200"}' in text
    for stage in ("tokenize", "queue", "infer", "total"):
        assert f'lengthwise_seconds_count{{stage="{stage}"}}' in text
    assert "lengthwise_queued_tokens 0.0" in text
    assert "lengthwise_ready 1.0" in text


def test_openapi_and_docs_describe_every_route(server: ServerProcess) -> None:
    _, document = server.request("/openapi.json")
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == {
        (operation.path, operation.method.lower()) for operation in OPERATIONS if operation.described
    }
    assert all("431" in method["responses"] for methods in document["paths"].values() for method in methods.values())
    page = server.request_raw("/docs")[1].decode()
    assert all(operation.path in page for operation in OPERATIONS if operation.described)
    assert "//" not in page.replace("<!doctype html>", "")  # it loads nothing from other hosts


# Mistakes


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "not valid JSON"),
        (b'{"inputs": NaN}', {}, 400, "not valid JSON"),
        (b"[" * 19_000, {}, 400, "not valid JSON"),
        (b'{"inputs": "\\ud800"}', {}, 400, "not valid JSON"),
        (b"{}", {}, 422, "inputs: Field required"),
        (b'{"inputs": []}', {}, 422, "empty list"),
        (b'{"inputs": ["a", 7]}', {}, 422, "item 1 of inputs is a number, not a text"),
        (json.dumps({"inputs": ["a"] * 41}).encode(), {}, 413, "41 items, but at most 40"),
        (b'{"inputs": "' + b"a" * 20_000 + b'"}', {}, 413, "larger than 20,000 bytes"),
        (b'{"inputs": "a"}', {"Content-Type": "text/plain"}, 415, "send application/json"),
        (b'{"inputs": "a"}', {"Content-Encoding": "gzip"}, 415, "the body is encoded"),
    ],
)
def test_bad_request_is_refused(
    server: ServerProcess, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    found, error = server.request("/embed", body, headers=headers)
    assert found == status
    assert message in error["error"]["message"]
    assert error["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("wrong", [10**30, -1, 99, 2**31])
def test_unknown_id_is_refused(server: ServerProcess, wrong: int) -> None:
    status, error = embeddings(server, [[1, 2], [3, wrong]])
    assert (status, error["error"]["param"]) == (422, "input.1")
    assert "ids run from 0 to" in error["error"]["message"]


def test_too_many_ids_are_refused(server: ServerProcess) -> None:
    assert embeddings(server, [1] * 64)[0] == 200
    status, error = embeddings(server, [1] * 65)
    assert (status, error["error"]["param"]) == (422, "input.0")


def test_unknown_routes_and_methods_are_refused(server: ServerProcess) -> None:
    status, error = server.request("/nowhere")
    assert (status, error["error"]["message"]) == (404, "there is no /nowhere here; /docs lists the routes")
    assert "ends in /v1 here" in server.request("/embeddings", {"input": "a"})[1]["error"]["message"]
    assert server.request("/embed")[1]["error"]["message"].startswith("GET is not possible at /embed; send POST")
    status, _, headers = server.request_raw("/embed")
    assert (status, set(headers["allow"].split(", "))) == (405, {"POST", "OPTIONS"})
    assert server.request("/health/live", {"a": 1})[0] == 405


def test_chunked_body_is_read(server: ServerProcess, encoder: OnnxEncoder) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps({"inputs": "rain fell"}).encode()
    connection.request(
        "POST", "/embed", iter([body[:5], body[5:]]), {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert_equal(json.loads(connection.getresponse().read()), encoder.encode(["rain fell"]))
    connection.request(
        "POST", "/embed", iter([b" " * 9_000] * 3), {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_disconnected_client_frees_its_capacity(server: ServerProcess) -> None:
    head = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
    for data in (head[:40], head, head + b'{"inputs":', head + b'{"inputs": "the cat sat"}'):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(data)
    assert embed(server, "moon")[0] == 200
    deadline = time.monotonic() + 20
    while server.metric("lengthwise_queued_tokens"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
