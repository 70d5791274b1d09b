"""Published ONNX embedding models as teachers: their outputs, pooling and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.onnx_models import TABLE, write_model
from helpers.students import make_texts
from lengthwise.errors import CheckpointError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.training.onnx_teacher import load_graph
from lengthwise.training.teacher import open_teacher

TEXTS = make_texts(30)


def states(tokenizer: TextTokenizer) -> list[np.ndarray]:
    tokens = tokenize_texts(TEXTS, tokenizer)
    return [TABLE[tokens.row(row)] for row in range(len(TEXTS))]


def test_states_are_averaged_over_real_tokens(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    teacher = open_teacher(write_model(tmp_path, tokenizer))
    expected = [state.mean(0) for state in states(tokenizer)]
    np.testing.assert_allclose(teacher.encode(TEXTS), expected, atol=1e-6)


def test_pooling_and_normalisation_are_those_of_the_files(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    pooling = {"word_embedding_dimension": 5, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    folder = write_model(tmp_path, tokenizer, pooling=pooling)
    expected = np.stack([state[0] for state in states(tokenizer)])
    np.testing.assert_allclose(open_teacher(folder).encode(TEXTS), expected, atol=1e-6)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]))
    normalized = load_graph(tmp_path).encode(TEXTS)
    np.testing.assert_allclose(normalized, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_vectors_of_the_graph_are_taken_as_they_are(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    teacher = open_teacher(write_model(tmp_path, tokenizer, "sentence_embedding"))
    vectors = teacher.encode(["the cat", "moon"])
    single = tokenize_texts(["the cat"], tokenizer)
    np.testing.assert_allclose(vectors[0], TABLE[single.row(0)].max(0), atol=1e-6)


def test_long_texts_are_cut_where_the_model_cuts_them(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    folder = write_model(tmp_path, tokenizer, sentence_bert_config={"max_seq_length": 3})
    cut, whole = open_teacher(folder).encode(["the cat sat on the mat", "the cat sat"])
    np.testing.assert_allclose(cut, whole, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "files", "message"),
    [
        (
            "logits",
            {},
            "the outputs logits; an embedding model has input_ids and attention_mask, and one of sentence_embedding",
        ),
        (
            "last_hidden_state",
            {"pooling": {"pooling_mode": "attention"}},
            "pools by attention, which is not known",
        ),
    ],
)
def test_other_graphs_are_refused(
    tmp_path: Path, tokenizer: TextTokenizer, output: str, files: dict[str, Any], message: str
) -> None:
    teacher = open_teacher(write_model(tmp_path, tokenizer, output, **files))
    with pytest.raises(CheckpointError) as caught:
        teacher.encode(TEXTS)
    assert message in str(caught.value)


def test_damaged_graph_is_named(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    teacher = open_teacher(write_model(tmp_path, tokenizer))
    (tmp_path / "onnx/model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx: onnxruntime cannot load the graph"):
        teacher.encode(TEXTS)
