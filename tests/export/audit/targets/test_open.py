"""What can be named, and what is refused in a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.audit_models import plain_function
from helpers.small_transformer import Faults, small_transformer, write_embedding_model
from lengthwise.errors import AuditError, ConfigError, LengthwiseError
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.targets.function import FunctionTarget
from lengthwise.export.audit.targets.onnx_graph import OnnxTarget
from lengthwise.export.audit.targets.open import OpenOptions, make_options, open_target
from lengthwise.export.audit.units import word_units


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_embedding_model(tmp_path / "model", small_transformer())


def open_onnx(*arguments: Any) -> OnnxTarget:
    target = open_target(*arguments)
    assert isinstance(target, OnnxTarget)
    return target


def test_a_folder_and_its_graph_are_the_same(folder: Path) -> None:
    targets = [open_onnx(folder), open_onnx(folder / "onnx/model.onnx")]
    for target in targets:
        assert target.folder == folder.resolve()
        assert target.output == "sentence_embedding"
        assert target.claims.max_length == 64
        assert target.special_tokens == 2
    np.testing.assert_array_equal(*(target.encode_texts(["the cat", "of rain"]) for target in targets))


def test_causes_are_those_of_the_output_that_is_taken(folder: Path) -> None:
    target = open_onnx(folder, OpenOptions(output="token_embeddings", pooling="mean"))
    assert "sentence_embedding" in open_onnx(folder).view.sources
    assert "sentence_embedding" not in target.view.sources


def test_weights_that_are_cut_short_are_said(folder: Path) -> None:
    path = folder / "onnx/model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.data", size_threshold=1024)
    assert open_onnx(folder).embedding_rows is not None
    weights = folder / "onnx/model.data"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        AuditError, match=r"weights in model.data take [\d,]+ bytes, and the file has 1,000; get it again"
    ):
        open_target(folder)


def test_the_graph_of_a_folder_is_named(folder: Path) -> None:
    assert open_onnx(folder).environment()["graph"] == "onnx/model.onnx"
    assert open_onnx(folder / "onnx/model.onnx").environment()["graph"] == "onnx/model.onnx"


def test_a_graph_without_files_takes_ids(folder: Path, tmp_path: Path) -> None:
    (folder / "onnx/model.onnx").rename(tmp_path / "alone.onnx")
    target = open_onnx(tmp_path / "alone.onnx")
    assert target.folder is None
    assert target.tokenizer is None
    assert max(target.units.ids or ()) == (target.embedding_rows or 0) - 1


def test_the_tokenizer_of_another_model_is_named(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: 100_000 + number for token, number in vocabulary.items()}
    tokenizer["added_tokens"], tokenizer["post_processor"] = [], None
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(AuditError, match=r"tokenizer\.json belongs to another model than .*: it gives the id [\d,]+"):
        open_target(folder)


def test_states_are_pooled_as_the_files_say_or_as_asked(folder: Path) -> None:
    options = OpenOptions(output="token_embeddings")
    by_files, by_name = open_onnx(folder, options), open_onnx(folder)
    np.testing.assert_allclose(by_files.encode_texts(["the cat"]), by_name.encode_texts(["the cat"]), atol=1e-6)
    first = open_onnx(folder, OpenOptions(output="token_embeddings", pooling="cls"))
    assert first.pooling == ("cls",)
    assert np.abs(first.encode_texts(["the cat"]) - by_name.encode_texts(["the cat"])).max() > 1e-2


def test_positions_that_are_an_input_follow_the_mask(tmp_path: Path) -> None:
    write_embedding_model(tmp_path, small_transformer(Faults(positions=True)))
    audit = audit_target(open_target(tmp_path), quick=True, names=["left padding", "padding width"])
    assert {answer.verdict for answer in audit.answers} == {"pass"}


def test_inputs_may_be_of_32_bits(tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "32", small_transformer(Faults(integers=TensorProto.INT32)))
    write_embedding_model(tmp_path / "64", small_transformer())
    narrow, wide = (open_target(tmp_path / bits).encode_texts(["the cat", "rain"]) for bits in ("32", "64"))
    np.testing.assert_array_equal(narrow, wide)


def test_a_function_gives_vectors_in_any_form() -> None:
    expected = plain_function(["a b", "c"])
    for function in (
        plain_function,
        lambda texts: iter(plain_function(texts)),
        lambda texts: plain_function(texts).tolist(),
    ):
        np.testing.assert_allclose(FunctionTarget(function).encode_texts(["a b", "c"]), expected, rtol=1e-6)


def graph_of(inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, list[Any]]) -> onnx.ModelProto:
    """A graph that gives its first input as floats."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    nodes = [helper.make_node("Cast", [values[0].name], [name], to=TensorProto.FLOAT) for name in outputs]
    graph = helper.make_graph(nodes, "graph", values, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IDS = (TensorProto.INT64, ["batch", "sequence"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            {"input": (TensorProto.FLOAT, [1, "samples"]), "state": (TensorProto.FLOAT, [2, 1, 128])},
            {"output": [1, 1]},
            r"cannot be fed from texts: state; its inputs are input \(float\[1, 'samples'\]\), state",
        ),
        (
            {"pixel_values": (TensorProto.FLOAT, ["batch", 3, 224, 224])},
            {"image_embeds": ["batch", 3]},
            "cannot be fed from texts: pixel_values",
        ),
        (
            {"input_ids": IDS, "attention_mask": IDS, "past_key_values": (TensorProto.FLOAT, ["batch", 2])},
            {"last_hidden_state": ["batch", "sequence"]},
            "cannot be fed from texts: past_key_values",
        ),
        ({"input_ids": IDS}, {"logits": ["batch", "sequence"]}, "its outputs are logits; if one of them holds vectors"),
        ({"input_ids": IDS}, {"start": ["batch", 2], "end": ["batch", 2]}, "its outputs are start, end"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, inputs: Any, outputs: Any, message: str) -> None:
    onnx.save(graph_of(inputs, outputs), tmp_path / "model.onnx")
    with pytest.raises(AuditError, match=message):
        open_target(tmp_path / "model.onnx")


def test_states_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    model = graph_of({"input_ids": IDS}, {"last_hidden_state": [1, "batch", "sequence"]})
    model.graph.node[0].output[0] = "cast"
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    model.graph.initializer.append(axes)
    model.graph.node.append(helper.make_node("Unsqueeze", ["cast", "axes"], ["last_hidden_state"]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(AuditError, match=r"not an embedding model, as far as can be told: .* is of shape \[1, 1, "):
        open_target(tmp_path / "model.onnx")


def test_missing_and_damaged_files_are_named(tmp_path: Path, folder: Path) -> None:
    graph = folder / "onnx/model.onnx"
    for path, message in (
        (tmp_path / "none.onnx", "there is no such file or folder"),
        (folder / "tokenizer.json", "not an ONNX graph by its name"),
        (tmp_path, "holds no ONNX graph and no modules.json"),
    ):
        if path == tmp_path:
            graph.rename(folder / "onnx/model.bin")
        with pytest.raises(AuditError, match=message):
            open_target(path)
    graph.write_bytes(b"")
    with pytest.raises(AuditError, match="the file is empty"):
        open_target(folder)
    graph.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(AuditError, match="a pointer of Git LFS"):
        open_target(folder)
    graph.write_bytes(b"damaged")
    with pytest.raises(AuditError, match="not an ONNX graph that can be read"):
        open_target(folder)


def test_a_checkpoint_of_ours_has_to_be_exported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "lengthwise"}')
    with pytest.raises(AuditError, match="a checkpoint of Lengthwise has no graph; audit what lengthwise export"):
        open_target(tmp_path)


def test_several_graphs_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        onnx.save(small_transformer(), tmp_path / f"{name}.onnx")
    with pytest.raises(AuditError, match=r"holds 2 graphs \(a\.onnx, b\.onnx\); give the file"):
        open_target(tmp_path)


def test_external_weights_are_read_missed_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(small_transformer(), path, save_as_external_data=True, location="a.data")
    assert open_onnx(path).precision == "float32"
    monkeypatch.setattr("lengthwise.export.audit.targets.onnx_graph.free_memory", lambda: 1000)
    with pytest.raises(AuditError, match="GB of memory are free; audit it on a machine with more memory"):
        open_target(path)
    (tmp_path / "a.data").unlink()
    with pytest.raises(AuditError, match=r"its weights are in a\.data, which is not there"):
        open_target(path)


def test_options_that_do_not_exist_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'speed': there is no such option"):
        make_options(speed=1)
    with pytest.raises(
        AuditError, match="has no output 'vectors'; its outputs are sentence_embedding, token_embeddings"
    ):
        open_target(folder, OpenOptions(output="vectors"))
    with pytest.raises(LengthwiseError, match="pools by attention, which is not known here"):
        open_target(folder, OpenOptions(pooling="attention"))
    with pytest.raises(AuditError, match="holds no ONNX graph"):
        open_target(folder.parent / "model/onnx", OpenOptions(engine="torch"))


@pytest.mark.parametrize(
    "known",
    [
        ("river", "stone", "music", "garden", "paper"),  # a small vocabulary, of which the first words have none
        tuple(word for word in word_units().words[:48] if word != "you"),  # one unknown word among the first
    ],
)
def test_words_that_a_model_does_not_know_are_no_units(known: tuple[str, ...]) -> None:
    """As those of a stop list, of which a text that is read whole would have no trace."""
    table = dict(zip(known, np.random.default_rng(0).normal(size=(len(known), 6)), strict=True))

    def encode(texts: list[str]) -> list[Any]:
        weights = [
            [(place + 1) * table[word] for place, word in enumerate(text.split()) if word in table] for text in texts
        ]
        return [np.sum(found, axis=0) if found else np.zeros(6) for found in weights]

    target = open_target(encode, quick=True)
    assert set(target.units.words) == set(known)
    assert audit_target(target, quick=True, names=["every token", "long texts"]).passed


def test_a_function_that_gives_no_vectors_is_refused() -> None:
    def broken(texts: list[str]) -> None:
        raise KeyError("weights")

    for function, message in ((broken, "it raised KeyError"), (lambda texts: [1, 2, 3], "not one vector for each")):
        with pytest.raises(AuditError, match=message):
            open_target(function)
