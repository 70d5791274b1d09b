"""The rewritten graphs: what is in them, and that 8 bits do not let a row see its batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.graphs.fp16 import to_fp16
from lengthwise.export.graphs.int8 import Grid, quantize_rows, to_int8, to_int8_dynamic
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.rewrite import REWRITES, missing_variants
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import NATIVE, PORTABLE, VARIANTS

VOCAB = 40


@pytest.fixture(scope="module")
def native(encoder_config: Callable[..., EncoderConfig]) -> onnx.ModelProto:
    head = {"pooling": "mean_last", "static_residual": True}
    config = encoder_config(num_layers=2, bidirectional=True, vocab_size=VOCAB, **head)
    return trace_to_onnx(seeded_encoder(config, 3), {"lengthwise.pooling": "mean_last"})


def weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in model.metadata_props}


def nodes(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def test_every_other_variant_has_a_rewrite() -> None:
    assert set(REWRITES) == set(VARIANTS) - {NATIVE}


@pytest.mark.parametrize("name", sorted(REWRITES))
def test_rewrite_keeps_interface_metadata_and_the_native_graph(name: str, native: onnx.ModelProto) -> None:
    before = native.SerializeToString(deterministic=True)
    model = REWRITES[name](native)
    assert native.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model, full_check=True)
    assert (model.graph.input, model.graph.output) == (native.graph.input, native.graph.output)
    assert model.ir_version == native.ir_version
    assert metadata(model)["lengthwise.pooling"] == "mean_last"
    assert metadata(model)["lengthwise.variant"] == name
    assert metadata(model)["lengthwise.independent_of_batch"] == str(VARIANTS[name].independent).lower()
    domains = {item.domain: item.version for item in model.opset_import}
    assert domains == {"": 18, **({"com.microsoft": 1} if VARIANTS[name].contrib else {})}
    assert REWRITES[name](native).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    used = {value for node in model.graph.node for value in node.input}
    assert set(weights(model)) <= used


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_constants_are_typed_tensors(name: str, native: onnx.ModelProto) -> None:
    """Some tools read constants of another form, or fills without a value, as float64."""
    model = native if name == NATIVE else REWRITES[name](native)
    for node in nodes(model, "Constant") + nodes(model, "ConstantOfShape"):
        assert [attribute.name for attribute in node.attribute] == ["value"], node


def test_portable_lstms_have_neither_lengths_nor_direction(native: onnx.ModelProto) -> None:
    model = to_portable(native)
    lstms = nodes(model, "LSTM")
    assert len(lstms) == 4
    for node in lstms:
        x, w, r, b, lengths, hidden, cell = node.input
        assert (bool(x), lengths) == (True, "")
        assert all(name in weights(model) for name in (w, r, b))
        assert hidden == cell != ""
        assert [item.name for item in node.attribute] == ["hidden_size"]
    assert not {"Loop", "Scan", "If", "ReverseSequence"} & {node.op_type for node in model.graph.node}


def test_unidirectional_portable_graph_has_one_gather(
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    model = to_portable(trace_to_onnx(seeded_encoder(encoder_config(pooling="mean"), 0), {}))
    counts = Counter(node.op_type for node in model.graph.node)
    assert (counts["LSTM"], counts["Gather"], counts["Range"]) == (1, 1, 0)  # the embedding's Gather alone


def test_fp16_graph_has_half_precision_in_embedding_and_lstm_only(native: onnx.ModelProto) -> None:
    model = to_fp16(native)
    found = weights(model)
    assert {str(values.dtype) for name, values in found.items() if name.endswith(".fp16")} == {"float16"}
    head = next(name for name in found if "static_projection" in name)
    assert sum(values.size for name, values in found.items() if values.dtype == np.float32 and name != head) <= 2
    assert len(nodes(model, "LSTM")) == 2
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_int8_weights_use_seven_bits_and_zeros_stay_zero(native: onnx.ModelProto) -> None:
    model = to_int8(native)
    lstms = nodes(model, "DynamicQuantizeLSTM")
    assert len(lstms) == 2
    assert not nodes(model, "LSTM")
    found = weights(model)
    for node in lstms:
        for position in (1, 2):
            values = found[node.input[position]]
            assert values.dtype == np.int8
            assert np.abs(values.astype(int)).max() == 63
            assert (values[:, -2:] == 0).all()  # nothing reads the two columns that hold the range
    quantized, scale = quantize_rows(np.array([[[0.0, 0.0], [1.0, -0.25]]], np.float32))
    np.testing.assert_array_equal(quantized, [[[0, 0], [63, -16]]])
    assert (scale > 0).all()


@given(low=st.floats(-100, 0), high=st.floats(0, 100), part=st.floats(0, 1))
def test_grid_holds_zero_and_rounds_to_half_a_step(low: float, high: float, part: float) -> None:
    grid = Grid.between(low, high)
    values = np.array([0, low + part * (high - low)], np.float32)
    places = grid.quantize(values).astype(np.float32)
    found = (places - np.float32(grid.zero_point)) * grid.scale
    assert found[0] == 0
    assert abs(found[1] - values[1]) <= 1.01 * float(grid.scale)  # half a step, and half at an end


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(opened: onnxruntime.InferenceSession, rows: list[list[int]], extra: int = 0) -> list[NDArray[np.float32]]:
    columns = max(map(len, rows)) + extra
    ids = np.array([row + [VOCAB - 1] * (columns - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (columns - len(row)) for row in rows], np.int64)
    vectors, states = opened.run(None, {"input_ids": ids, "attention_mask": mask})
    return [vectors, states]


@pytest.fixture(scope="module")
def sessions(native: onnx.ModelProto) -> dict[str, onnxruntime.InferenceSession]:
    return {"fixed": session(to_int8(native)), "dynamic": session(to_int8_dynamic(native))}


texts = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), min_size=2, max_size=6)


@pytest.mark.parametrize("name", sorted(REWRITES))
def test_static_residual_reads_the_lstms_embedding_table(name: str, native: onnx.ModelProto) -> None:
    """One table in one precision, and the int8 graphs' end columns are no part of its rows.

    The portable graph gathers them twice, for engines that transpose wrongly what an LSTM reads too.
    """
    model = REWRITES[name](native)
    tables = [name for name, values in weights(model).items() if values.ndim == 2 and len(values) == VOCAB]
    assert len(tables) == 1
    assert len([node for node in nodes(model, "Gather") if node.input[0] == tables[0]]) == 1 + (name == PORTABLE)
    assert len(nodes(model, "DequantizeLinear")) == ("int8" in name)
    rows = [[3, 4, 5], [7] * 9, list(range(30))]
    right, _ = run(session(native), rows)
    found, _ = run(session(model), rows)
    np.testing.assert_allclose(found, right, atol=VARIANTS[name].difference or 1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(rows=texts, extra=st.integers(0, 5))
def test_int8_row_is_independent_of_its_batch(
    rows: list[list[int]], extra: int, sessions: dict[str, onnxruntime.InferenceSession]
) -> None:
    vectors, together = run(sessions["fixed"], rows, extra)
    for index, row in enumerate(rows):
        vector, alone = run(sessions["fixed"], [row])
        np.testing.assert_array_equal(together[index, : len(row)], alone[0])
        np.testing.assert_allclose(vectors[index], vector[0], atol=1e-6, rtol=0)


def test_dynamic_int8_row_depends_on_its_batch(sessions: dict[str, onnxruntime.InferenceSession]) -> None:
    """Else the test above could not fail."""
    rows = [[3, 4, 5], list(range(30))]
    _, together = run(sessions["dynamic"], rows)
    _, alone = run(sessions["dynamic"], rows[:1])
    assert np.abs(together[0, :3] - alone[0]).max() > 1e-5


@pytest.mark.parametrize("to_8_bits", [to_int8, to_int8_dynamic])
def test_int8_keeps_columns_of_every_range(
    to_8_bits: Callable[[onnx.ModelProto], onnx.ModelProto], encoder_config: Callable[..., EncoderConfig]
) -> None:
    """Two encoders of one function: in the second, columns of the embedding differ in range, as trained ones do."""
    config = encoder_config(bidirectional=True, vocab_size=VOCAB, pooling="mean", static_residual=True)
    encoder, errors = seeded_encoder(config, 3), []
    rows = [[3, 4, 5], [7] * 9, list(range(30))]
    for factor in (1.0, 100.0):
        columns = torch.logspace(0, 1, config.embedding_dim, base=factor)
        with torch.no_grad():
            encoder.embedding.weight *= columns
            for weight in (
                encoder.lstm.weight_ih_l0,
                encoder.lstm.weight_ih_l0_reverse,
                encoder.static_projection.weight,
            ):
                weight /= columns
        native = trace_to_onnx(encoder, {})
        errors.append(np.abs(run(session(to_8_bits(native)), rows)[0] - run(session(native), rows)[0]).max())
    assert errors[1] < 1.5 * errors[0]


def test_rewriting_another_graph_is_refused(native: onnx.ModelProto) -> None:
    with pytest.raises(ValueError, match="rewrite the native graph only"):
        to_int8(to_portable(native))


def test_graphs_that_an_encoder_cannot_have_are_named(encoder_config: Callable[..., EncoderConfig]) -> None:
    uncut = {"padding": {"to": 9, "truncate": None}}
    assert missing_variants(encoder_config(padding={"to": 9})) == {}
    assert missing_variants(encoder_config(cell="gru", **uncut)).keys() == {"int8_dynamic", "executorch"}
    assert "sym_max" in missing_variants(encoder_config(**uncut))["executorch"]
