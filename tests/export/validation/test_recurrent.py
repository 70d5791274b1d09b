"""GRUs, hard gates and padding that is read: every file computes them, and a function that is near fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from helpers.definition import define
from helpers.marks import heavy_but
from helpers.sabotages import edit_weight
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.oracle import Oracle, compute_oracle
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import FP16, INT8, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes.exported_program import ExportedProgram
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.opencv import OpenCv
from lengthwise.export.runtimes.openvino import OpenVino
from lengthwise.export.runtimes.pytorch import PyTorchEager, PyTorchStepwise
from lengthwise.export.runtimes.reference import Reference
from lengthwise.export.runtimes.torchscript import TorchScript
from lengthwise.export.runtimes.tract import Tract
from lengthwise.export.triton import triton_config
from lengthwise.export.validation.cases import Case, grid_cases
from lengthwise.export.validation.validate import judge, validate_artifact
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenizer import TextTokenizer

KINDS = [PyTorchEager, PyTorchStepwise, OnnxRuntimeCpu, TorchScript, ExportedProgram]
SHAPES: dict[str, dict[str, Any]] = {
    "gru": {"cell": "gru", "num_layers": 2, "bidirectional": True, "pooling": "last_mean"},
    "hard": {"gate_activation": "hard_sigmoid_keras3", "bidirectional": True, "pooling": "last"},
    "gru, hard": {"cell": "gru", "gate_activation": "hard_sigmoid_keras2", "pooling": "max"},
    "padded": {"padding": {"to": 9, "side": "pre", "truncate": "pre"}, "bidirectional": True, "pooling": "sum_end"},
    "padded, not cut": {"padding": {"to": 5, "truncate": None}, "bidirectional": True, "static_residual": True},
}


def make_encoder(encoder_config: Callable[..., EncoderConfig], shape: dict[str, Any]) -> PackedEncoder:
    encoder = seeded_encoder(EncoderConfig.model_validate({**encoder_config().model_dump(), **shape}), 4)
    with torch.no_grad():
        for weight in encoder.rnn.parameters():
            weight.mul_(2)  # so that hard gates are open, closed and between
    return encoder


Checks = list[tuple[Case, Oracle]]
CheckedEncoder = Callable[[str], tuple[PackedEncoder, Checks]]


@pytest.fixture(scope="module")
def checked_encoder(encoder_config: Callable[..., EncoderConfig]) -> CheckedEncoder:
    """The encoder of a shape, and what is right on the grid; made once each."""

    @cache
    def make(shape: str) -> tuple[PackedEncoder, Checks]:
        encoder = make_encoder(encoder_config, SHAPES[shape])
        cases = grid_cases(encoder.config.vocab_size)
        return encoder, [(case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in cases]

    return make


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_equals_the_definition(shape: str, encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = make_encoder(encoder_config, SHAPES[shape])
    weights = {name: weight.numpy() for name, weight in encoder.state_dict().items()}
    lengths = np.array([3, 0, 12, 1, 9])
    ids = np.random.default_rng(0).integers(encoder.config.vocab_size, size=(5, 14))
    oracle = compute_oracle(encoder, ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        expected: NDArray[Any] = np.zeros((0, encoder.config.state_dim))
        if length:
            right = define(encoder.config, weights, ids[row, :length].tolist())
            np.testing.assert_allclose(oracle.vectors[row], right.vector, atol=3e-6)
            expected = right.states
        assert oracle.states is not None
        np.testing.assert_allclose(oracle.states[row, :length], expected, atol=1e-6)
        assert not oracle.states[row, length:].any()


@pytest.mark.slow
@pytest.mark.parametrize("shape", heavy_but(("gru", "padded"), SHAPES))
def test_every_file_passes(
    shape: str, tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = make_encoder(encoder_config, SHAPES[shape])
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact")
    is_gru = encoder.config.cell == "gru"
    assert ("int8_dynamic" in artifact.manifest["variants"]) != is_gru
    validation = validate_artifact(artifact, KINDS)
    assert validation.passed, [(v.runtime, v.variant, v.reason) for v in validation.failed]
    passed = {(v.runtime, v.variant) for v in validation.verdicts if v.status == "passed"}
    expected = {
        (kind.name, variant)
        for kind in KINDS
        for variant in kind.files
        if variant in VARIANTS and VARIANTS[variant].independent
    }
    assert passed == expected
    assert (validation.control.status == "failed") == encoder.config.lengths_matter
    assert "sentence_embedding" in triton_config(artifact, NATIVE, "m")
    small = (artifact.folder / VARIANTS[INT8].file).stat().st_size
    assert {FP16, PORTABLE} <= artifact.manifest["variants"].keys()
    assert small < (artifact.folder / VARIANTS[NATIVE].file).stat().st_size or shape != "gru"


@pytest.mark.parametrize("shape", heavy_but(("hard", "padded, not cut"), SHAPES))
def test_other_runtimes_compute_the_portable_graph(
    shape: str, tmp_path: Path, tokenizer: TextTokenizer, checked_encoder: CheckedEncoder
) -> None:
    encoder, checks = checked_encoder(shape)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[PORTABLE])
    for kind in (OpenVino, Reference, Tract, OpenCv):
        verdict = judge(kind(), VARIANTS[PORTABLE], artifact.folder, checks[:14])
        assert verdict.status in ("passed", "not run"), (kind, verdict.reason)


def judge_onnx(model: onnx.ModelProto, folder: Path, checks: Checks) -> Verdict:
    path = folder / VARIANTS[NATIVE].file
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    return judge(OnnxRuntimeCpu(), VARIANTS[NATIVE], folder, checks)


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ("hard", {"gate_activation": "hard_sigmoid_keras2"}),
        ("hard", {"gate_activation": "sigmoid"}),
        ("gru, hard", {"gate_activation": "sigmoid"}),
        ("padded", {"padding": {"to": 9, "side": "post", "truncate": "pre"}}),
        ("padded", {"padding": {"to": 9, "side": "pre", "truncate": "post"}}),
        ("padded", {"padding": {"to": 8, "side": "pre", "truncate": "pre"}}),
        ("padded", {"padding": {"to": 9, "side": "pre", "truncate": None}}),
        ("padded", {"padding": None}),
        ("padded", {"pad_token_id": 1}),
        ("padded, not cut", {"padding": {"to": 5}}),
        ("padded, not cut", {"padding": None}),
    ],
)
def test_graph_of_another_function_fails(
    shape: str, other: dict[str, Any], tmp_path: Path, checked_encoder: CheckedEncoder
) -> None:
    """The same weights, read in another way."""
    encoder, checks = checked_encoder(shape)
    config = EncoderConfig.model_validate({**encoder.config.model_dump(), **other})
    wrong = PackedEncoder(config).eval()
    wrong.load_state_dict(encoder.state_dict())
    verdict = judge_onnx(trace_to_onnx(wrong, {}), tmp_path, checks)
    assert (verdict.status, verdict.known) == ("failed", False)


def reset_before_the_product(model: onnx.ModelProto) -> None:
    """As other libraries define a GRU."""
    node = grus(model)[0]
    attribute = next(each for each in node.attribute if each.name == "linear_before_reset")
    node.attribute.remove(attribute)


def gates_swapped(model: onnx.ModelProto) -> None:
    def swap(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        z, r, h = np.split(weight, 3, axis=1)
        return np.concatenate([r, z, h], axis=1)

    edit_weight(model, grus(model)[-1].input[2], swap)


def bias_of_the_state_is_added_to_the_input(model: onnx.ModelProto) -> None:
    """The two biases of the candidate are one, as where the reset gate comes first."""

    def join(bias: NDArray[np.float32]) -> NDArray[np.float32]:
        of_inputs, of_states = np.split(bias.copy(), 2, axis=1)
        hidden = of_inputs.shape[1] // 3
        of_inputs[:, 2 * hidden :] += of_states[:, 2 * hidden :]
        of_states[:, 2 * hidden :] = 0
        return np.concatenate([of_inputs, of_states], axis=1)

    edit_weight(model, grus(model)[0].input[3], join)


def lengths_ignored(model: onnx.ModelProto) -> None:
    for node in grus(model):
        node.input[4] = ""


def grus(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "GRU"]


@pytest.mark.parametrize(
    "sabotage",
    [reset_before_the_product, gates_swapped, bias_of_the_state_is_added_to_the_input, lengths_ignored],
    ids=lambda sabotage: sabotage.__name__,
)
def test_sabotaged_gru_fails(
    sabotage: Callable[[onnx.ModelProto], None], tmp_path: Path, checked_encoder: CheckedEncoder
) -> None:
    encoder, checks = checked_encoder("gru")
    model = trace_to_onnx(encoder, {})
    sabotage(model)
    verdict = judge_onnx(model, tmp_path, checks)
    assert (verdict.status, verdict.known) == ("failed", False)
