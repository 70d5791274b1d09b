"""The 8-bit graphs: embedding and LSTM in int8, through onnxruntime's DynamicQuantizeLSTM; a GRU's weights in int8.

- DynamicQuantizeLSTM scales activations by the smallest and the largest value in the batch, so a vector would depend
  on its batch. In `int8` every row carries both ends of the range: two input columns hold them, with weights of zero,
  and two hidden units stay at -1 and 1 through forced gates. Nothing reads them, but they make the range the same in
  every batch. Integer sums are exact, so the vectors are the same too. `int8_dynamic` leaves the range to the batch.
- The embedding table is rounded once, to the grid that DynamicQuantizeLSTM would round its rows to. A static residual
  reads the same rows.
- That grid is one for all columns of the table, which differ in range once they are trained. So each column is divided
  by its largest value, and the LSTM's input weights are multiplied by it: no column has fewer steps than another.
- Weights keep 7 bits: x86 processors without VNNI add pairs of products in 16 bits, which 8 bits overflow
  (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, on reduce_range).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from lengthwise.export.graphs.lstm_nodes import CONTRIB, Embeddings, LstmNode, States, Tape, replace_lstm_nodes
from lengthwise.export.graphs.variants import INT8, INT8_DYNAMIC

_WEIGHT_LIMIT = 63  # 7 bits with a sign
_SATURATED = 100.0  # gate pre-activation whose sigmoid is exactly 0 or 1 in float32
_CELL = 30.0  # cell state whose tanh is exactly 1 in float32
_ENDS = 2  # columns or units that hold the ends of a range


def to_int8(native: onnx.ModelProto) -> onnx.ModelProto:
    """8-bit embedding and LSTM or GRU; a row's vector does not depend on its batch."""
    if has_gru(native):
        return replace_lstm_nodes(native, INT8, _gru_of_8_bit_weights, partial(_embed, ends=False))
    return replace_lstm_nodes(native, INT8, _fixed_range_lstm, partial(_embed, ends=True))


def to_int8_dynamic(native: onnx.ModelProto) -> onnx.ModelProto:
    """8-bit embedding and LSTM; a row's vector depends on its batch.

    Raises:
        ValueError: of a GRU, for which onnxruntime has no such operator.
    """
    if has_gru(native):
        raise ValueError("onnxruntime has no DynamicQuantizeGRU; choose int8")
    return replace_lstm_nodes(native, INT8_DYNAMIC, _dynamic_range_lstm, partial(_embed, ends=False))


def has_gru(model: onnx.ModelProto) -> bool:
    """Whether the recurrent layers are GRUs."""
    return any(node.op_type == "GRU" for node in model.graph.node)


class Grid(NamedTuple):
    """256 values, including 0, to which DynamicQuantizeLSTM rounds activations of a range."""

    scale: np.float32
    zero_point: np.uint8

    @classmethod
    def between(cls, low: float, high: float) -> Grid:
        """The grid over a range; the range is widened to hold 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(np.float32((high - low) / 255), np.finfo(np.float32).tiny)
        return cls(scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255)))

    def quantize(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """float32[...] to indices on the grid, uint8[...]."""
        return np.clip(np.rint(values / self.scale) + np.float32(self.zero_point), 0, 255).astype(np.uint8)


def _gru_of_8_bit_weights(tape: Tape, gru: LstmNode) -> States:
    """A GRU in float32 whose weights are stored in 8 bits, one scale per row, since there is no quantized operator."""
    weights = [
        _stored_in_8_bits(tape, f"{gru.name}.{letter}", values)
        for letter, values in zip("WR", (gru.weight, gru.recurrence), strict=True)
    ]
    bias = tape.weight(f"{gru.name}.B.float", gru.bias)
    states, last = tape.op_multi_out(
        gru.op, [gru.x, *weights, bias, gru.lengths], gru.attributes(), num_outputs=gru.outputs
    )
    return states, last


def _stored_in_8_bits(tape: Tape, name: str, values: NDArray[np.float32]) -> ir.Value:
    """float32[directions, rows, columns] from 8 bits."""
    quantized, scale = quantize_rows(values)
    flat = tape.weight(f"{name}.int8", quantized.reshape(-1, values.shape[2]))
    rows = tape.op("DequantizeLinear", [flat, tape.weight(f"{name}.scale", scale.reshape(-1))], {"axis": 0})
    return tape.op("Reshape", [rows, tape.ints(*values.shape)])


def _dynamic_range_lstm(tape: Tape, lstm: LstmNode) -> States:
    return _quantized_lstm(tape, lstm, lstm.weight, lstm.recurrence, lstm.bias)


def _fixed_range_lstm(tape: Tape, lstm: LstmNode) -> States:
    """With two more hidden units, and two more input columns, that hold the ends of the range.

    The columns are the table's in the first layer, and the units of the layer below in the others.
    """
    bias, initial = _pin_end_units(tape, lstm)
    recurrence = _pad(_add_units(lstm.recurrence, 4), 0, 0, _ENDS)
    states, last = _quantized_lstm(tape, lstm, _add_units(_widen_input(lstm), 4), recurrence, bias, initial)
    if not lstm.is_last:
        return states, last  # the next layer reads the additional units too
    return _columns(tape, states, lstm.hidden), _columns(tape, last, lstm.hidden)


def _widen_input(lstm: LstmNode) -> NDArray[np.float32]:
    """The input weights, with zeros for the end columns of the input."""
    if lstm.is_first:
        return _pad(lstm.weight, 0, 0, _ENDS)
    directions, hidden = lstm.directions, lstm.hidden
    below = _pad(lstm.weight.reshape(directions, 4 * hidden, directions, hidden), 0, 0, 0, _ENDS)
    return below.reshape(directions, 4 * hidden, directions * (hidden + _ENDS))


def _pin_end_units(tape: Tape, lstm: LstmNode) -> tuple[NDArray[np.float32], list[ir.Value]]:
    """Biases and initial states with which the two additional units stay at -1 and 1."""
    directions, hidden = lstm.directions, lstm.hidden
    bias = _add_units(lstm.bias[:, :, None], 8)[:, :, 0]
    gates = bias.reshape(directions, 8, hidden + _ENDS)
    gates[:, :3, hidden:] = np.array([-_SATURATED, _SATURATED, _SATURATED])[:, None]  # input, output, forget
    batch = tape.op("Shape", [lstm.x], {"start": 1, "end": 2})
    shape = tape.op("Concat", [tape.ints(directions), batch, tape.ints(hidden + _ENDS)], {"axis": 0})
    initial = []
    for size in (1.0, _CELL):
        initial.append(tape.op("Expand", [tape.floats(*[0.0] * hidden, -size, size), shape]))
    return bias, initial


def _embed(tape: Tape, table: NDArray[np.float32], ids: ir.Value, *, ends: bool) -> Embeddings:
    """Rows of the 8-bit embedding table, float[sequence, batch, features]; `ends` adds the LSTM's two end columns."""
    divisors = np.maximum(np.abs(table).max(axis=0), np.finfo(np.float32).tiny)
    divided = table / divisors
    grid = Grid.between(float(divided.min()), float(divided.max()))
    rounded = grid.quantize(divided)
    if ends:
        rounded = np.concatenate([rounded, np.tile(np.array([0, 255], np.uint8), (len(table), 1))], axis=1)
    rows = tape.op("Gather", [tape.weight("embedding.int8", rounded), ids])
    scale = tape.weight("embedding.scale", np.array(grid.scale))
    zero_point = tape.weight("embedding.zero_point", np.array(grid.zero_point))
    of_lstm = tape.op("DequantizeLinear", [rows, scale, zero_point])
    of_head = _columns(tape, of_lstm, table.shape[1]) if ends else of_lstm
    return Embeddings(of_lstm, tape.op("Mul", [of_head, tape.weight("embedding.divisors", divisors)]), divisors)


def _columns(tape: Tape, values: ir.Value, width: int) -> ir.Value:
    """The first columns of the last axis."""
    return tape.op("Slice", [values, tape.ints(0), tape.ints(width), tape.ints(-1)])


def _quantized_lstm(
    tape: Tape,
    lstm: LstmNode,
    weight: NDArray[np.float32],
    recurrence: NDArray[np.float32],
    bias: NDArray[np.float32],
    initial: Sequence[ir.Value | None] = (None, None),
) -> States:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM"""
    matrices, parameters = [], []
    for letter, values in (("W", weight), ("R", recurrence)):
        quantized, scale = quantize_rows(values)
        matrices.append(tape.weight(f"{lstm.name}.{letter}.int8", np.ascontiguousarray(quantized.transpose(0, 2, 1))))
        parameters.append(tape.weight(f"{lstm.name}.{letter}.scale", scale))
        parameters.append(tape.weight(f"{lstm.name}.{letter}.zero_point", np.zeros(scale.shape, np.int8)))
    inputs = [lstm.x, *matrices, tape.weight(f"{lstm.name}.B.float", bias), lstm.lengths, *initial, None]
    states, last, _ = tape.op_multi_out(
        "DynamicQuantizeLSTM",
        [*inputs, *parameters],
        {**lstm.attributes(), "hidden_size": recurrence.shape[2]},
        domain=CONTRIB,
        num_outputs=3,
    )
    return states, last


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """float32[directions, rows, columns] to int8 of the same shape, and one scale per row."""
    scale = np.maximum(np.abs(weight).max(axis=2) / _WEIGHT_LIMIT, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, :, None]), -_WEIGHT_LIMIT, _WEIGHT_LIMIT).astype(np.int8), scale


def _add_units(values: NDArray[np.float32], gates: int) -> NDArray[np.float32]:
    """Two more hidden units, of zeros, in every gate.

    float32[directions, gates * hidden, width] to float32[directions, gates * (hidden + 2), width].
    """
    directions, _, width = values.shape
    return _pad(values.reshape(directions, gates, -1, width), 0, 0, _ENDS, 0).reshape(directions, -1, width)


def _pad(values: NDArray[np.float32], *zeros: int) -> NDArray[np.float32]:
    """Add this number of zeros at the end of each axis."""
    return np.pad(values, [(0, count) for count in zeros])
