"""The portable graph: the native one with forward LSTMs or GRUs only, without `sequence_lens`."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from lengthwise.export.graphs.lstm_nodes import LstmNode, States, Tape, replace_lstm_nodes
from lengthwise.export.graphs.variants import PORTABLE


def to_portable(native: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with forward LSTMs or GRUs that get no lengths."""
    return replace_lstm_nodes(native, PORTABLE, _portable_lstm)


def _portable_lstm(tape: Tape, lstm: LstmNode) -> States:
    """One forward node per direction; the reverse one reads each row backwards within its own length."""
    x, features = lstm.x, lstm.weight.shape[2]
    sequence = tape.op("Shape", [x], {"start": 0, "end": 1})
    batch = tape.op("Shape", [x], {"start": 1, "end": 2})
    lengths = tape.op("Cast", [lstm.lengths], {"to": ir.DataType.INT64})
    rows = _range(tape, batch)
    last_step = tape.op("Sub", [lengths, tape.int(1)])
    last = tape.op("Add", [tape.op("Mul", [last_step, batch]), rows])  # int64[batch], into the flattened states
    zeros = tape.zeros(tape.op("Concat", [tape.ints(1), batch, tape.ints(lstm.hidden)], {"axis": 0}))
    backwards = None
    all_states, all_last = [], []
    for direction in range(lstm.directions):
        if direction == 1:
            steps = tape.op("Unsqueeze", [_range(tape, sequence), tape.ints(1)])
            mirrored = tape.op("Where", [tape.op("Less", [steps, lengths]), tape.op("Sub", [last_step, steps]), steps])
            backwards = tape.op("Add", [tape.op("Mul", [mirrored, batch]), rows])  # int64[sequence, batch]
            x = tape.op("Gather", [_flatten(tape, x, features), backwards])
        name = f"{lstm.name}.{'reverse' if direction else 'forward'}"
        parts = zip("WRB", (lstm.weight, lstm.recurrence, lstm.bias), strict=True)
        weights = [tape.weight(f"{name}.{letter}", values[direction : direction + 1]) for letter, values in parts]
        inputs = [x, *weights, None, *[zeros] * (lstm.outputs - 1)]  # initial states, and cells of an LSTM
        states, *_ = tape.op_multi_out(lstm.op, inputs, lstm.attributes(1), num_outputs=lstm.outputs)
        flat = _flatten(tape, states, lstm.hidden)
        all_last.append(tape.op("Unsqueeze", [tape.op("Gather", [flat, last]), tape.ints(0)]))
        if backwards is not None:
            states = tape.op("Unsqueeze", [tape.op("Gather", [flat, backwards]), tape.ints(1)])
        all_states.append(states)
    if lstm.directions == 1:
        return all_states[0], all_last[0]
    return tape.op("Concat", all_states, {"axis": 1}), tape.op("Concat", all_last, {"axis": 0})


def _range(tape: Tape, end: ir.Value) -> ir.Value:
    """int64[end]: 0, 1, ..."""
    return tape.op("Range", [tape.int(0), tape.op("Squeeze", [end]), tape.int(1)])


def _flatten(tape: Tape, values: ir.Value, width: int) -> ir.Value:
    """All but the last axis as one: float[sequence * batch, width]."""
    return tape.op("Reshape", [values, tape.ints(-1, width)])
