"""Rewrites of ONNX graphs that take a cause away, by the names that `causes` gives them.

Each changes what a graph computes for rows beside others or beside padding, and leaves a row alone as it is, up to the
rounding of 8 bits: with ranges per row, that is finer than before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lengthwise.errors import AuditError
from lengthwise.export.audit.causes.common import (
    INFERENCE_MODE,
    LENGTHS,
    MASKED_ATTENTION,
    MASKED_MEAN,
    PER_ROW_RANGES,
)
from lengthwise.export.graphs.lstm_nodes import Tape

_STEPS = 255.0  # of 8 bits
_FAR_BELOW = -1e9  # added to the scores of padding
_TINY = float(np.finfo(np.float32).tiny)
_AXES_ARE_INPUTS = 18  # opset from which reductions take their axes as an input; of ReduceSum, 13


@dataclass(frozen=True)
class RewrittenGraph:
    """A graph that is being rewritten.

    Attributes:
        model: the graph.
        mask: the input that says where the padding is; None if there is none.
    """

    model: ir.Model
    mask: ir.Value | None

    @property
    def graph(self) -> ir.Graph:
        """Its nodes."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return self.graph.opset_imports.get("", 0)

    def nodes(self, *kinds: str) -> list[ir.Node]:
        """The nodes of these kinds."""
        return [node for node in self.graph if node.op_type in kinds]

    def required_mask(self) -> ir.Value:
        """The mask.

        Raises:
            AuditError: there is none.
        """
        if self.mask is None:
            raise AuditError("the graph takes no attention_mask, so no rewrite can tell padding from text")
        return self.mask

    def reduce(self, tape: Tape, kind: str, x: ir.Value, axis: int, *, keepdims: bool) -> ir.Value:
        """A reduction over one axis."""
        settings = {"keepdims": int(keepdims)}
        if self.opset >= (13 if kind == "ReduceSum" else _AXES_ARE_INPUTS):
            return tape.op(kind, [x, tape.ints(axis)], settings)
        return tape.op(kind, [x], {**settings, "axes": [axis]})

    def replace(self, node: ir.Node, tape: Tape, values: Mapping[ir.Value, ir.Value]) -> None:
        """Put what is on a tape in the place of a node."""
        for initializer in tape.initializers:
            self.graph.register_initializer(initializer)
        replace_nodes_and_values(self.graph, node, [node], tape.nodes, list(values), list(values.values()))

    def insert_before(self, node: ir.Node, tape: Tape) -> None:
        """Put what is on a tape before a node."""
        for initializer in tape.initializers:
            self.graph.register_initializer(initializer)
        self.graph.insert_before(node, tape.nodes)


def take_ranges_per_row(graph: RewrittenGraph) -> None:
    """Quantise activations over the last axis, each token by itself, instead of over the whole tensor.

    With a scale s and a zero point z per token, sum((q - z) (w - w0)) = sum(q (w - w0)) - z sum(w - w0): the products
    stay as they are, in integers, and the zero points are subtracted after them.

    Raises:
        AuditError: something else than a product with constant weights reads the quantised values.
    """
    for node in graph.nodes("DynamicQuantizeMatMul"):
        _split_quantized_product(graph, node)
    for node in graph.nodes("DynamicQuantizeLinear"):
        quantized, scale, zero_point = node.outputs
        products = [use.node for use in quantized.uses()]
        others = {each.op_type for each in products} - {"MatMulInteger", "MatMulIntegerToFloat"}
        if others:
            raise AuditError(f"ranges per row cannot be taken where {' and '.join(sorted(others))} reads 8 bits")
        for product in products:
            if product.op_type == "MatMulIntegerToFloat":
                product = _split_float_product(graph, product)
            _subtract_zero_points(graph, product, zero_point)
        tape = Tape()
        x = _required(node.inputs[0])
        zero = tape.op("Constant", [], {"value_float": 0.0})
        low = tape.op("Min", [graph.reduce(tape, "ReduceMin", x, -1, keepdims=True), zero])
        high = tape.op("Max", [graph.reduce(tape, "ReduceMax", x, -1, keepdims=True), zero])
        steps, tiny = (tape.op("Constant", [], {"value_float": value}) for value in (_STEPS, _TINY))
        size = tape.op("Max", [tape.op("Div", [tape.op("Sub", [high, low]), steps]), tiny])
        place = tape.op("Round", [tape.op("Neg", [tape.op("Div", [low, size])])])
        stepped = tape.op("Add", [tape.op("Round", [tape.op("Div", [x, size])]), place])
        bounded = tape.op("Min", [tape.op("Max", [stepped, zero]), steps])
        as_bytes = tape.op("Cast", [bounded], {"to": ir.DataType.UINT8})
        graph.replace(node, tape, {quantized: as_bytes, scale: size, zero_point: place})


def _split_quantized_product(graph: RewrittenGraph, node: ir.Node) -> None:
    """A fused product as the nodes that it stands for."""
    x, weight, weight_scale, weight_zero, bias = [*node.inputs, None, None][:5]
    tape = Tape()
    quantized, scale, zero_point = tape.op_multi_out("DynamicQuantizeLinear", [_required(x)], num_outputs=3)
    total = tape.op("MatMulInteger", [quantized, weight, zero_point, weight_zero])
    found = tape.op("Mul", [tape.op("Cast", [total], {"to": ir.DataType.FLOAT}), tape.op("Mul", [scale, weight_scale])])
    graph.replace(node, tape, {node.outputs[0]: found if bias is None else tape.op("Add", [found, bias])})


def _split_float_product(graph: RewrittenGraph, node: ir.Node) -> ir.Node:
    """The same of a product whose factors are quantised already; the product in integers is returned."""
    x, weight, scale, weight_scale, zero, weight_zero, bias = [*node.inputs, None, None, None][:7]
    tape = Tape()
    total = tape.op("MatMulInteger", [x, weight, zero, weight_zero])
    product = total.producer()
    found = tape.op("Mul", [tape.op("Cast", [total], {"to": ir.DataType.FLOAT}), tape.op("Mul", [scale, weight_scale])])
    graph.replace(node, tape, {node.outputs[0]: found if bias is None else tape.op("Add", [found, bias])})
    if product is None:
        raise AuditError("a quantised product cannot be rewritten")
    return product


def _subtract_zero_points(graph: RewrittenGraph, product: ir.Node, zero_point: ir.Value) -> None:
    """Leave the zero point out of a product in integers, and subtract it afterwards."""
    weight, weight_zero = product.inputs[1], product.inputs[3] if len(product.inputs) > 3 else None
    sums = _weights(weight).astype(np.int64)
    zeros = 0 if weight_zero is None else _weights(weight_zero).astype(np.int64)
    tape = Tape()
    inputs = [product.inputs[0], weight] if weight_zero is None else [product.inputs[0], weight, None, weight_zero]
    total = tape.op("MatMulInteger", inputs)
    of_columns = tape.weight(f"{_required(weight).name}.sums", (sums - zeros).sum(axis=-2).astype(np.int32))
    offset = tape.op("Mul", [tape.op("Cast", [zero_point], {"to": ir.DataType.INT32}), of_columns])
    graph.replace(product, tape, {product.outputs[0]: tape.op("Sub", [total, offset])})


def give_lengths(graph: RewrittenGraph) -> None:
    """Give recurrent layers the sums of the mask as `sequence_lens`.

    Raises:
        AuditError: there is no mask.
    """
    nodes = [node for node in graph.nodes("LSTM", "GRU", "RNN") if len(node.inputs) < 5 or node.inputs[4] is None]
    if not nodes:
        return
    tape = Tape()
    total = graph.reduce(tape, "ReduceSum", graph.required_mask(), 1, keepdims=False)
    lengths = tape.op("Cast", [total], {"to": ir.DataType.INT32})
    graph.insert_before(graph.graph[0], tape)
    for node in nodes:
        if len(node.inputs) < 5:
            node.resize_inputs(5)
        node.replace_input_with(4, lengths)


def mask_means(graph: RewrittenGraph) -> None:
    """Take the means over the columns over real tokens alone.

    Raises:
        AuditError: there is no mask.
    """
    time_first = bool(graph.nodes("LSTM", "GRU", "RNN"))
    for node in graph.nodes("ReduceMean"):
        axes = _axes(node)
        if axes not in ([1], [-2]) and not (time_first and axes == [0]):
            continue
        axis = axes[0]
        tape = Tape()
        x, keepdims = _required(node.inputs[0]), _flag(node, "keepdims", 1)
        mask = tape.op("Cast", [graph.required_mask()], {"to": ir.DataType.FLOAT})
        if axis == 0:
            mask = tape.op("Transpose", [mask], {"perm": [1, 0]})
        mask = tape.op("Unsqueeze", [mask, tape.ints(2)])
        total = graph.reduce(tape, "ReduceSum", tape.op("Mul", [x, mask]), axis, keepdims=keepdims)
        count = graph.reduce(tape, "ReduceSum", mask, axis, keepdims=keepdims)
        one = tape.op("Constant", [], {"value_float": 1.0})
        graph.replace(node, tape, {node.outputs[0]: tape.op("Div", [total, tape.op("Max", [count, one])])})


def mask_attention(graph: RewrittenGraph) -> None:
    """Add the mask to the scores of attention, [batch, heads, tokens, tokens].

    Raises:
        AuditError: there is no mask.
    """
    nodes = [node for node in graph.nodes("Softmax") if _reads_product_of_values(node)]
    if not nodes:
        return
    tape = Tape()
    mask = tape.op("Cast", [graph.required_mask()], {"to": ir.DataType.FLOAT})
    one, far = (tape.op("Constant", [], {"value_float": value}) for value in (1.0, _FAR_BELOW))
    bias = tape.op("Unsqueeze", [tape.op("Mul", [tape.op("Sub", [one, mask]), far]), tape.ints(1, 2)])
    graph.insert_before(graph.graph[0], tape)
    for node in nodes:
        added = Tape()
        scores = added.op("Add", [_required(node.inputs[0]), bias])
        graph.insert_before(node, added)
        node.replace_input_with(0, scores)


def _reads_product_of_values(node: ir.Node) -> bool:
    """Whether the input of a Softmax is, up to scaling, the product of two values that are no weights."""
    value = node.inputs[0]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type in ("MatMul", "FusedMatMul", "Einsum"):
            return all(each is not None and each.const_value is None for each in producer.inputs[:2])
        if producer.op_type not in ("Div", "Mul", "Cast", "Identity", "Add"):
            return False
        value = producer.inputs[0]
    return False


def set_inference_mode(graph: RewrittenGraph) -> None:
    """Let batch normalisation use its stored statistics."""
    for node in graph.nodes("BatchNormalization"):
        if _flag(node, "training_mode", 0):
            settings = {name: value.value for name, value in node.attributes.items() if name != "training_mode"}
            tape = Tape()
            graph.replace(node, tape, {node.outputs[0]: tape.op("BatchNormalization", list(node.inputs), settings)})


REWRITES: Mapping[str, Callable[[RewrittenGraph], None]] = MappingProxyType(
    {
        PER_ROW_RANGES: take_ranges_per_row,
        LENGTHS: give_lengths,
        MASKED_MEAN: mask_means,
        MASKED_ATTENTION: mask_attention,
        INFERENCE_MODE: set_inference_mode,
    }
)


def finish(model: ir.Model) -> None:
    """Remove nodes that nothing reads, and the shapes that were recorded for the graph before."""
    RemoveUnusedNodesPass()(model)
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.type = output.shape = None


def _axes(node: ir.Node) -> list[int] | None:
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    value = node.inputs[1] if len(node.inputs) > 1 else None
    found = None if value is None else ir.convenience.get_const_tensor(value)
    return None if found is None else found.numpy().reshape(-1).tolist()


def _flag(node: ir.Node, name: str, default: int) -> bool:
    attribute = node.attributes.get(name)
    return bool(default if attribute is None else attribute.as_int())


def _weights(value: ir.Value | None) -> NDArray[np.generic]:
    found = None if value is None else ir.convenience.get_const_tensor(value)
    if found is None:
        raise AuditError("ranges per row cannot be taken where weights are computed")
    return found.numpy()


def _required(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise AuditError("a node lacks its first input")
    return value
