"""Replaces the LSTM or GRU nodes of the native graph, and the embedding before them, by other nodes.

Pooling, projections and normalisation stay as they are in the native graph, in float32. A static residual reads the
same rows of the embedding table as the first LSTM, so a graph holds one table, in one precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape as IrTape

from lengthwise.export.graphs.variants import VARIANTS

CONTRIB = "com.microsoft"  # the domain of onnxruntime's own operators
_OUTPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType({"LSTM": ("Y", "Y_h", "Y_c"), "GRU": ("Y", "Y_h")})
_ATTRIBUTES = ("hidden_size", "direction", "linear_before_reset", "activations", "activation_alpha", "activation_beta")
States = tuple[ir.Value, ir.Value]  # float[sequence, directions, batch, hidden] and float[directions, batch, hidden]


class Embeddings(NamedTuple):
    """The embeddings of a batch.

    Attributes:
        of_lstm: [sequence, batch, features], as the first LSTM reads them.
        of_head: the same as a static residual reads them.
        divisors: float32[features], what the columns of `of_lstm` are divided by; None if they are not.
    """

    of_lstm: ir.Value
    of_head: ir.Value
    divisors: NDArray[np.float32] | None = None


class LstmNode(NamedTuple):
    """An LSTM or GRU node of the native graph, and its weights in ONNX's layout; a GRU has 3 gates instead of 4.

    Attributes:
        node: the node.
        x: float[sequence, batch, features].
        lengths: int32[batch].
        weight: float32[directions, 4 * hidden, features].
        recurrence: float32[directions, 4 * hidden, hidden].
        bias: float32[directions, 8 * hidden].
        is_first: whether this is the first layer, whose `x` are embeddings.
        is_last: whether this is the last layer.
    """

    node: ir.Node
    x: ir.Value
    lengths: ir.Value
    weight: NDArray[np.float32]
    recurrence: NDArray[np.float32]
    bias: NDArray[np.float32]
    is_first: bool
    is_last: bool

    @property
    def hidden(self) -> int:
        """The hidden size."""
        return self.recurrence.shape[2]

    @property
    def directions(self) -> int:
        """1 or 2."""
        return self.recurrence.shape[0]

    @property
    def op(self) -> str:
        """LSTM or GRU."""
        return self.node.op_type

    @property
    def outputs(self) -> int:
        """How many outputs such a node has: states, last states, and of an LSTM last cells."""
        return len(_OUTPUTS[self.op])

    def attributes(self, directions: int | None = None) -> dict[str, Any]:
        """The attributes of a node for all directions, or for so many; gates have the same functions in each."""
        found = {name: value.value for name, value in self.node.attributes.items() if name in _ATTRIBUTES}
        if directions is None or directions == self.directions:
            return found
        found.pop("direction", None)
        share = self.directions // directions
        shortened = ("activations", "activation_alpha", "activation_beta")
        return {name: value[: len(value) // share] if name in shortened else value for name, value in found.items()}

    @property
    def name(self) -> str:
        """The path of its weights in the encoder, such as `lstm.layers.0`."""
        return str(_required(self.node.inputs[1]).name).rpartition(".")[0]


class Tape(IrTape):
    """onnx_ir's tape, with constants by value.

    A constant is a whole tensor, `value`, with its type: `value_ints` and `value_floats` are read by some tools
    as another type, or as nothing.
    """

    def weight(self, name: str, values: NDArray[np.generic]) -> ir.Value:
        """An initializer."""
        return self.initializer(ir.tensor(values), name)

    def ints(self, *values: int) -> ir.Value:
        """A constant int64[values]."""
        return self._constant(np.array(values, np.int64))

    def int(self, value: int) -> ir.Value:
        """A constant int64 scalar."""
        return self._constant(np.array(value, np.int64))

    def floats(self, *values: float) -> ir.Value:
        """A constant float32[values]."""
        return self._constant(np.array(values, np.float32))

    def zeros(self, shape: ir.Value) -> ir.Value:
        """float32 zeros of a shape, int64[rank]."""
        return self.op("ConstantOfShape", [shape], {"value": ir.tensor(np.zeros(1, np.float32))})

    def _constant(self, values: NDArray[np.generic]) -> ir.Value:
        return self.op("Constant", [], {"value": ir.tensor(values)})


def replace_lstm_nodes(
    native: onnx.ModelProto,
    variant: str,
    translate: Callable[[Tape, LstmNode], States],
    embed: Callable[[Tape, NDArray[np.float32], ir.Value], Embeddings] | None = None,
    prepare: Callable[[ir.Graph], None] | None = None,
) -> onnx.ModelProto:
    """A copy of the native graph with each LSTM node translated, and metadata for the variant.

    Args:
        native: the native graph.
        variant: the name of the graph that is made.
        translate: makes the states of an LSTM node.
        embed: makes the embeddings of ids, int64[sequence, batch], from the table; if left out, they stay as they are.
        prepare: changes the copy first.

    Raises:
        ValueError: the graph is not a native one.
    """
    model = ir.from_proto(native)
    graph = model.graph
    if prepare is not None:
        prepare(graph)
    nodes = [node for node in graph if node.op_type in _OUTPUTS]
    divisors = None if embed is None else _replace_embedding(graph, nodes[0], embed)
    for node in nodes:
        tape, lstm = Tape(), _read(node, is_first=node is nodes[0], is_last=node is nodes[-1])
        if lstm.is_first and divisors is not None:
            lstm = lstm._replace(weight=lstm.weight * divisors)
        states = translate(tape, lstm)
        _replace(graph, node, tape, dict(zip(node.outputs, states, strict=False)))  # a node has one output or both
    RemoveUnusedNodesPass()(model)
    for node in graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.type = output.shape = None  # recorded for the native graph; some no longer hold
    if VARIANTS[variant].contrib:
        graph.opset_imports[CONTRIB] = 1
    model.metadata_props["lengthwise.variant"] = variant
    model.metadata_props["lengthwise.independent_of_batch"] = str(VARIANTS[variant].independent).lower()
    return ir.to_proto(model)


def _replace_embedding(
    graph: ir.Graph, first: ir.Node, embed: Callable[[Tape, NDArray[np.float32], ir.Value], Embeddings]
) -> NDArray[np.float32] | None:
    gather = _required(first.inputs[0]).producer()
    if gather is None or gather.op_type != "Gather":
        raise ValueError("the first recurrent node reads no embeddings; rewrite the native graph only")
    tape = Tape()
    table, ids = (_required(value) for value in gather.inputs)
    embeddings = embed(tape, _constant(table), ids)
    first.replace_input_with(0, embeddings.of_lstm)
    _replace(graph, gather, tape, {gather.outputs[0]: embeddings.of_head})
    return embeddings.divisors


def _replace(graph: ir.Graph, node: ir.Node, tape: Tape, values: Mapping[ir.Value, ir.Value]) -> None:
    """Put what is on the tape in the place of a node; `values` are its outputs and what is read instead."""
    for initializer in tape.initializers:
        graph.register_initializer(initializer)
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, list(values), list(values.values()))


def _read(node: ir.Node, *, is_first: bool, is_last: bool) -> LstmNode:
    x, weight, recurrence, bias, lengths = (_required(value) for value in node.inputs[:5])
    return LstmNode(node, x, lengths, _constant(weight), _constant(recurrence), _constant(bias), is_first, is_last)


def _required(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("a recurrent node lacks an input that the native graph has; rewrite the native graph only")
    return value


def _constant(value: ir.Value) -> NDArray[np.float32]:
    if value.const_value is None:
        raise ValueError(
            f"{value.name} is computed, but is a weight in the native graph; rewrite the native graph only"
        )
    return value.const_value.numpy()
