"""The portable graph: the native one with forward LSTMs or GRUs only, without `sequence_lens`.

It holds no operator but those of `OPERATORS`, which every engine in `runtimes` reads that reads ONNX at all, and these
in a form that all of them read:

- A step of a row is taken by GatherND with pairs of step and row. One index into flattened states would be a product
  of two dimensions, which tract cannot simplify while both are unknown.
- No Clip of integers, which OpenCV does not have; every constant has its type; a dimension is never merged with
  another that is unknown.
- A static residual gathers its embeddings a second time, batch first. Transposing what the LSTM reads would cost the
  same, and OpenVINO 2026.4 transposes wrongly where its LSTM reads the same values.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from lengthwise.export.graphs.lstm_nodes import LstmNode, States, Tape, replace_lstm_nodes
from lengthwise.export.graphs.variants import PORTABLE

_EVERY_GRAPH = (
    *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "GRU", "Gather", "GatherND", "Gemm", "Greater"),
    *("LSTM", "Less", "Mul", "Range", "ReduceSum", "Reshape", "Shape", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    "Where",
)
_HEADS = (  # of poolings, normalization and Dense layers that an encoder may have
    *("Clip", "Elu", "Erf", "Expand", "GatherElements", "LeakyRelu", "MatMul", "Not", "ReduceL2", "ReduceMax", "Relu"),
    *("Sigmoid", "Softmax", "Tanh"),
)
_PADDING = ("And", "GreaterOrEqual", "Max")  # of an encoder that reads padding
OPERATORS = frozenset((*_EVERY_GRAPH, *_HEADS, *_PADDING))


def to_portable(native: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with forward LSTMs or GRUs that get no lengths."""
    return replace_lstm_nodes(native, PORTABLE, _portable_lstm, prepare=_gather_batch_first)


def _portable_lstm(tape: Tape, lstm: LstmNode) -> States:
    """One forward node per direction; the reverse one reads each row backwards within its own length."""
    x = lstm.x
    batch = tape.op("Shape", [x], {"start": 1, "end": 2})
    lengths = tape.op("Unsqueeze", [tape.op("Cast", [lstm.lengths], {"to": ir.DataType.INT64}), tape.ints(0)])
    rows = tape.op("Unsqueeze", [_range(tape, batch), tape.ints(0)])  # int64[1, batch], as the lengths
    last_step = tape.op("Sub", [lengths, tape.ints(1)])
    last = _pairs(tape, last_step, rows)
    zeros = tape.zeros(tape.op("Concat", [tape.ints(1), batch, tape.ints(lstm.hidden)], {"axis": 0}))
    backwards = None
    all_states, all_last = [], []
    for direction in range(lstm.directions):
        if direction == 1:
            steps = tape.op("Unsqueeze", [_range(tape, tape.op("Shape", [x], {"start": 0, "end": 1})), tape.ints(1)])
            mirrored = tape.op("Where", [tape.op("Less", [steps, lengths]), tape.op("Sub", [last_step, steps]), steps])
            backwards = _pairs(tape, mirrored, rows)
            x = tape.op("GatherND", [x, backwards])
        name = f"{lstm.name}.{'reverse' if direction else 'forward'}"
        parts = zip("WRB", (lstm.weight, lstm.recurrence, lstm.bias), strict=True)
        weights = [tape.weight(f"{name}.{letter}", values[direction : direction + 1]) for letter, values in parts]
        inputs = [x, *weights, None, *[zeros] * (lstm.outputs - 1)]  # initial states, and cells of an LSTM
        with_direction, *_ = tape.op_multi_out(lstm.op, inputs, lstm.attributes(1), num_outputs=lstm.outputs)
        states = tape.op("Squeeze", [with_direction, tape.ints(1)])
        all_last.append(tape.op("GatherND", [states, last]))
        if backwards is not None:
            with_direction = tape.op("Unsqueeze", [tape.op("GatherND", [states, backwards]), tape.ints(1)])
        all_states.append(with_direction)
    if lstm.directions == 1:
        return all_states[0], all_last[0]
    return tape.op("Concat", all_states, {"axis": 1}), tape.op("Concat", all_last, {"axis": 0})


def _range(tape: Tape, end: ir.Value) -> ir.Value:
    """int64[end]: 0, 1, ..."""
    return tape.op("Range", [tape.int(0), tape.op("Squeeze", [end, tape.ints(0)]), tape.int(1)])


def _pairs(tape: Tape, steps: ir.Value, rows: ir.Value) -> ir.Value:
    """int64[times, batch] and int64[1, batch] to int64[times, batch, 2]: which step of which row."""
    every_row = tape.op("Add", [tape.op("Mul", [steps, tape.ints(0)]), rows])
    parts = [tape.op("Unsqueeze", [values, tape.ints(2)]) for values in (steps, every_row)]
    return tape.op("Concat", parts, {"axis": 2})


def _gather_batch_first(graph: ir.Graph) -> None:
    """Replace transposed embeddings of transposed ids by embeddings of the ids."""
    for node in list(graph):
        gather = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if gather is None or gather.op_type != "Gather":
            continue
        table, transposed_ids = gather.inputs
        transpose = None if transposed_ids is None else transposed_ids.producer()
        if table is None or transpose is None or transpose.op_type != "Transpose":
            continue
        tape = Tape()
        embeddings = tape.op("Gather", [table, transpose.inputs[0]], {"axis": 0})
        ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, node.outputs, [embeddings])
