"""Text in, vector out: the native graph's vectors for any text, and other tokenizers refused by what is lacking."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.model import seeded_encoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.graphs import text_input
from lengthwise.export.graphs.text_input import TEXT_GRID
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, NATIVE, TEXT, VARIANTS
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer

extensions = pytest.importorskip(
    "onnxruntime_extensions", reason="the text graph was not made: onnxruntime-extensions is not installed"
)
MORE_TEXTS = [*TEXTS, *TEXT_GRID, "a cat\u0085sat", "Ünïcödé " * 50]


def trained(**changes: Any) -> TextTokenizer:
    settings = {"model": "byte_bpe", "min_frequency": 1, "vocab_size": 400, "normalizers": (), **changes}
    return train_tokenizer(TEXTS, TokenizerTraining(**settings))


def vectors_of(path: Path, texts: list[str]) -> list[np.ndarray[Any, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(extensions.get_library_path())
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(["sentence_embedding"], {"text": np.array([text], object)})[0][0] for text in texts]


@pytest.mark.parametrize(
    ("special", "tokenization"),
    [
        ({}, {}),
        ({"bos_token": "[BOS]", "eos_token": "[EOS]"}, {}),
        ({"bos_token": "[BOS]"}, {"max_length": 7, "truncate": True}),
        ({"eos_token": "[EOS]"}, {"add_special_tokens": False, "max_length": 9, "truncate": True}),
    ],
)
def test_vectors_are_those_of_the_native_graph(
    special: dict[str, str],
    tokenization: dict[str, Any],
    tmp_path: Path,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    tokenizer, settings = trained(**special), TokenizationSettings(**tokenization)
    config = encoder_config(vocab_size=tokenizer.vocab_size, bidirectional=True, tokenization=settings)
    encoder = seeded_encoder(config, 0)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[TEXT])
    found = vectors_of(artifact.folder / DEVICE_VARIANTS[TEXT].file, MORE_TEXTS)
    native = OnnxRuntimeCpu(threads=1)
    native.load(artifact.folder / VARIANTS[NATIVE].file)
    tokens = tokenize_texts(MORE_TEXTS, tokenizer, settings)
    for text, start, end, vector in zip(MORE_TEXTS, tokens.offsets[:-1], tokens.offsets[1:], found, strict=True):
        ids = np.append(tokens.values[start:end], 0)[None].astype(np.int64)
        right = native.vectors(ids, (np.arange(ids.shape[1]) < end - start).astype(np.int64)[None])
        np.testing.assert_array_equal(vector, right[0], err_msg=repr(text))  # the same bits


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({"normalizers": ("nfkc", "lowercase")}, "normalizer NFKC, Lowercase"),
        ({"model": "wordpiece"}, "WordPiece model"),
        ({"model": "unigram"}, "Unigram model"),
        ({"model": "wordlevel"}, "WordLevel model"),
        ({"model": "bpe"}, "pre-tokenizer Whitespace before BPE"),
    ],
)
def test_other_tokenizers_are_refused_by_name(
    settings: dict[str, Any], lacking: str, tmp_path: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    tokenizer = trained(**settings)
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size), 0)
    with pytest.raises(ArtifactError, match=rf"onnxruntime-extensions [\d.]+ has no exact {lacking}"):
        build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[TEXT])
    assert not (tmp_path / "artifact").exists()


def test_other_ids_are_found(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tokenizer that looks supported and is not, the text and both ids are named."""
    monkeypatch.setattr(text_input, "_unsupported", lambda record: "")
    tokenizer = trained(normalizers=("lowercase",))
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size), 0)
    with pytest.raises(ArtifactError, match=r"gives \"IT'S\" the ids \[.*\], not \["):
        build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[TEXT])


def test_text_ends_at_a_null_character(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    """A limit of onnxruntime-extensions that the documentation states; if this fails, it is gone."""
    tokenizer = trained()
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size), 0)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[TEXT])
    cut, whole = vectors_of(artifact.folder / DEVICE_VARIANTS[TEXT].file, ["a\u0000b", "a"])
    np.testing.assert_array_equal(cut, whole)


def test_missing_package_has_a_remedy(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    tokenizer = trained()
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size), 0)
    with pytest.raises(ArtifactError, match=r"install lengthwise\[text\], or leave it out"):
        build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[TEXT])


def test_code_of_the_card_gives_the_right_vector(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = trained()
    encoder = seeded_encoder(encoder_config(vocab_size=tokenizer.vocab_size), 0)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[TEXT])
    section = (artifact.folder / "README.md").read_text().split("### onnxruntime-extensions\n")[1]
    monkeypatch.chdir(artifact.folder)
    names: dict[str, Any] = {}
    exec(section.split("```python\n")[1].split("```")[0], names)
    right = vectors_of(artifact.folder / DEVICE_VARIANTS[TEXT].file, ["a short text"])[0]
    np.testing.assert_allclose(names["vectors"], right[None], atol=1e-6, rtol=0)
