"""Models by their names: checkpoints, artifacts, static models as files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.onnx_models import TABLE, write_model
from helpers.texts import TEXTS
from lengthwise import Encoder
from lengthwise.errors import ConfigError, LengthwiseError
from lengthwise.evaluation.models import ModelSpec, VectorModel, model_of, open_model
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer


def opened(text: str) -> VectorModel:
    model = open_model(ModelSpec.parse(text))
    assert isinstance(model, VectorModel)
    return model


@pytest.fixture
def static_folder(tmp_path: Path, tokenizer: TextTokenizer) -> Path:
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    table = np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 5)).astype(np.float32)
    save_file({"embeddings": table}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model", ("model", "model", None)),
        ("model:int8", ("model:int8", "model", "int8")),
        ("mine=a/b", ("mine", "a/b", None)),
        ("mine=a/b:fp16", ("mine", "a/b", "fp16")),
        ("bm25", ("bm25", "bm25", None)),
        ("package:some-model", ("package:some-model", "package:some-model", None)),
        ("words=package:some-model:bag", ("words", "package:some-model", "bag")),
    ],
)
def test_specs(text: str, expected: tuple[str, str, str | None]) -> None:
    spec = ModelSpec.parse(text)
    assert (spec.name, spec.source, spec.variant) == expected


def test_a_folder_whose_name_has_a_colon_or_an_equals_sign(tmp_path: Path) -> None:
    for name in ("a:b", "a=b"):
        (tmp_path / name).mkdir()
        assert ModelSpec.parse(str(tmp_path / name)).source == str(tmp_path / name)


def test_every_graph_of_an_artifact_gives_nearly_the_same_vectors(artifact_folder: Path) -> None:
    specs = ModelSpec.parse(f"ours={artifact_folder}:all").expanded()
    assert {spec.name for spec in specs} >= {"ours:native", "ours:portable", "ours:int8"}
    expected = Encoder.load(artifact_folder).encode(list(TEXTS))
    sizes = {}
    for spec in specs:
        model = open_model(spec)
        assert isinstance(model, VectorModel)
        np.testing.assert_allclose(model.encode(list(TEXTS)), expected, atol=0.05)
        sizes[spec.variant] = model.num_bytes
    assert 0 < sizes["int8"] < sizes["native"]
    assert len(ModelSpec.parse(str(artifact_folder)).expanded()) == 1


def test_a_checkpoint_and_its_encoder_in_memory(artifact_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(artifact_folder)
    encoder.save(tmp_path / "model")
    texts = [*TEXTS, ""]
    expected = encoder.encode(texts)
    for model in (opened(str(tmp_path / "model")), model_of(encoder, "mine")):
        np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
    assert opened(str(tmp_path / "model")).num_bytes
    assert opened(f"{tmp_path / 'model'}:bf16").kind.startswith("checkpoint")


def test_static_vectors_are_means_of_embeddings(static_folder: Path, tokenizer: TextTokenizer) -> None:
    from safetensors.numpy import load_file

    table = load_file(static_folder / "model.safetensors")["embeddings"]
    model = opened(str(static_folder))
    cat, moon = (tokenizer.token_id(word) for word in ("cat", "moon"))
    found = model.encode(["cat moon", "cat unknownword", "", "unknownword"])
    np.testing.assert_allclose(found[0], (table[cat] + table[moon]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[1], table[cat], rtol=1e-6)
    assert not found[2:].any()
    assert model.num_bytes == table.nbytes + (static_folder / "tokenizer.json").stat().st_size


def test_weights_and_mapping_as_model2vec_has_them(static_folder: Path, tokenizer: TextTokenizer) -> None:
    size = tokenizer.vocab_size
    table = np.eye(2, dtype=np.float16)
    mapping, weights = np.arange(size, dtype=np.int32) % 2, np.linspace(1, 2, size).astype(np.float64)
    save_file({"embeddings": table, "mapping": mapping, "weights": weights}, static_folder / "model.safetensors")
    cat = tokenizer.token_id("cat")
    assert cat is not None
    expected = np.zeros(2, np.float32)
    expected[cat % 2] = weights[cat]
    np.testing.assert_allclose(opened(str(static_folder)).encode(["cat"])[0], expected, rtol=1e-6)


def test_another_name_of_the_tokenizer_and_of_the_table(static_folder: Path, tokenizer: TextTokenizer) -> None:
    (static_folder / "tokenizer.json").rename(static_folder / "some_tokenizer_config.json")
    (static_folder / "config.json").write_text(json.dumps({"unrelated": True}))
    table = np.ones((tokenizer.vocab_size, 3), np.float32)
    save_file({"embedding.weight": table}, static_folder / "model.safetensors")
    assert opened(str(static_folder)).encode(["cat"]).tolist() == [[1, 1, 1]]


def test_an_onnx_embedding_model(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    folder = write_model(tmp_path, tokenizer)
    model = opened(folder)
    assert model.kind == "ONNX, onnxruntime"
    tokens = tokenize_texts(list(TEXTS), tokenizer)
    expected = [TABLE[tokens.row(row)].mean(0) for row in range(len(TEXTS))]
    np.testing.assert_allclose(model.encode(list(TEXTS)), expected, atol=1e-6)
    files = (tmp_path / "onnx/model.onnx", tmp_path / "tokenizer.json")
    assert model.num_bytes == sum(path.stat().st_size for path in files)
    with pytest.raises(ConfigError, match="has no variant 'int8'; leave it out"):
        opened(f"{folder}:int8")


def test_damaged_static_models_are_refused(static_folder: Path, tokenizer: TextTokenizer) -> None:
    save_file({"embeddings": np.ones((2, 3), np.float32)}, static_folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens and the model 2 embeddings"):
        opened(str(static_folder))
    (static_folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="the embeddings cannot be read"):
        opened(str(static_folder))
    save_file({"embeddings": np.ones((tokenizer.vocab_size, 3), np.float32)}, static_folder / "model.safetensors")
    (static_folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has embeddings, but no tokenizer\.json"):
        opened(str(static_folder))
    (static_folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="not a model that can be evaluated"):
        opened(str(static_folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "nowhere: there is no such folder; give a model's folder, package:NAME or bm25"),
        ("package:lengthwise-no-such", "the package is not installed; run pip install --no-deps lengthwise-no-such"),
        ("package:click", "not a model that can be evaluated"),
        ("a=", "the model 'a=' has no source"),
    ],
)
def test_what_is_no_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(LengthwiseError, match=message):
        open_model(ModelSpec.parse(text))


def test_variants_that_a_model_does_not_have(artifact_folder: Path, static_folder: Path, tmp_path: Path) -> None:
    Encoder.load(artifact_folder).save(tmp_path / "model")
    for text, message in (
        (f"{artifact_folder}:int4", "has no variant 'int4'; choose native,"),
        (f"{tmp_path / 'model'}:int4", "has no variant 'int4'; choose fp32, bf16, fp16, int8"),
        (f"{static_folder}:int8", "has no variant 'int8'; leave it out"),
    ):
        with pytest.raises(ConfigError, match=message):
            opened(text)
