"""States that a server keeps from one request for the next: the same vectors, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.serving import ServerProcess
from lengthwise.config import EncoderConfig
from lengthwise.encoder.checkpoint import load_checkpoint
from lengthwise.encoder.engine import encode_texts
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.tokenizer import TextTokenizer

PREAMBLE = "the cat and the dog in the rain under the moon and the cat in the moon"


@pytest.fixture(scope="module")
def folder(
    tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artifact whose LSTM has one layer."""
    encoder = seeded_encoder(encoder_config(bidirectional=True, tokenizer_fingerprint=tokenizer.fingerprint), 2)
    return build_artifact(encoder, tokenizer, tmp_path_factory.mktemp("single") / "artifact", variants=()).folder


@pytest.mark.skipif(not has_kernel(), reason="this CPU has no AVX2, or llvmlite is not installed")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_requests_begin_where_others_left_a_state(folder: Path, precision: Any) -> None:
    encoder, tokenizer = load_checkpoint(folder)
    texts = [f"{PREAMBLE} {end}" for end in ("cat", "dog", "rain", "moon", "a dog", "the", "a cat", "in a moon")]
    expected = encode_texts(texts, tokenizer, TorchEngine(encoder, precision=precision))
    options = ["--engine", "torch", "--precision", precision, "--state-cache-bytes", "100000"]
    server = ServerProcess(folder, *options).wait_until_ready()
    try:
        answers = [server.request("/embed", {"inputs": [text]}) for text in texts]
        described = server.request("/info")[1]["state_cache"]
        counted = {
            name: server.metric(f"lengthwise_state_cache_{name}")
            for name in ("bytes", "hits_total", "saved_steps_total", "steps_total")
        }
    finally:
        server.close()
    assert all(status == 200 for status, _ in answers)
    np.testing.assert_array_equal(np.array([rows[0] for _, rows in answers], np.float32), expected)
    assert described == {"max_bytes": 100_000, **{name.removesuffix("_total"): n for name, n in counted.items()}}
    assert described["hits"] >= 2
    assert 0 < 8 * described["hits"] <= described["saved_steps"] < described["steps"]
    assert 0 < described["bytes"] <= 100_000


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "only the engine torch keeps them"),
        ({"engine": "torch"}, "the LSTM has 2 layers"),
        ({"engine": "torch", "state_cache_bytes": 0}, "state_cache_bytes is 0"),
    ],
)
def test_server_that_keeps_none_says_why(artifact_folder: Path, settings: dict[str, Any], reason: str) -> None:
    service = Service(Artifact.open(artifact_folder), ServeSettings(**settings), metrics := Metrics())
    try:
        described = service.info()["state_cache"]
    finally:
        service.close()
    assert list(described) == ["off"]
    assert described["off"].startswith(f"no states are kept: {reason}")
    assert b"state_cache" not in metrics.exposition()[0]
