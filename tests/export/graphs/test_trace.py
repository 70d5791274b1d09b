"""Tracing: the graph's shape, and that it stays the same function for every batch, length and configuration."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.oracle import compute_oracle
from lengthwise.export.graphs import trace
from lengthwise.export.graphs.portable_lstm import scanned
from lengthwise.export.graphs.trace import (
    IR_VERSION,
    OPSET,
    ClientEncoder,
    OnnxClientEncoder,
    PortableClientEncoder,
    save_onnx,
    save_program,
    save_torchscript,
    trace_to_onnx,
    trace_to_program,
    trace_to_torchscript,
)
from lengthwise.export.validation.cases import Case, grid_cases


def session_of(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    source = model if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, case: Case) -> list[NDArray[np.float32]]:
    return session.run(None, {"input_ids": case.input_ids, "attention_mask": case.attention_mask})


def run_script(script: torch.jit.ScriptModule, case: Case) -> list[NDArray[np.float32]]:
    outputs = script(torch.from_numpy(case.input_ids), torch.from_numpy(case.attention_mask))
    return [output.detach().numpy() for output in outputs]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def assert_same(found: list[NDArray[np.float32]], encoder: PackedEncoder, case: Case) -> None:
    right = compute_oracle(encoder, case.input_ids, case.lengths)
    scale = max(1.0, float(np.abs(right.vectors).max()))
    np.testing.assert_allclose(found[0], right.vectors, atol=1e-6 * scale, rtol=0)
    np.testing.assert_allclose(found[1], right.states, atol=1e-6, rtol=0)


def test_onnx_and_torchscript_files_give_the_worked_example(tmp_path: Path) -> None:
    config = EncoderConfig(vocab_size=11, embedding_dim=6, hidden_size=2, pooling="last")
    encoder = seeded_encoder(config, 0)
    input_ids = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 9, 10]], np.int64)
    case = Case("example", "example", input_ids, np.array([3, 2, 5], np.int64), 11)
    save_onnx(trace_to_onnx(encoder, {}), tmp_path / "model.onnx")
    assert_same(run(session_of(tmp_path / "model.onnx"), case), encoder, case)
    save_torchscript(trace_to_torchscript(ClientEncoder(encoder)), tmp_path / "model.pt")
    assert_same(run_script(torch.jit.load(tmp_path / "model.pt"), case), encoder, case)


def test_operators_of_a_one_layer_graph(encoder_config: Callable[..., EncoderConfig]) -> None:
    model = trace_to_onnx(seeded_encoder(encoder_config(pooling="mean"), 0), {})
    assert Counter(operators(model)) == {
        "Greater": 2,  # mask > 0; rows of any token
        "ReduceSum": 2,  # lengths; states over time
        "Transpose": 3,
        "Gather": 1,
        "Cast": 2,
        "LSTM": 1,
        "Reshape": 1,
        "Unsqueeze": 3,
        "Where": 3,  # lengths of at least one; states and vectors where there are tokens
        "Div": 1,
    }


def test_static_residual_adds_a_mean_and_a_product(encoder_config: Callable[..., EncoderConfig]) -> None:
    plain, residual = (
        Counter(operators(trace_to_onnx(seeded_encoder(encoder_config(static_residual=static), 0), {})))
        for static in (False, True)
    )
    assert residual - plain == {"Transpose": 1, "Where": 1, "ReduceSum": 1, "Div": 1, "Gemm": 1, "Add": 1}


def test_graph_has_weights_without_slicing_or_joining(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(num_layers=2, bidirectional=True, projection_dim=5, normalize=True), 0)
    model = trace_to_onnx(encoder, {})
    assert not {"Split", "Concat", "Slice", "Loop", "Scan", "If"} & set(operators(model))
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    assert len(lstms) == 2
    weights = {initializer.name: initializer.dims for initializer in model.graph.initializer}
    for node in lstms:
        assert all(name in weights for name in node.input[1:4])
        assert node.input[4], "sequence_lens is not connected"
    assert [list(weights[node.input[1]]) for node in lstms] == [[2, 24, 8], [2, 24, 12]]


def test_interface_of_the_graph(encoder_config: Callable[..., EncoderConfig]) -> None:
    model = trace_to_onnx(seeded_encoder(encoder_config(), 0), {"lengthwise.pooling": "mean"})
    assert [(i.name, i.type.tensor_type.elem_type) for i in model.graph.input] == [
        ("input_ids", onnx.TensorProto.INT64),
        ("attention_mask", onnx.TensorProto.INT64),
    ]
    shapes = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert shapes == {"sentence_embedding": ["batch", 6], "token_embeddings": ["batch", "sequence", 6]}
    assert list(shapes) == ["sentence_embedding", "token_embeddings"]
    assert (model.ir_version, model.opset_import[0].version, len(model.opset_import)) == (IR_VERSION, OPSET, 1)
    assert {item.key: item.value for item in model.metadata_props} == {"lengthwise.pooling": "mean"}


def test_graph_holds_no_source_paths(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(), 0)
    contents = trace_to_onnx(encoder, {}).SerializeToString()
    assert b".py" not in contents
    assert contents == trace_to_onnx(encoder, {}).SerializeToString()


def test_program_holds_no_source_paths_and_each_weight_once(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(num_layers=2, bidirectional=True, static_residual=True), 0)
    for model in (OnnxClientEncoder(encoder), PortableClientEncoder(encoder, scanned)):
        program = trace_to_program(model)
        count = sum(weight.numel() for weight in program.state_dict.values())
        assert count == sum(weight.numel() for weight in encoder.parameters())
        save_program(program, tmp_path / "model.pt2")
        with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
            assert not any(b".py" in archive.read(name) for name in archive.namelist())
    assert encoder.lstm is not None  # what was traced had it taken out of a copy


def test_large_model_has_weights_beside_the_graph(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "PROTOBUF_LIMIT", 1_000)
    encoder = seeded_encoder(encoder_config(vocab_size=200), 0)
    save_onnx(trace_to_onnx(encoder, {}), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    case = next(iter(grid_cases(200)))
    assert_same(run(session_of(tmp_path / "model.onnx"), case), encoder, case)


def test_row_without_tokens_is_zero_in_eager_mode(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(pooling="max", projection_dim=3, static_residual=True), 0)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    vectors, states = ClientEncoder(encoder)(torch.tensor([[2, 3, 4], [2, 3, 4]]), mask)
    assert (vectors[1] == 0).all()
    assert (states[1] == 0).all()
    assert (vectors[0] != 0).all()
