"""The flow of data in a graph, read without running it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from helpers.small_transformer import VOCABULARY, WIDTH, Faults, small_transformer
from lengthwise.errors import AuditError
from lengthwise.export.audit.graph import COLUMNS, CONTENT, IDS, MASK, ROWS, GraphView, external_files, load_model


def view(faults: Faults = Faults()) -> GraphView:
    return GraphView(small_transformer(faults), {"input_ids": IDS, "attention_mask": MASK})


def test_sources_of_values() -> None:
    found = view()
    assert found.sources["input_ids"] == {IDS}
    assert CONTENT in found.sources["sentence_embedding"]
    (columns,) = (node for node in found.nodes("Gather") if found.sources[node.output[0]] == {COLUMNS})
    assert columns.op_type == "Gather"
    assert not found.depends_on(columns.output[0], IDS, ROWS, CONTENT)


def test_the_embedding_is_found() -> None:
    table = view().embedding
    assert table is not None
    assert list(table.dims) == [len(VOCABULARY), WIDTH]


def test_attention_is_masked_or_not() -> None:
    for masked in (True, False):
        found = view(Faults(masked=masked))
        assert {found.is_masked(node.input[0]) for node in found.nodes("Softmax")} == {masked}


def test_precision_of_a_graph() -> None:
    model = small_transformer()
    assert GraphView(model).precision == "float32"
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.data_type = onnx.TensorProto.FLOAT16
    assert GraphView(model).precision == "float16"
    model.graph.node.append(onnx.helper.make_node("MatMulInteger", ["a", "b"], ["c"]))
    assert GraphView(model).precision == "int8"


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    onnx.save(small_transformer(), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    (tmp_path / "a.data").unlink()
    model = load_model(tmp_path / "a.onnx")
    sizes = external_files(model)
    assert list(sizes) == ["a.data"]
    assert sizes["a.data"] > 4 * len(VOCABULARY) * WIDTH
    assert GraphView(model, {"input_ids": IDS}).embedding is not None


def test_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph at all")
    with pytest.raises(AuditError, match=r"a\.onnx: not an ONNX graph that can be read"):
        load_model(tmp_path / "a.onnx")
