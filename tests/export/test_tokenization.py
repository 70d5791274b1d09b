"""Tokenization belongs to the model: a run, the Python API, onnxruntime and the server give a text one vector."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.runs import run_config, source_of, vectors_at
from helpers.texts import TEXTS
from helpers.tokenizer_parts import assemble
from lengthwise import Encoder
from lengthwise.config import CONFIG_FILE, EncoderConfig, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import load_checkpoint, save_checkpoint
from lengthwise.encoder.engine import encode_texts
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine, open_torch
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings
from lengthwise.run.local import encode_dataset
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer
from lengthwise.tokens.training import train_tokenizer

Vectors = NDArray[np.float32]
WAYS = ("run", "python", "onnx", "server")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, encoder_config: Callable[..., EncoderConfig]) -> tuple[Path, Path]:
    """A checkpoint whose tokenizer has special tokens, and its artifact."""
    training = TokenizerTraining(model="wordlevel", min_frequency=1, bos_token="[BOS]", eos_token="[EOS]")
    tokenizer = train_tokenizer(TEXTS, training)
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size, pooling="last"), 0)
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder / "checkpoint", encoder, tokenizer)
    build_artifact(encoder, tokenizer, folder / "artifact", variants=())
    return folder / "checkpoint", folder / "artifact"


@pytest.fixture(params=range(len(WAYS) - 1), ids=WAYS[1:])
def other(request: pytest.FixtureRequest) -> int:
    return int(request.param) + 1


def record(model: tuple[Path, Path], tokenization: TokenizationSettings) -> tuple[Path, Path]:
    """The same model, of which both folders say that its texts are tokenized so."""
    checkpoint, artifact = model
    for folder in model:
        config = json.loads((folder / CONFIG_FILE).read_text())
        text = json.dumps({**config, "tokenization": tokenization.model_dump(mode="json")})
        if folder == checkpoint:
            (folder / CONFIG_FILE).write_text(text)
        else:
            Artifact.open(folder).with_files({CONFIG_FILE: text})
    return checkpoint, artifact


def encode_in_a_run(checkpoint: Path, texts: list[str], output: Path, **tokenizer: Any) -> Vectors:
    config = run_config(output, model={"path": str(checkpoint)}, tokenizer=tokenizer)
    encode_dataset(config, source_of(texts, config), *reversed(open_torch(config)), show_progress=False)
    return vectors_at(output)


def encode_in_python(checkpoint: Path, texts: list[str]) -> Vectors:
    encoder, tokenizer = load_checkpoint(checkpoint)
    return encode_texts(texts, tokenizer, TorchEngine(encoder))


def encode_in_the_server(artifact: Path, texts: list[str]) -> Vectors:
    service = Service(Artifact.open(artifact), ServeSettings(), Metrics())

    async def encode() -> Vectors:
        tokens = service.tokenize(texts)
        with service.reserve(0) as reservation:
            return await service.encode(tokens, reservation, time.monotonic() + 60)

    try:
        return asyncio.run(encode())
    finally:
        service.close()


def encode_every_way(model: tuple[Path, Path], texts: list[str], output: Path) -> Iterator[Vectors]:
    checkpoint, artifact = model
    yield encode_in_a_run(checkpoint, texts, output)
    yield encode_in_python(checkpoint, texts)
    yield OnnxEncoder.load(artifact).encode(texts)
    yield encode_in_the_server(artifact, texts)


def test_no_way_uses_the_dropout_of_a_tokenizer(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    """The files are those of versions that saved the dropout, and a fingerprint that includes it."""
    with_dropout = assemble()
    tokenizer = TextTokenizer(with_dropout)
    fingerprint = tokenizer.fingerprint_with_sampling
    config = encoder_config(vocab_size=tokenizer.vocab_size, pooling="last", tokenizer_fingerprint=fingerprint)
    encoder = seeded_encoder(config, 0)
    folders = tmp_path / "checkpoint", tmp_path / "artifact"
    save_checkpoint(folders[0], encoder, tokenizer)
    artifact = build_artifact(encoder, tokenizer, folders[1], variants=())
    for folder in folders:
        assert json.loads((folder / TOKENIZER_FILE).read_text())["model"]["dropout"] is None
        assert json.loads((folder / CONFIG_FILE).read_text())["tokenizer_fingerprint"] == tokenizer.fingerprint
    expected = encode_in_python(folders[0], [*TEXTS])
    saved = json.loads((folders[0] / CONFIG_FILE).read_text())
    old_config = json.dumps({**saved, "tokenizer_fingerprint": fingerprint})
    (folders[0] / TOKENIZER_FILE).write_text(with_dropout.to_str())
    (folders[0] / CONFIG_FILE).write_text(old_config)
    artifact.with_files({TOKENIZER_FILE: with_dropout.to_str(), CONFIG_FILE: old_config})
    others = [Encoder.load(folder).encode(TEXTS) for folder in folders]
    for found in [Encoder(encoder, with_dropout).encode(TEXTS), *others]:
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    for found in encode_every_way(folders, [*TEXTS], tmp_path / "run"):
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_settings_of_a_checkpoint_are_used_outside_a_run(model: tuple[Path, Path], tmp_path: Path) -> None:
    tokenization = TokenizationSettings(add_special_tokens=False, max_length=2, truncate=True)
    expected = encode_in_a_run(model[0], TEXTS, tmp_path, **tokenization.model_dump())
    for found in encode_every_way(record(model, tokenization), TEXTS, tmp_path / "again"):
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    special=st.booleans(),
    cut_at=st.none() | st.integers(3, 9),
    texts=st.lists(
        st.sampled_from([*TEXTS, "", "moon zebra", "cat " * 30]) | st.text(max_size=20), min_size=1, max_size=6
    ),
)
def test_every_way_gives_the_same_vectors(
    model: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    special: bool,
    cut_at: int | None,
    texts: list[str],
) -> None:
    tokenization = TokenizationSettings(add_special_tokens=special, max_length=cut_at, truncate=cut_at is not None)
    expected, *others = encode_every_way(record(model, tokenization), texts, tmp_path_factory.mktemp("run"))
    for found in others:
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
