"""The half-precision graph: embedding and LSTM or GRU in float16, everything after them in float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from lengthwise.export.graphs.lstm_nodes import Embeddings, LstmNode, States, Tape, replace_lstm_nodes
from lengthwise.export.graphs.variants import FP16


def to_fp16(native: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with embedding and LSTM or GRU in half precision."""
    return replace_lstm_nodes(native, FP16, _half_lstm, _half_embeddings)


def _half_embeddings(tape: Tape, table: NDArray[np.float32], ids: ir.Value) -> Embeddings:
    rows = tape.op("Gather", [tape.weight("embedding.fp16", table.astype(np.float16)), ids])
    return Embeddings(rows, tape.op("Cast", [rows], {"to": ir.DataType.FLOAT}))


def _half_lstm(tape: Tape, lstm: LstmNode) -> States:
    x = lstm.x if lstm.is_first else tape.op("Cast", [lstm.x], {"to": ir.DataType.FLOAT16})
    parts = zip("WRB", (lstm.weight, lstm.recurrence, lstm.bias), strict=True)
    weights = [tape.weight(f"{lstm.name}.{letter}.fp16", values.astype(np.float16)) for letter, values in parts]
    states, last, *_ = tape.op_multi_out(
        lstm.op, [x, *weights, lstm.lengths], lstm.attributes(), num_outputs=lstm.outputs
    )
    return tape.op("Cast", [states], {"to": ir.DataType.FLOAT}), tape.op("Cast", [last], {"to": ir.DataType.FLOAT})
