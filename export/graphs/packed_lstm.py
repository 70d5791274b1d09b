"""One layer of a packed LSTM as a PyTorch operator, and its translation to ONNX.

- `torch.export` cannot trace a PackedSequence (github.com/pytorch/pytorch/issues/112044). With a custom operator it
  need not: the eager body is the packed LSTM, the exporter sees one node of known shape, and `to_onnx_lstm` translates
  that node. Batch and sequence stay dynamic.
- Weights are stored as ONNX stores them, directions stacked and gates in the order i, o, f, c
  (https://onnx.ai/onnx/operators/onnx__LSTM.html; PyTorch's order is i, f, g, o), so the graph needs no nodes that
  slice and join them again in every session.
"""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

op: Any = opset18  # typed for onnxscript's own functions only, not for traced ones
_ONNX_GATES = (0, 3, 1, 2)  # i, o, f, c out of PyTorch's i, f, g, o
_TORCH_GATES = (0, 2, 3, 1)  # and back


def _reorder_gates(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Reorder the four blocks along the second to last axis (of a vector, the last one)."""
    axis = max(weight.dim() - 2, 0)
    blocks = weight.chunk(4, dim=axis)
    return torch.cat([blocks[gate] for gate in order], dim=axis)


@torch.library.custom_op("lengthwise::packed_lstm", mutates_args=())
def packed_lstm(x: Tensor, lengths: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One layer, each row read up to its own length.

    Args:
        x: float[sequence, batch, features].
        lengths: int32[batch], each from 1 to sequence.
        weight: float[directions, 4 * hidden, features], gates i, o, f, c.
        recurrence: float[directions, 4 * hidden, hidden], gates i, o, f, c.
        bias: float[directions, 8 * hidden], the input's bias, then the recurrence's.

    Returns:
        States float[sequence, batch, directions * hidden], zero beyond a row's length, and last states
        float[batch, directions * hidden].
    """
    directions, _, hidden = recurrence.shape
    parameters = []
    for direction in range(directions):
        parameters += [_reorder_gates(part[direction], _TORCH_GATES) for part in (weight, recurrence)]
        parameters += [_reorder_gates(part, _TORCH_GATES) for part in bias[direction].chunk(2)]
    packed = pack_padded_sequence(x, lengths.to("cpu", torch.int64), enforce_sorted=False)
    zeros = x.new_zeros(directions, x.shape[1], hidden)
    data, last, _ = torch.lstm(
        packed.data, packed.batch_sizes, (zeros, zeros), parameters, True, 1, 0.0, False, directions == 2
    )
    states = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    padded, _ = pad_packed_sequence(states, total_length=x.shape[0])
    last = last[:, packed.unsorted_indices].transpose(0, 1).flatten(1)
    return padded.contiguous(), last.contiguous()


@packed_lstm.register_fake
def _(x: Tensor, lengths: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    width = recurrence.shape[0] * recurrence.shape[2]
    return x.new_empty(x.shape[0], x.shape[1], width), x.new_empty(x.shape[1], width)


def to_onnx_lstm(x: Any, lengths: Any, weight: Any, recurrence: Any, bias: Any) -> tuple[Any, Any]:
    """Translate the operator to an ONNX LSTM with `sequence_lens`."""
    directions, _, hidden = recurrence.shape
    direction = "bidirectional" if directions == 2 else "forward"
    states, last, _ = op.LSTM(x, weight, recurrence, bias, lengths, hidden_size=hidden, direction=direction)
    states = op.Reshape(op.Transpose(states, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
    last = op.Reshape(op.Transpose(last, perm=[1, 0, 2]), op.Constant(value_ints=[0, -1]))
    return states, last


class OnnxOrderedLstm(nn.Module):
    """The layers of an `nn.LSTM`, each a `packed_lstm` with weights in ONNX order."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_OnnxOrderedLayer(lstm, layer) for layer in range(lstm.num_layers))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """float[sequence, batch, features] and int[batch] to the last layer's states and last states."""
        lengths = lengths.to(torch.int32)
        for layer in self.layers:
            x, last = packed_lstm(x, lengths, layer.W, layer.R, layer.B)
        return x, last


class _OnnxOrderedLayer(nn.Module):
    """The weights of one layer, named as in the ONNX operator."""

    W: Tensor
    R: Tensor
    B: Tensor

    def __init__(self, lstm: nn.LSTM, layer: int) -> None:
        super().__init__()
        suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if lstm.bidirectional else 1]

        def stacked(name: str) -> Tensor:
            parts = [getattr(lstm, name + suffix).detach() for suffix in suffixes]
            return torch.stack([_reorder_gates(part, _ONNX_GATES) for part in parts])

        self.register_buffer("W", stacked("weight_ih"))
        self.register_buffer("R", stacked("weight_hh"))
        self.register_buffer("B", torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1))
