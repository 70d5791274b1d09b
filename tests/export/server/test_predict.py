"""POST /predict: labels as Text Embeddings Inference gives them, equal to those of the artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.serving import ServerProcess
from helpers.texts import TEXTS
from lengthwise import Encoder
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.tokens.tokenizer import TextTokenizer

LABELS = {"labels": ["animal", "weather", "sky"]}


@pytest.fixture(scope="module")
def folder(
    tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    shape = {"bidirectional": True, "pooling": "sum", "classifier": LABELS, "cell": "gru"}
    encoder = seeded_encoder(EncoderConfig.model_validate({**encoder_config().model_dump(), **shape}), 2)
    return build_artifact(encoder, tokenizer, tmp_path_factory.mktemp("labelled") / "artifact", variants=()).folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, "--model-name", "lines", "--max-items", "40").wait_until_ready()
    yield server
    server.close()


def test_labels_equal_the_artifact(server: ServerProcess, folder: Path) -> None:
    encoder, texts = Encoder.load(folder), [*TEXTS, ""]
    status, found = server.request("/predict", {"inputs": [[text] for text in texts]})
    assert status == 200
    probabilities, labels = encoder.probabilities(texts), encoder.labels
    for row, right, text in zip(found, probabilities, texts, strict=True):
        assert [each["label"] for each in row] == [labels[number] for number in np.argsort(-right, kind="stable")]
        assert {each["label"]: each["score"] for each in row} == pytest.approx(
            dict(zip(labels, right, strict=True)), abs=1e-6
        )
        assert row[0]["label"] == encoder.predict(text)
    first = {each["label"]: pytest.approx(each["score"], abs=1e-6) for each in found[0]}
    for body in ({"inputs": TEXTS[0]}, {"inputs": [TEXTS[0]], "truncate": True}):  # one text, not a list of one
        assert {each["label"]: each["score"] for each in server.request("/predict", body)[1]} == first
    raw = server.request("/predict", {"inputs": TEXTS[0], "raw_scores": True})[1]
    logits = dict(zip(labels, encoder.logits(TEXTS[0]), strict=True))
    assert {each["label"]: each["score"] for each in raw} == pytest.approx(logits, abs=1e-6)
    assert [each["label"] for each in raw] == [each["label"] for each in found[0]]


def test_logits_of_the_open_inference_protocol(server: ServerProcess, folder: Path) -> None:
    metadata = server.request("/v2/models/lines")[1]
    assert [output["name"] for output in metadata["outputs"]] == ["sentence_embedding", "logits"]
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS[:2]}
    outputs = server.request("/v2/models/lines/infer", {"inputs": [tensor]})[1]["outputs"]
    found = {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in outputs}
    np.testing.assert_allclose(found["logits"], Encoder.load(folder).logits(list(TEXTS[:2])), atol=1e-6)
    assert server.request("/info")[1]["labels"] == ["animal", "weather", "sky"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": ["a", "b"]}, 422, "would be a pair"),
        ({"inputs": [["a", "b"]]}, 422, "not a list of one text"),
        ({"inputs": "a", "truncate": True, "truncation_direction": "Left"}, 400, "only truncated on the right"),
        ({"inputs": [["a"]] * 41}, 413, "at most 40"),
    ],
)
def test_mistakes_are_named(server: ServerProcess, body: Any, status: int, message: str) -> None:
    found, answer = server.request("/predict", body)
    assert found == status
    assert message in str(answer["error"])


def test_a_model_without_labels_says_so(artifact_folder: Path) -> None:
    server = ServerProcess(artifact_folder).wait_until_ready()
    try:
        status, answer = server.request("/predict", {"inputs": "moon"})
        assert (status, answer["error"]["code"]) == (400, "unsupported_value")
        assert "this model has no labels" in answer["error"]["message"]
    finally:
        server.close()
