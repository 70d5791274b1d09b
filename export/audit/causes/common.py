"""Shared by the modules that look for causes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from lengthwise.export.audit.graph import GraphView

# Names of rewrites, see `fix`.
PER_ROW_RANGES, INFERENCE_MODE = "ranges per row", "inference mode"
LENGTHS, MASKED_MEAN, MASKED_ATTENTION = "sequence_lens", "masked mean", "masked attention"
RANGES = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"),
)
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
NAMED = 4  # nodes of a cause that are named


def is_time_first(view: GraphView) -> bool:
    """Whether states lie as ONNX's recurrent layers have them, [sequence, batch, features]."""
    return bool(view.nodes(*RECURRENT))


def count_nodes(nodes: Sequence[onnx.NodeProto]) -> str:
    """How many nodes of which kinds, in words."""
    kinds = sorted({node.op_type for node in nodes})
    return f"{len(nodes)} {' and '.join(kinds)} {'node' if len(nodes) == 1 else 'nodes'}"


def name_nodes(nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
    """The names of the first nodes."""
    named = [node.name or f"{node.op_type} that makes {node.output[0]}" for node in nodes[:NAMED]]
    return (*named, f"and {len(nodes) - NAMED} more") if len(nodes) > NAMED else tuple(named)
