"""An ONNX LSTM or GRU as a LiteRT loop over the steps.

- LiteRT's own sequence LSTM keeps its state from call to call in a tensor of one batch size. A vector would then depend
  on the text before it, so the state is carried by a WHILE loop that begins at zero.
- A reverse direction reads each row backwards within its own length (REVERSE_SEQUENCE), and the last state is gathered
  at the row's end, so padding has no effect.
- The input products of all steps are one FULLY_CONNECTED before the loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.graphs.tflite_file import Subgraph

Weights = NDArray[np.float32]


class Recurrent(NamedTuple):
    """A node of the native graph.

    Attributes:
        cell: LSTM or GRU.
        weight, recurrence, bias: as in ONNX, with directions first.
        slope: of hard gates, clip(slope x + 1/2, 0, 1); None for the sigmoid.
    """

    cell: str
    weight: Weights
    recurrence: Weights
    bias: Weights
    slope: float | None


def add_recurrent(graph: Subgraph, node: Recurrent, x: int, lengths: int) -> tuple[int, int]:
    """Append a layer.

    Args:
        graph: the subgraph.
        node: the layer.
        x: float32[sequence, batch, features].
        lengths: int32[batch].

    Returns:
        Y, float32[sequence, directions, batch, hidden], and Y_h, float32[directions, batch, hidden].
    """
    hidden = node.recurrence.shape[2]
    every, last = [], []
    for direction in range(len(node.recurrence)):
        read = x if direction == 0 else _reverse(graph, x, lengths, node.weight.shape[2])
        states = _run(graph, node, direction, read)
        last.append(_expand(graph, _at_the_end(graph, states, lengths, hidden), 0, (1, -1, hidden)))
        states = states if direction == 0 else _reverse(graph, states, lengths, hidden)
        every.append(_expand(graph, states, 1, (-1, 1, -1, hidden)))
    if len(every) == 1:
        return every[0], last[0]
    together = {"options": "ConcatenationOptions"}
    return (
        graph.op("CONCATENATION", every, "float32", (-1, 2, -1, hidden), axis=1, **together),
        graph.op("CONCATENATION", last, "float32", (2, -1, hidden), axis=0, **together),
    )


def _expand(graph: Subgraph, values: int, axis: int, shape: tuple[int, ...]) -> int:
    return graph.op("EXPAND_DIMS", [values, graph.scalar(axis)], "float32", shape, "ExpandDimsOptions")


def _reverse(graph: Subgraph, values: int, lengths: int, width: int) -> int:
    """float32[sequence, batch, width] with each row's own steps backwards, and its padding where it was."""
    settings: dict[str, Any] = {"seqDim": 0, "batchDim": 1}
    return graph.op(
        "REVERSE_SEQUENCE", [values, lengths], "float32", (-1, -1, width), "ReverseSequenceOptions", **settings
    )


def _at_the_end(graph: Subgraph, states: int, lengths: int, hidden: int) -> int:
    """float32[batch, hidden]: the states of each row's last step."""
    steps = graph.op("SUB", [lengths, graph.scalar(1)], "int32", (-1,), "SubOptions")
    rows = graph.op(
        "RANGE", [graph.scalar(0), _size(graph, lengths, 0), graph.scalar(1)], "int32", (-1,), "RangeOptions"
    )
    places = graph.op("PACK", [steps, rows], "int32", (-1, 2), "PackOptions", valuesCount=2, axis=1)
    return graph.op("GATHER_ND", [states, places], "float32", (-1, hidden), "GatherNdOptions")


def _size(graph: Subgraph, values: int, axis: int) -> int:
    """The size of an axis, an int32 scalar."""
    shape = graph.op("SHAPE", [values], "int32", (-1,), "ShapeOptions", outType=2)
    return graph.op("GATHER", [shape, graph.scalar(axis)], "int32", (), "GatherOptions")


def _run(graph: Subgraph, node: Recurrent, direction: int, x: int) -> int:
    """float32[sequence, batch, hidden]: the states of one direction, in the order in which it reads."""
    rows, hidden = node.recurrence.shape[1:]
    of_input, of_state = np.split(node.bias[direction], 2)
    if node.cell == "LSTM":  # a GRU's reset gate multiplies the state's bias, so that stays in the loop
        of_input = of_input + of_state
    parts = _linear(graph, x, node.weight[direction], of_input, (-1, -1, rows))
    steps, batch = _size(graph, x, 0), _size(graph, x, 1)
    dims = [
        graph.op("PACK", sizes, "int32", (len(sizes),), "PackOptions", valuesCount=len(sizes))
        for sizes in ([batch, graph.scalar(hidden)], [steps, batch, graph.scalar(hidden)])
    ]
    zeros = graph.op("FILL", [dims[0], graph.scalar(0.0)], "float32", (-1, hidden), "FillOptions")
    states = graph.op("FILL", [dims[1], graph.scalar(0.0)], "float32", (-1, -1, hidden), "FillOptions")
    carried = [graph.scalar(0), steps, parts, states, *[zeros] * _state_count(node)]
    specs: list[tuple[str, tuple[int, ...]]] = [
        ("int32", ()), ("int32", ()), ("float32", (-1, -1, rows)), ("float32", (-1, -1, hidden)),
        *[("float32", (-1, hidden))] * _state_count(node),
    ]  # fmt: skip
    loop = {"condSubgraphIndex": _condition(graph, specs), "bodySubgraphIndex": _body(graph, node, direction, specs)}
    return graph.op_outputs("WHILE", carried, specs, "WhileOptions", **loop)[3]


def _state_count(node: Recurrent) -> int:
    return 2 if node.cell == "LSTM" else 1


def _condition(graph: Subgraph, specs: list[tuple[str, tuple[int, ...]]]) -> int:
    """The subgraph that compares the step with the number of steps."""
    condition = graph.model.subgraph("condition")
    carried = [condition.tensor(kind, shape) for kind, shape in specs]
    condition.bind(carried, [condition.op("LESS", carried[:2], "bool", (), "LessOptions")])
    return condition.index


def _body(graph: Subgraph, node: Recurrent, direction: int, specs: list[tuple[str, tuple[int, ...]]]) -> int:
    """The subgraph of one step."""
    body = graph.model.subgraph("step")
    carried = [body.tensor(kind, shape) for kind, shape in specs]
    step, steps, parts, states, *before = carried
    rows, hidden = node.recurrence.shape[1:]
    part = body.op("GATHER", [parts, step], "float32", (-1, rows), "GatherOptions")
    after = (_lstm_step if node.cell == "LSTM" else _gru_step)(body, node, direction, part, before)
    update = _expand(body, after[0], 0, (1, -1, hidden))
    place = body.op("PACK", [step, body.scalar(0), body.scalar(0)], "int32", (3,), "PackOptions", valuesCount=3)
    kept = body.op("DYNAMIC_UPDATE_SLICE", [states, update, place], "float32", (-1, -1, hidden))
    following = body.op("ADD", [step, body.scalar(1)], "int32", (), "AddOptions")
    body.bind(carried, [following, steps, parts, kept, *after])
    return body.index


def _lstm_step(body: Subgraph, node: Recurrent, direction: int, part: int, before: list[int]) -> list[int]:
    """The next state and cell, both float32[batch, hidden]; gates are in ONNX's order i, o, f, c."""
    state, cell = before
    rows, hidden = node.recurrence.shape[1:]
    moved = _linear(body, state, node.recurrence[direction], None, (-1, rows))
    i, o, f, c = _split(body, _binary(body, "ADD", part, moved, rows), 4, hidden)
    kept = _binary(body, "MUL", _gate(body, node, f, hidden), cell, hidden)
    added = _binary(body, "MUL", _gate(body, node, i, hidden), _unary(body, "TANH", c, hidden), hidden)
    cell = _binary(body, "ADD", kept, added, hidden)
    return [_binary(body, "MUL", _gate(body, node, o, hidden), _unary(body, "TANH", cell, hidden), hidden), cell]


def _gru_step(body: Subgraph, node: Recurrent, direction: int, part: int, before: list[int]) -> list[int]:
    """The next state, float32[batch, hidden]; gates are in ONNX's order z, r, h."""
    (state,) = before
    rows, hidden = node.recurrence.shape[1:]
    bias = np.split(node.bias[direction], 2)[1]
    moved = _linear(body, state, node.recurrence[direction], bias, (-1, rows))
    z, r, h = _split(body, part, 3, hidden)
    state_z, state_r, state_h = _split(body, moved, 3, hidden)
    update = _gate(body, node, _binary(body, "ADD", z, state_z, hidden), hidden)
    reset = _gate(body, node, _binary(body, "ADD", r, state_r, hidden), hidden)
    candidate = _binary(body, "ADD", h, _binary(body, "MUL", reset, state_h, hidden), hidden)
    candidate = _unary(body, "TANH", candidate, hidden)
    rest = _binary(body, "SUB", body.scalar(1.0), update, hidden)
    new = _binary(body, "MUL", rest, candidate, hidden)
    return [_binary(body, "ADD", new, _binary(body, "MUL", update, state, hidden), hidden)]


def _linear(graph: Subgraph, x: int, weight: Weights, bias: Weights | None, shape: tuple[int, ...]) -> int:
    inputs = [x, graph.constant(weight), -1 if bias is None else graph.constant(bias)]
    return graph.op("FULLY_CONNECTED", inputs, "float32", shape, "FullyConnectedOptions", keepNumDims=True)


def _split(graph: Subgraph, values: int, count: int, hidden: int) -> list[int]:
    parts = [("float32", (-1, hidden))] * count
    return graph.op_outputs("SPLIT", [graph.scalar(1), values], parts, "SplitOptions", numSplits=count)


def _binary(graph: Subgraph, name: str, left: int, right: int, width: int) -> int:
    return graph.op(name, [left, right], "float32", (-1, width), f"{name.capitalize()}Options")


def _unary(graph: Subgraph, name: str, values: int, width: int) -> int:
    return graph.op(name, [values], "float32", (-1, width))


def _gate(graph: Subgraph, node: Recurrent, values: int, hidden: int) -> int:
    if node.slope is None:
        return _unary(graph, "LOGISTIC", values, hidden)
    line = _binary(graph, "MUL", values, graph.scalar(node.slope), hidden)
    line = _binary(graph, "ADD", line, graph.scalar(0.5), hidden)
    shape = ("float32", (-1, hidden), "MaximumMinimumOptions")
    return graph.op("MINIMUM", [graph.op("MAXIMUM", [line, graph.scalar(0.0)], *shape), graph.scalar(1.0)], *shape)
