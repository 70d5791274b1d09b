"""The other graphs of an artifact, each a plain function of the native one.

    portable      forward-only LSTMs without `sequence_lens`, for runtimes that ignore or refuse it
    fp16          embedding and LSTM in half precision
    int8          8-bit embedding and LSTM (onnxruntime's DynamicQuantizeLSTM) over fixed ranges
    int8_dynamic  the same over the range of each batch

What is rewritten is the LSTM nodes and the embedding table before them; pooling, projection and normalisation are
the native graph's own, in float32.

Notable decisions:
- DynamicQuantizeLSTM scales activations by the smallest and the largest value in the batch, so a vector would depend
  on what it is batched with. In `int8` every row carries both ends of the range itself: two input columns that hold
  them, of weight zero, and two hidden units that stand at -1 and 1. Their gates are forced, nothing reads them, and
  whatever the batch, the range is the same. Integer sums are exact, so the vectors are too.
- The 8-bit embedding table lies on the very grid to which DynamicQuantizeLSTM would round its rows: rounded once.
- Weights keep 7 bits: x86 processors without VNNI add pairs of products in 16 bits, which 8 bits overflow
  (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, on reduce_range).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from lengthwise.export.graphs.variants import FP16, INT8, INT8_DYNAMIC, PORTABLE, VARIANTS

_CONTRIB = "com.microsoft"
_WEIGHT_LIMIT = 63  # 7 bits with a sign
_SATURATED = 100.0  # of a gate: its sigmoid is 0 or 1 to the last bit
_CELL = 30.0  # its tanh is 1 to the last bit
_ENDS = 2  # columns or units that hold the ends of a range


def to_portable(native: onnx.ModelProto) -> onnx.ModelProto:
    """The same function of forward LSTMs that are told no lengths."""
    return _rewritten(native, PORTABLE, _portable_lstm)


def to_fp16(native: onnx.ModelProto) -> onnx.ModelProto:
    """Embedding and LSTM in half precision, what follows in float32."""
    return _rewritten(native, FP16, _half_lstm)


def to_int8(native: onnx.ModelProto) -> onnx.ModelProto:
    """8-bit embedding and LSTM; a row's vector does not depend on its batch."""
    return _rewritten(native, INT8, _fixed_int8_lstm)


def to_int8_dynamic(native: onnx.ModelProto) -> onnx.ModelProto:
    """8-bit embedding and LSTM; a row's vector depends on its batch."""
    return _rewritten(native, INT8_DYNAMIC, _dynamic_int8_lstm)


REWRITES: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = MappingProxyType(
    {PORTABLE: to_portable, FP16: to_fp16, INT8: to_int8, INT8_DYNAMIC: to_int8_dynamic}
)


class _Lstm(NamedTuple):
    """An LSTM node of the native graph, and its weights in ONNX's layout.

    `x` is float[sequence, batch, features], `lengths` int32[batch]; `weight` float32[directions, 4 * hidden,
    features], `recurrence` float32[directions, 4 * hidden, hidden], `bias` float32[directions, 8 * hidden].
    `table` is the embedding table where `x` is a Gather of its rows, else None, and `ids` what it gathers.
    """

    node: ir.Node
    x: ir.Value
    lengths: ir.Value
    weight: NDArray[np.float32]
    recurrence: NDArray[np.float32]
    bias: NDArray[np.float32]
    table: NDArray[np.float32] | None
    ids: ir.Value | None
    is_last: bool

    @property
    def hidden(self) -> int:
        return self.recurrence.shape[2]

    @property
    def directions(self) -> int:
        return self.recurrence.shape[0]

    @property
    def direction(self) -> str:
        return "bidirectional" if self.directions == 2 else "forward"

    @property
    def name(self) -> str:
        """The path of its weights in the encoder, such as `lstm.layers.0`."""
        return str(_given(self.node.inputs[1]).name).rpartition(".")[0]


class _Tape(Tape):
    """onnx_ir's tape, with constants by value."""

    def weight(self, name: str, values: NDArray[np.generic]) -> ir.Value:
        return self.initializer(ir.tensor(values), name)

    def ints(self, *values: int) -> ir.Value:
        return self.op("Constant", [], {"value_ints": list(values)})

    def int(self, value: int) -> ir.Value:
        return self.op("Constant", [], {"value_int": value})


States = tuple[ir.Value, ir.Value]  # float[sequence, directions, batch, hidden] and float[directions, batch, hidden]


def _rewritten(native: onnx.ModelProto, variant: str, translate: Callable[[_Tape, _Lstm], States]) -> onnx.ModelProto:
    """The graph with each of its LSTM nodes translated."""
    model = ir.from_proto(native)
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "LSTM"]
    for node in nodes:
        tape = _Tape()
        states = translate(tape, _read(node, is_last=node is nodes[-1]))
        translated = dict(zip(node.outputs, states, strict=False))  # those that the node has
        for value in tape.initializers:
            graph.register_initializer(value)
        old, new = list(translated), list(translated.values())
        ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, old, new)
    RemoveUnusedNodesPass()(model)
    for node in graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.type = output.shape = None  # of the native graph: some would not be right any more
    if VARIANTS[variant].contrib:
        graph.opset_imports[_CONTRIB] = 1
    model.metadata_props["lengthwise.variant"] = variant
    model.metadata_props["lengthwise.independent_of_batch"] = str(VARIANTS[variant].independent).lower()
    return ir.to_proto(model)


def _read(node: ir.Node, is_last: bool) -> _Lstm:
    x, weight, recurrence, bias, lengths = (_given(value) for value in node.inputs[:5])
    gather = x.producer()
    table = ids = None
    if gather is not None and gather.op_type == "Gather":
        table, ids = _constant(_given(gather.inputs[0])), gather.inputs[1]
    return _Lstm(node, x, lengths, _constant(weight), _constant(recurrence), _constant(bias), table, ids, is_last)


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("an LSTM lacks an input that the native graph has; rewrite the native graph only")
    return value


def _constant(value: ir.Value) -> NDArray[np.float32]:
    if value.const_value is None:
        raise ValueError(
            f"{value.name} is computed, but is a weight in the native graph; rewrite the native graph only"
        )
    return value.const_value.numpy()


# --- portable


def _portable_lstm(tape: _Tape, lstm: _Lstm) -> States:
    """A forward LSTM a direction; the reverse one reads each row backwards within its own length."""
    x, features = lstm.x, lstm.weight.shape[2]
    sequence = tape.op("Shape", [x], {"start": 0, "end": 1})
    batch = tape.op("Shape", [x], {"start": 1, "end": 2})
    lengths = tape.op("Cast", [lstm.lengths], {"to": ir.DataType.INT64})
    rows = _range(tape, batch)
    last_step = tape.op("Sub", [lengths, tape.int(1)])
    last = tape.op("Add", [tape.op("Mul", [last_step, batch]), rows])  # int64[batch]: of steps and rows in one axis
    zeros = tape.op("ConstantOfShape", [tape.op("Concat", [tape.ints(1), batch, tape.ints(lstm.hidden)], {"axis": 0})])
    backwards = None
    all_states, all_last = [], []
    for direction in range(lstm.directions):
        if direction == 1:
            steps = tape.op("Unsqueeze", [_range(tape, sequence), tape.ints(1)])
            mirrored = tape.op("Where", [tape.op("Less", [steps, lengths]), tape.op("Sub", [last_step, steps]), steps])
            backwards = tape.op("Add", [tape.op("Mul", [mirrored, batch]), rows])  # int64[sequence, batch]
            x = tape.op("Gather", [_flat(tape, x, features), backwards])
        name = f"{lstm.name}.{'reverse' if direction else 'forward'}"
        parts = zip("WRB", (lstm.weight, lstm.recurrence, lstm.bias), strict=True)
        weights = [tape.weight(f"{name}.{letter}", values[direction : direction + 1]) for letter, values in parts]
        inputs = [x, *weights, None, zeros, zeros]
        states, _, _ = tape.op_multi_out("LSTM", inputs, {"hidden_size": lstm.hidden}, num_outputs=3)
        flat = _flat(tape, states, lstm.hidden)
        all_last.append(tape.op("Unsqueeze", [tape.op("Gather", [flat, last]), tape.ints(0)]))
        if backwards is not None:
            states = tape.op("Unsqueeze", [tape.op("Gather", [flat, backwards]), tape.ints(1)])
        all_states.append(states)
    if lstm.directions == 1:
        return all_states[0], all_last[0]
    return tape.op("Concat", all_states, {"axis": 1}), tape.op("Concat", all_last, {"axis": 0})


def _range(tape: _Tape, end: ir.Value) -> ir.Value:
    """int64[end]: 0, 1, ..."""
    return tape.op("Range", [tape.int(0), tape.op("Squeeze", [end]), tape.int(1)])


def _flat(tape: _Tape, values: ir.Value, width: int) -> ir.Value:
    """All but the last axis as one: float[sequence * batch, width]."""
    return tape.op("Reshape", [values, tape.ints(-1, width)])


# --- fp16


def _half_lstm(tape: _Tape, lstm: _Lstm) -> States:
    if lstm.table is None:
        x = tape.op("Cast", [lstm.x], {"to": ir.DataType.FLOAT16})
    else:
        x = tape.op("Gather", [tape.weight("embedding.fp16", lstm.table.astype(np.float16)), lstm.ids])
    parts = zip("WRB", (lstm.weight, lstm.recurrence, lstm.bias), strict=True)
    weights = [tape.weight(f"{lstm.name}.{letter}.fp16", values.astype(np.float16)) for letter, values in parts]
    states, last, _ = tape.op_multi_out(
        "LSTM",
        [x, *weights, lstm.lengths],
        {"hidden_size": lstm.hidden, "direction": lstm.direction},
        num_outputs=3,
    )
    return tape.op("Cast", [states], {"to": ir.DataType.FLOAT}), tape.op("Cast", [last], {"to": ir.DataType.FLOAT})


# --- int8


class _Grid(NamedTuple):
    """256 values, 0 among them, to which DynamicQuantizeLSTM rounds activations of a range."""

    scale: np.float32
    zero_point: np.uint8

    @classmethod
    def between(cls, low: float, high: float) -> _Grid:
        """The grid over a range; the range is widened to hold 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(np.float32((high - low) / 255), np.finfo(np.float32).tiny)
        return cls(scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255)))

    def round(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Places on the grid, as float32[...] to uint8[...]."""
        return np.clip(np.rint(values / self.scale) + np.float32(self.zero_point), 0, 255).astype(np.uint8)


def _dynamic_int8_lstm(tape: _Tape, lstm: _Lstm) -> States:
    x = lstm.x if lstm.table is None else _int8_embedded(tape, lstm.table, lstm.ids, ends=False)
    return _quantized_lstm(tape, lstm, x, lstm.weight, lstm.recurrence, lstm.bias)


def _fixed_int8_lstm(tape: _Tape, lstm: _Lstm) -> States:
    """With two hidden units, and two columns of the input, that hold the ends of the range.

    The columns are the table's own for the first layer, and the units of the layer below for the others.
    """
    directions, hidden = lstm.directions, lstm.hidden
    if lstm.table is None:
        x = lstm.x
        below = _padded(lstm.weight.reshape(directions, 4 * hidden, directions, hidden), 0, 0, 0, _ENDS)
        weight = below.reshape(directions, 4 * hidden, directions * (hidden + _ENDS))
    else:
        x = _int8_embedded(tape, lstm.table, lstm.ids, ends=True)
        weight = _padded(lstm.weight, 0, 0, _ENDS)

    bias = _with_units(lstm.bias[:, :, None], 8)[:, :, 0]
    gates = bias.reshape(directions, 8, hidden + _ENDS)
    gates[:, :3, hidden:] = np.array([-_SATURATED, _SATURATED, _SATURATED])[:, None]  # input, output, forget
    batch = tape.op("Shape", [x], {"start": 1, "end": 2})
    shape = tape.op("Concat", [tape.ints(directions), batch, tape.ints(hidden + _ENDS)], {"axis": 0})
    initial = []
    for size in (1.0, _CELL):
        values = {"value_floats": [0.0] * hidden + [-size, size]}
        initial.append(tape.op("Expand", [tape.op("Constant", [], values), shape]))
    recurrence = _padded(_with_units(lstm.recurrence, 4), 0, 0, _ENDS)
    states, last = _quantized_lstm(tape, lstm, x, _with_units(weight, 4), recurrence, bias, initial)
    if not lstm.is_last:
        return states, last  # the next layer reads the units too
    without_units = (tape.ints(0), tape.ints(hidden), tape.ints(-1))
    return tape.op("Slice", [states, *without_units]), tape.op("Slice", [last, *without_units])


def _int8_embedded(tape: _Tape, table: NDArray[np.float32], ids: ir.Value | None, *, ends: bool) -> ir.Value:
    """Rows of the 8-bit embedding table, float[sequence, batch, features]; with `ends`, two columns more."""
    grid = _Grid.between(float(table.min()), float(table.max()))
    rounded = grid.round(table)
    if ends:
        rounded = np.concatenate([rounded, np.tile(np.array([0, 255], np.uint8), (len(table), 1))], axis=1)
    rows = tape.op("Gather", [tape.weight("embedding.int8", rounded), ids])
    scale = tape.weight("embedding.scale", np.array(grid.scale))
    return tape.op("DequantizeLinear", [rows, scale, tape.weight("embedding.zero_point", np.array(grid.zero_point))])


def _quantized_lstm(
    tape: _Tape,
    lstm: _Lstm,
    x: ir.Value,
    weight: NDArray[np.float32],
    recurrence: NDArray[np.float32],
    bias: NDArray[np.float32],
    initial: Sequence[ir.Value | None] = (None, None),
) -> States:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM"""
    matrices, parameters = [], []
    for letter, values in (("W", weight), ("R", recurrence)):
        quantized, scale = _quantize_rows(values)
        matrices.append(tape.weight(f"{lstm.name}.{letter}.int8", np.ascontiguousarray(quantized.transpose(0, 2, 1))))
        parameters.append(tape.weight(f"{lstm.name}.{letter}.scale", scale))
        parameters.append(tape.weight(f"{lstm.name}.{letter}.zero_point", np.zeros(scale.shape, np.int8)))
    inputs = [x, *matrices, tape.weight(f"{lstm.name}.B.float", bias), lstm.lengths, *initial, None]
    states, last, _ = tape.op_multi_out(
        "DynamicQuantizeLSTM",
        [*inputs, *parameters],
        {"hidden_size": recurrence.shape[2], "direction": lstm.direction},
        domain=_CONTRIB,
        num_outputs=3,
    )
    return states, last


def _quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """float32[directions, rows, columns] to int8 of the same shape, and a scale float32[directions, rows] a row."""
    scale = np.maximum(np.abs(weight).max(axis=2) / _WEIGHT_LIMIT, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, :, None]), -_WEIGHT_LIMIT, _WEIGHT_LIMIT).astype(np.int8), scale


def _with_units(values: NDArray[np.float32], gates: int) -> NDArray[np.float32]:
    """Two more hidden units, of zeros, in every gate.

    float32[directions, gates * hidden, width] to float32[directions, gates * (hidden + 2), width].
    """
    directions, _, width = values.shape
    return _padded(values.reshape(directions, gates, -1, width), 0, 0, _ENDS, 0).reshape(directions, -1, width)


def _padded(values: NDArray[np.float32], *zeros: int) -> NDArray[np.float32]:
    """So many zeros at the end of each axis."""
    return np.pad(values, [(0, count) for count in zeros])
