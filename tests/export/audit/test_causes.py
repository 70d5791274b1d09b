"""Causes that are read off small graphs; most are found in the ground truth too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import helper

from helpers.audit_models import batch_norm
from helpers.small_transformer import Builder, Faults, small_transformer
from lengthwise.export.audit.answers import Cause
from lengthwise.export.audit.causes.find import FINDERS
from lengthwise.export.audit.graph import IDS, MASK, GraphView

ROLES = {"input_ids": IDS, "attention_mask": MASK}


def causes_of(nodes: Callable[[Builder, str], str], side: str = "right", output: str | None = None) -> list[Cause]:
    """Of a graph that looks ids up, and computes something of the embeddings, [batch, sequence, 8]."""
    b = Builder()
    found = nodes(b, b.op("Gather", b.random(20, 8), "input_ids"))
    b.nodes.append(helper.make_node("Identity", [found], ["sentence_embedding"]))
    b.nodes.append(helper.make_node("Identity", ["attention_mask"], ["mask_is_read"]))
    inputs = [helper.make_tensor_value_info(name, 7, ["batch", "sequence"]) for name in ROLES]
    outputs = [helper.make_tensor_value_info("sentence_embedding", 1, None)]
    graph = helper.make_graph(b.nodes, "graph", inputs, outputs, b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    view = GraphView(model, ROLES, side, output)  # type: ignore[arg-type]
    return [cause for find in FINDERS for cause in find(view)]


@pytest.mark.parametrize(
    ("nodes", "words", "question"),
    [
        (
            lambda b, x: b.op("Conv", b.op("Transpose", x, perm=[0, 2, 1]), b.random(4, 8, 3)),
            "1 Conv node over states that no mask clears",
            "padding width",
        ),
        (
            lambda b, x: b.op("GlobalAveragePool", b.op("Transpose", x, perm=[0, 2, 1])),
            "1 GlobalAveragePool node over the columns without a mask",
            "mixed lengths",
        ),
        (lambda b, x: b.op("MultiHeadAttention", x, x, x), "attention without a mask", "padding contents"),
        (lambda b, x: b.op("CumSum", x, b.constant(0, np.int64)), "1 CumSum node over the rows", "neighbours"),
        (lambda b, x: b.op("Softmax", x, axis=1), "attention without a mask", "padding width"),
        (lambda b, x: b.op("Gather", x, b.constant(-1, np.int64), axis=1), "read off the last column", "padding width"),
        (
            lambda b, x: b.op("LSTM", b.op("Transpose", x, perm=[1, 0, 2]), b.random(1, 16, 8), b.random(1, 16, 4)),
            "",
            "",
        ),
        (
            lambda b, x: b.op(
                "GRU", b.op("Transpose", x, perm=[1, 0, 2]), b.random(1, 12, 8), b.random(1, 12, 4), direction="reverse"
            ),
            "1 GRU node without sequence_lens",
            "padding width",
        ),
    ],
)
def test_cause_is_named_by_its_node(nodes: Callable[[Builder, str], str], words: str, question: str) -> None:
    causes = causes_of(nodes)
    of_padding = [cause for cause in causes if "padding width" in cause.explains or "neighbours" in cause.explains]
    if not words:
        assert of_padding == []
        return
    (cause,) = [cause for cause in causes if words in cause.what]
    assert question in cause.explains
    assert cause.where
    assert of_padding == [cause]


def test_masked_operations_are_no_cause() -> None:
    def masked_mean(b: Builder, x: str) -> str:
        mask = b.op("Unsqueeze", b.op("Cast", "attention_mask", to=1), b.constant([2], np.int64))
        return b.op("ReduceMean", b.op("Mul", x, mask), axes=[1])

    assert not any("padding width" in cause.explains for cause in causes_of(masked_mean))


@pytest.mark.parametrize("masked", [True, False])
def test_fused_attention_reads_the_index_of_the_mask(masked: bool) -> None:
    """As onnxruntime's optimizer writes BERT."""

    def fused(b: Builder, x: str) -> str:
        tables = [b.random(20, 8), b.random(16, 8), "", b.random(8), b.random(8), ""]
        inputs = ["input_ids", "", *tables, "attention_mask"]
        b.nodes.append(helper.make_node("EmbedLayerNormalization", inputs, ["embedded", "index"]))
        return b.op("Attention", "embedded", b.random(8, 24), b.random(24), "index" if masked else "")

    causes = [cause for cause in causes_of(fused) if "attention without a mask" in cause.what]
    assert bool(causes) != masked


def test_attention_is_masked_behind_steps_of_8_bits() -> None:
    """As onnxruntime's static quantisation writes it."""

    def quantized(b: Builder, x: str) -> str:
        mask = b.op("Unsqueeze", b.op("Cast", "attention_mask", to=1), b.constant([1], np.int64))
        scores = b.op("Add", b.op("MatMul", x, b.op("Transpose", x, perm=[0, 2, 1])), mask)
        step, zero = b.constant(0.1, np.float32), b.constant(128, np.uint8)
        return b.op("Softmax", b.op("DequantizeLinear", b.op("QuantizeLinear", scores, step, zero), step, zero))

    assert not any("attention without a mask" in cause.what for cause in causes_of(quantized))


def test_nodes_of_other_outputs_are_no_cause() -> None:
    """Such as the pooler of a BERT whose token states are taken."""

    def with_pooler(b: Builder, x: str) -> str:
        b.nodes.append(helper.make_node("Gather", [x, b.constant(0, np.int64)], ["pooler_output"], axis=1))
        return x

    for output, number in ((None, 1), ("pooler_output", 1), ("sentence_embedding", 0)):
        found = [cause for cause in causes_of(with_pooler, output=output) if "first column" in cause.what]
        assert len(found) == number


def test_positions_that_are_counted_from_the_ids_are_no_computed_ids() -> None:
    """As RoBERTa counts them: padding, which the pad id marks, has no position."""

    def with_positions(b: Builder, x: str) -> str:
        read = b.op("Cast", b.op("Not", b.op("Equal", "input_ids", b.constant(0, np.int64))), to=7)
        places = b.op("Mul", b.op("CumSum", read, b.constant(1, np.int64)), read)
        return b.op("Add", x, b.op("Gather", b.random(20, 8), places))

    def clipped(b: Builder, x: str) -> str:
        is_rare = b.op("Greater", "input_ids", b.constant(10, np.int64))
        return b.op("Gather", b.random(20, 8), b.op("Where", is_rare, b.constant(1, np.int64), "input_ids"))

    for nodes, number in ((with_positions, 0), (clipped, 1)):
        assert len([cause for cause in causes_of(nodes) if "before they are looked up" in cause.what]) == number


def test_the_side_of_the_padding_decides() -> None:
    def last(b: Builder, x: str) -> str:
        return b.op("Gather", x, b.constant(-1, np.int64), axis=1)

    for side, explains in (("right", True), ("left", False)):
        (cause,) = [cause for cause in causes_of(last, side) if "last column" in cause.what]
        assert ("mixed lengths" in cause.explains) == explains


def test_an_input_that_is_not_read_is_named() -> None:
    model = small_transformer(Faults(masked=False, pooling="cls"))
    for node in list(model.graph.node):
        if "attention_mask" in node.input:
            model.graph.node.remove(node)
    causes = [cause for find in FINDERS for cause in find(GraphView(model, ROLES))]
    assert [cause.where for cause in causes if "no node reads" in cause.what] == [("attention_mask",)]


def test_training_mode_is_named() -> None:
    causes = [cause for find in FINDERS for cause in find(GraphView(small_transformer(Faults(batch_norm)), ROLES))]
    assert any("1 BatchNormalization node in training mode" in cause.what for cause in causes)
