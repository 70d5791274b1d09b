"""The portable graph: the operators it may hold, and the forms of them that every engine reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.graphs.portable import OPERATORS, to_portable
from lengthwise.export.graphs.trace import trace_to_onnx

INTEGERS = (TensorProto.INT64, TensorProto.INT32)
SHAPES: Mapping[str, dict[str, Any]] = {
    "two layers": {"num_layers": 2, "bidirectional": True, "pooling": "mean_last", "static_residual": True},
    "all poolings": {"bidirectional": True, "pooling": "first_end_max_sum_attention", "attention_dim": 3},
    "gru": {"cell": "gru", "bidirectional": True, "pooling": "last", "normalize": True},
    "hard": {"gate_activation": "hard_sigmoid_keras3", "pooling": "last", "projection_dim": 5},
    "labels": {"classifier": {"labels": ["a", "b"], "dense": [{"dim": 3, "activation": "relu"}]}},
    "padding": {"padding": {"to": 9, "side": "pre", "truncate": "pre"}, "bidirectional": True},
    "padding, not cut": {"padding": {"to": 5, "truncate": None}, "pooling": "mean", "static_residual": True},
    **{
        name: {"dense": [{"dim": 5, "activation": name}]}
        for name in ("tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu")
    },
}


def make_graph(shape: dict[str, Any], encoder_config: Callable[..., EncoderConfig]) -> onnx.ModelProto:
    config = EncoderConfig.model_validate({**encoder_config().model_dump(), **shape})
    return to_portable(trace_to_onnx(seeded_encoder(config, 0), {}))


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse an operator that some engine does not read, or a form of one."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    kinds |= {value.name: value.data_type for value in model.graph.initializer}
    computed_from_dimensions = {
        output for node in model.graph.node if node.op_type == "Shape" for output in node.output
    }
    for node in model.graph.node:
        assert node.op_type in OPERATORS, f"{node.op_type} is not read by every engine"
        assert node.domain == "", f"{node.op_type} is no standard operator"
        assert not any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute), "a graph in a node"
        if node.op_type == "Clip":
            assert kinds[node.input[0]] == TensorProto.FLOAT, "OpenCV clips no integers"
        if node.op_type in ("Constant", "ConstantOfShape"):
            assert [attribute.name for attribute in node.attribute] == ["value"], "a constant without a type"
        if node.op_type in ("LSTM", "GRU"):
            assert node.input[4] == "", "lengths, which OpenVINO ignores"
            assert all(node.input[5:]), "no first states, which tract needs"
        if computed_from_dimensions.intersection(node.input) and node.op_type not in (
            "Shape",
            "Concat",
            "ConstantOfShape",
        ):
            assert node.op_type not in ("Mul", "Div"), "a product of dimensions, which tract cannot simplify"
            computed_from_dimensions.update(node.output) if node.op_type in ("Squeeze", "Unsqueeze", "Cast") else None


@pytest.mark.parametrize("shape", SHAPES)
def test_graph_holds_what_every_engine_reads(shape: str, encoder_config: Callable[..., EncoderConfig]) -> None:
    check_graph(make_graph(SHAPES[shape], encoder_config))


def another_operator(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Greater")
    node.op_type = "LessOrEqual"


def clipped_integers(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "ReduceSum")
    position = list(model.graph.node).index(node)
    model.graph.node.insert(position + 1, helper.make_node("Clip", [node.output[0]], ["clipped"]))


def fill_without_a_value(model: onnx.ModelProto) -> None:
    del next(node for node in model.graph.node if node.op_type == "ConstantOfShape").attribute[:]


def lengths_of_an_lstm(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "LSTM").input[4] = "attention_mask"


def no_first_states(model: onnx.ModelProto) -> None:
    del next(node for node in model.graph.node if node.op_type == "LSTM").input[5:]
    next(node for node in model.graph.node if node.op_type == "LSTM").input.append("")


def product_of_dimensions(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(helper.make_tensor("", 7, [1], [2])), "2")
    )
    shape = next(node for node in model.graph.node if node.op_type == "Shape")
    position = list(model.graph.node).index(shape)
    model.graph.node.insert(position + 1, helper.make_node("Mul", [shape.output[0], "2"], ["product"]))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (another_operator, "LessOrEqual is not read"),
        (clipped_integers, "clips no integers"),
        (fill_without_a_value, "without a type"),
        (lengths_of_an_lstm, "lengths, which"),
        (no_first_states, "no first states"),
        (product_of_dimensions, "a product of dimensions"),
    ],
)
def test_graph_that_leaves_the_set_is_refused(
    edit: Callable[[onnx.ModelProto], None], reason: str, encoder_config: Callable[..., EncoderConfig]
) -> None:
    model = make_graph(SHAPES["two layers"], encoder_config)
    edit(model)
    with pytest.raises(AssertionError, match=reason):
        check_graph(model)


@pytest.mark.heavy
def test_every_operator_of_the_set_is_needed(encoder_config: Callable[..., EncoderConfig]) -> None:
    graphs = [make_graph(shape, encoder_config).graph for shape in SHAPES.values()]
    assert {node.op_type for graph in graphs for node in graph.node} == OPERATORS
