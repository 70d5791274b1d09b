"""One layer of a packed LSTM or GRU as a PyTorch operator, and its translation to ONNX.

- `torch.export` cannot trace a PackedSequence (github.com/pytorch/pytorch/issues/112044). With a custom operator it
  need not: the eager body is the packed layer, the exporter sees one node of known shape, and `to_onnx_lstm` and
  `to_onnx_gru` translate that node. Batch and sequence stay dynamic.
- Weights are stored as ONNX stores them, directions stacked and gates in ONNX's order
  (https://onnx.ai/onnx/operators/onnx__LSTM.html, https://onnx.ai/onnx/operators/onnx__GRU.html), so the graph needs no
  nodes that slice and join them again in every session.
- PyTorch's GRU multiplies the state before the reset gate is applied, which is ONNX's `linear_before_reset=1`.
"""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lengthwise.encoder.recurrent import run_packed
from lengthwise.encoder_config import GATE_SLOPES

op: Any = opset18  # typed for onnxscript's own functions only, not for traced ones
_TO_ONNX = {
    4: (0, 3, 1, 2),
    3: (1, 0, 2),
}  # by the number of gates: i, o, f, c out of i, f, g, o; z, r, h out of r, z, n
_TO_TORCH = {4: (0, 2, 3, 1), 3: (1, 0, 2)}  # and back


def _reorder_gates(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Reorder the blocks along the second to last axis (of a vector, the last one)."""
    axis = max(weight.dim() - 2, 0)
    blocks = weight.chunk(len(order), dim=axis)
    return torch.cat([blocks[gate] for gate in order], dim=axis)


@torch.library.custom_op("lengthwise::packed_lstm", mutates_args=())
def packed_lstm(
    x: Tensor, lengths: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, gate_activation: str = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """One layer, each row read up to its own length.

    Args:
        x: float[sequence, batch, features].
        lengths: int32[batch], each from 1 to sequence.
        weight: float[directions, 4 * hidden, features], gates i, o, f, c.
        recurrence: float[directions, 4 * hidden, hidden], gates i, o, f, c.
        bias: float[directions, 8 * hidden], the input's bias, then the recurrence's.
        gate_activation: see `EncoderSettings`.

    Returns:
        States float[sequence, batch, directions * hidden], zero beyond a row's length, and last states
        float[batch, directions * hidden].
    """
    return _run_packed_layer(x, lengths, weight, recurrence, bias, gate_activation)


@torch.library.custom_op("lengthwise::packed_gru", mutates_args=())
def packed_gru(
    x: Tensor, lengths: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, gate_activation: str = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """As `packed_lstm`, of a GRU: weights have 3 gates, z, r, h."""
    return _run_packed_layer(x, lengths, weight, recurrence, bias, gate_activation)


def _run_packed_layer(
    x: Tensor, lengths: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, gate_activation: str
) -> tuple[Tensor, Tensor]:
    directions, rows, hidden = recurrence.shape
    gates = rows // hidden
    layer = []
    for direction in range(directions):
        parts = [part[direction] for part in (weight, recurrence)] + list(bias[direction].chunk(2))
        layer.append([_reorder_gates(part, _TO_TORCH[gates]) for part in parts])
    packed = pack_padded_sequence(x, lengths.to("cpu", torch.int64), enforce_sorted=False)
    data, last = run_layer(packed.data, packed.batch_sizes, layer, gate_activation)
    states = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    padded, _ = pad_packed_sequence(states, total_length=x.shape[0])
    last = last[:, packed.unsorted_indices].transpose(0, 1).flatten(1)
    return padded.contiguous(), last.contiguous()


def run_layer(
    data: Tensor, batch_sizes: Tensor, layer: list[list[Tensor]], gate_activation: str
) -> tuple[Tensor, Tensor]:
    """One layer over packed rows; results as of `encoder.recurrent.run_packed`.

    Args:
        layer: of each direction, weight_ih, weight_hh, bias_ih and bias_hh in PyTorch's order.
    """
    slope = GATE_SLOPES[gate_activation]  # type: ignore[index]  # checked with the configuration
    if slope is not None:
        return run_packed(data, batch_sizes, [layer], slope)
    directions, (rows, hidden) = len(layer), layer[0][1].shape
    zeros = data.new_zeros(directions, int(batch_sizes[0]), hidden)
    options = (True, 1, 0.0, False, directions == 2)
    weights = [part for direction in layer for part in direction]
    if rows == 3 * hidden:
        states, final = torch.gru(data, batch_sizes, zeros, weights, *options)
    else:
        states, final, _ = torch.lstm(data, batch_sizes, (zeros, zeros), weights, *options)
    return states, final


@packed_lstm.register_fake
@packed_gru.register_fake
def _(
    x: Tensor, lengths: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, gate_activation: str = "sigmoid"
) -> tuple[Tensor, Tensor]:
    width = recurrence.shape[0] * recurrence.shape[2]
    return x.new_empty(x.shape[0], x.shape[1], width), x.new_empty(x.shape[1], width)


def to_onnx_lstm(
    x: Any, lengths: Any, weight: Any, recurrence: Any, bias: Any, gate_activation: str = "sigmoid"
) -> tuple[Any, Any]:
    """Translate the operator to an ONNX LSTM with `sequence_lens`."""
    options = node_options(recurrence.shape, gate_activation)
    states, last, _ = op.LSTM(x, weight, recurrence, bias, lengths, **options)
    return _without_directions(states, last)


def to_onnx_gru(
    x: Any, lengths: Any, weight: Any, recurrence: Any, bias: Any, gate_activation: str = "sigmoid"
) -> tuple[Any, Any]:
    """Translate the operator to an ONNX GRU with `sequence_lens`."""
    options = node_options(recurrence.shape, gate_activation)
    return _without_directions(*op.GRU(x, weight, recurrence, bias, lengths, **options))


def node_options(shape: Any, gate_activation: str) -> dict[str, Any]:
    """The attributes of an ONNX node whose recurrence has this shape, [directions, gates * hidden, hidden]."""
    directions, rows, hidden = shape
    is_gru = rows == 3 * hidden
    options: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"}
    if is_gru:
        options["linear_before_reset"] = 1
    slope = GATE_SLOPES[gate_activation]  # type: ignore[index]
    if slope is not None:
        options["activations"] = (["HardSigmoid", "Tanh"] if is_gru else ["HardSigmoid", "Tanh", "Tanh"]) * directions
        options |= {"activation_alpha": [slope] * directions, "activation_beta": [0.5] * directions}
    return options


def _without_directions(states: Any, last: Any) -> tuple[Any, Any]:
    """States and last states with the directions side by side."""
    states = op.Reshape(op.Transpose(states, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
    last = op.Reshape(op.Transpose(last, perm=[1, 0, 2]), op.Constant(value_ints=[0, -1]))
    return states, last


class OnnxOrderedRnn(nn.Module):
    """The layers of an `nn.LSTM` or `nn.GRU`, each an operator of its own with weights in ONNX order."""

    def __init__(self, rnn: nn.RNNBase, gate_activation: str = "sigmoid") -> None:
        super().__init__()
        self._run = packed_gru if rnn.mode == "GRU" else packed_lstm
        self._options = () if gate_activation == "sigmoid" else (gate_activation,)  # as in files of earlier versions
        self.layers = nn.ModuleList(_OnnxOrderedLayer(rnn, layer) for layer in range(rnn.num_layers))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """float[sequence, batch, features] and int[batch] to the last layer's states and last states."""
        lengths = lengths.to(torch.int32)
        for layer in self.layers:
            x, last = self._run(x, lengths, layer.W, layer.R, layer.B, *self._options)
        return x, last


class _OnnxOrderedLayer(nn.Module):
    """The weights of one layer, named as in the ONNX operator."""

    W: Tensor
    R: Tensor
    B: Tensor

    def __init__(self, rnn: nn.RNNBase, layer: int) -> None:
        super().__init__()
        suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if rnn.bidirectional else 1]
        order = _TO_ONNX[3 if rnn.mode == "GRU" else 4]

        def stacked(name: str) -> Tensor:
            parts = [getattr(rnn, name + suffix).detach() for suffix in suffixes]
            return torch.stack([_reorder_gates(part, order) for part in parts])

        self.register_buffer("W", stacked("weight_ih"))
        self.register_buffer("R", stacked("weight_hh"))
        self.register_buffer("B", torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1))
