"""A server on PyTorch's engine answers what batch encoding in that precision writes, and checks its golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.serving import ServerProcess
from lengthwise.encoder.checkpoint import load_checkpoint
from lengthwise.encoder.engine import encode_texts
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ArtifactError, ConfigError
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.server.engines import open_engine
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings, resolve_settings


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_served_vectors_are_those_of_encoding(artifact_folder: Path, precision: str) -> None:
    server = ServerProcess(artifact_folder, "--engine", "torch", "--precision", precision, "--workers", "2")
    try:
        server.wait_until_ready()
        texts = ["the moon", "a cat in the rain", "moon"]
        status, answer = server.request("/v1/embeddings", {"input": texts, "model": artifact_folder.name})
        assert status == 200, answer
        found = np.array([item["embedding"] for item in answer["data"]], np.float32)
        info = server.request("/info")[1]
    finally:
        server.close()
    encoder, tokenizer = load_checkpoint(artifact_folder)
    engine = TorchEngine(encoder, precision=precision)
    np.testing.assert_array_equal(found, encode_texts(texts, tokenizer, engine))
    assert (info["runtime"], info["variant"], info["workers"]) == (engine.name, precision, 2)


def test_engine_that_does_not_reproduce_the_golden_vectors_is_not_served(
    artifact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, artifact = ServeSettings(engine="torch", precision="int8"), Artifact.open(artifact_folder)
    served = open_engine(artifact, settings)
    assert served.independent
    assert served.engine.reference is None
    right = type(served.engine).encode_batch
    monkeypatch.setattr(type(served.engine), "encode_batch", lambda *args: right(*args) + 1)
    with pytest.raises(ArtifactError, match=r"torch cpu int8.* does not reproduce the golden vectors"):
        Service(artifact, settings, Metrics())


def test_settings_of_the_other_engine_are_refused() -> None:
    with pytest.raises(ConfigError, match="precision is 'int8', but a graph has a precision of its own"):
        resolve_settings({"precision": "int8"})
    with pytest.raises(ConfigError, match="variant is 'native', but only the engine onnx runs a graph"):
        resolve_settings({"engine": "torch", "variant": "native"})
