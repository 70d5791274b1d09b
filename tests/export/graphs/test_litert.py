"""The LiteRT model: every configuration equals PyTorch in LiteRT's own runtime, and no sabotaged one does."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from helpers.marks import heavy_but
from helpers.sabotages import (
    Sabotage,
    bias_dropped,
    directions_swapped,
    gates_swapped,
    lengths_cut_at_512,
    lengths_off_by_one,
    one_layer_missing,
    one_weight_is_stale,
    pooled_over_padding,
    static_mean_reads_padding,
    unknown_token_moved,
)
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.oracle import Oracle
from lengthwise.export.graphs import litert_rnn
from lengthwise.export.graphs.litert import save_litert
from lengthwise.export.graphs.tflite_file import Subgraph
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, LITERT
from lengthwise.export.runtimes.devices import LiteRt
from lengthwise.export.validation.cases import Case, grid_cases, padding_cases
from lengthwise.export.validation.validate import judge, make_checks
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenizer import TextTokenizer

pytest.importorskip("ai_edge_litert", reason="LiteRT was not run: ai-edge-litert is not installed")

Checks = list[tuple[Case, Oracle]]
DENSE = [{"dim": 4, "activation": name} for name in ("gelu", "silu", "elu", "leaky_relu", "relu", "sigmoid", "tanh")]
ENCODERS: dict[str, dict[str, Any]] = {
    "last": {},
    "attention": {"pooling": "attention_max_first_end", "attention_dim": 4, "projection_dim": 5},
    "gru": {"cell": "gru", "num_layers": 2, "bidirectional": True, "pooling": "mean"},
    "hard": {"cell": "gru", "gate_activation": "hard_sigmoid_keras3", "bidirectional": True, "pooling": "sum"},
    "hard lstm": {"gate_activation": "hard_sigmoid_keras2", "pooling": "mean_last"},
    "labels": {"dense": DENSE, "classifier": {"labels": ["a", "b"]}, "normalize": True},
    "padded": {"padding": {"to": 9}, "bidirectional": True},
    "padded before": {"padding": {"to": 9, "side": "pre", "truncate": None}, "pooling": "max"},
}


def judge_litert(model: onnx.ModelProto, folder: Path, checks: Checks) -> Verdict:
    file = folder / DEVICE_VARIANTS[LITERT].file
    file.parent.mkdir(exist_ok=True)
    save_litert(model, file)
    return judge(LiteRt(), DEVICE_VARIANTS[LITERT], folder, checks)


def checks_of(encoder: PackedEncoder) -> Checks:
    cases, padding = list(grid_cases(encoder.config.vocab_size)), encoder.config.padding
    if padding is not None:
        cases += padding_cases(encoder.config.vocab_size, padding)
    return make_checks(encoder, cases)


@pytest.mark.parametrize("name", heavy_but(("gru", "labels"), ENCODERS))
def test_encoder_passes(name: str, tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(**ENCODERS[name]), 0)
    verdict = judge_litert(trace_to_onnx(encoder, {}), tmp_path, checks_of(encoder))
    assert (verdict.status, verdict.reason) == ("passed", "")
    assert verdict.environment["ai-edge-litert"]
    assert (verdict.comparison.logits is None) == (name != "labels")


@pytest.fixture(scope="module")
def sound(encoder_config: Callable[..., EncoderConfig]) -> tuple[onnx.ModelProto, Checks]:
    """The native graph of a two-layer bidirectional encoder with a static residual, and what is right."""
    shape = {"num_layers": 2, "bidirectional": True, "pooling": "mean_last", "embedding_dim": 12}
    encoder = seeded_encoder(encoder_config(**shape, static_residual=True), 0)
    return trace_to_onnx(encoder, {}), checks_of(encoder)


def test_sound_model_passes(sound: tuple[onnx.ModelProto, Checks], tmp_path: Path) -> None:
    assert judge_litert(sound[0], tmp_path, sound[1]).status == "passed"


@pytest.mark.parametrize(
    "sabotage",
    [
        gates_swapped,
        directions_swapped,
        one_weight_is_stale,
        unknown_token_moved,
        lengths_off_by_one,
        lengths_cut_at_512,
        pooled_over_padding,
        static_mean_reads_padding,
        one_layer_missing,
    ],
    ids=lambda sabotage: sabotage.__name__,
)
def test_model_of_a_sabotaged_graph_fails(
    sabotage: Sabotage, sound: tuple[onnx.ModelProto, Checks], tmp_path: Path
) -> None:
    model = copy.deepcopy(sound[0])
    sabotage(model)
    verdict = judge_litert(model, tmp_path, sound[1])
    assert (verdict.status, verdict.known) == ("failed", False)
    assert " after " not in verdict.reason  # it ran, and was wrong


def reversed_as_a_whole(graph: Subgraph, values: int, lengths: int, width: int) -> int:
    axis = graph.ints(0)
    return graph.op("REVERSE_V2", [values, axis], "float32", (-1, -1, width), "ReverseV2Options")


def read_forwards(graph: Subgraph, values: int, lengths: int, width: int) -> int:
    return values


def at_the_first_step(graph: Subgraph, states: int, lengths: int, hidden: int) -> int:
    return graph.op("GATHER", [states, graph.scalar(0)], "float32", (-1, hidden), "GatherOptions")


@pytest.mark.parametrize(
    ("function", "wrong"),
    [("_reverse", reversed_as_a_whole), ("_reverse", read_forwards), ("_at_the_end", at_the_first_step)],
)
def test_wrong_loop_fails(
    function: str,
    wrong: Callable[..., int],
    sound: tuple[onnx.ModelProto, Checks],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(litert_rnn, function, wrong)
    verdict = judge_litert(sound[0], tmp_path, sound[1])
    assert (verdict.status, verdict.known) == ("failed", False)
    assert " after " not in verdict.reason


def test_graph_without_a_bias_is_not_translated(sound: tuple[onnx.ModelProto, Checks], tmp_path: Path) -> None:
    model = copy.deepcopy(sound[0])
    bias_dropped(model)
    with pytest.raises(ArtifactError, match="needs the input 3 of LSTM as a constant"):
        save_litert(model, tmp_path / "model.tflite")


def test_operator_without_a_translation_is_named(sound: tuple[onnx.ModelProto, Checks], tmp_path: Path) -> None:
    model = copy.deepcopy(sound[0])
    node = next(node for node in model.graph.node if node.op_type == "ReduceL2" or node.op_type == "Where")
    node.CopyFrom(helper.make_node("Mish", [node.input[1]], list(node.output)))
    model.opset_import[0].version = 18
    with pytest.raises(ArtifactError, match="no translation of the ONNX operator Mish"):
        save_litert(model, tmp_path / "model.tflite")


def test_missing_package_has_a_remedy(
    sound: tuple[onnx.ModelProto, Checks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ArtifactError, match=r"install lengthwise\[litert\], or leave it out"):
        save_litert(sound[0], tmp_path / "model.tflite")


def test_code_of_the_card_gives_the_right_vectors(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[LITERT])
    section = (artifact.folder / "README.md").read_text().split("### LiteRT\n")[1]
    monkeypatch.chdir(artifact.folder)
    names: dict[str, Any] = {}
    exec(section.split("```python\n")[1].split("```")[0], names)
    with torch.inference_mode():
        right = encoder(torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([3, 2])).numpy()
    np.testing.assert_allclose(names["vectors"], right, atol=1e-6, rtol=0)
