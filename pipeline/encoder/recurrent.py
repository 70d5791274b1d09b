"""The recurrent layers of an encoder: PyTorch's LSTM or GRU, or either with hard gates, which PyTorch does not have.

Hard gates are computed step by step, by PyTorch's own operators; the weights have the names and the layout of PyTorch's
layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lengthwise.config import EncoderConfig
from lengthwise.encoder_config import GATE_SLOPES

RunDirection = Callable[..., tuple[Tensor, Tensor]]


def make_recurrent(config: EncoderConfig) -> nn.RNNBase:
    """The layers of a configuration, not yet trained."""
    slope = GATE_SLOPES[config.gate_activation]
    shape = (config.embedding_dim, config.hidden_size, config.num_layers)
    options: dict[str, Any] = {"batch_first": True, "bidirectional": config.bidirectional}
    if slope is not None:
        kind = HardGru if config.cell == "gru" else HardLstm
        return kind(slope, *shape, **options)
    return nn.GRU(*shape, **options) if config.cell == "gru" else nn.LSTM(*shape, **options)


def run_direction(
    data: Tensor,
    batch_sizes: Tensor,
    weights: list[Tensor],
    slope: float,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """One direction of one layer with hard gates, over packed rows.

    It is written for TorchScript too, which keeps its loop where it is called from a traced module.

    Args:
        data: float[tokens, features].
        batch_sizes: int64[steps], on the CPU, rows per step, never more than in the step before.
        weights: weight_ih, weight_hh, bias_ih and bias_hh; those of a GRU have 3 hidden rows, of an LSTM 4.
        slope: of the gates.
        reverse: whether each row is read from its end.

    Returns:
        States float[tokens, hidden], and the state of each row after its last token in reading order.
    """
    weight, recurrence, bias, recurrent_bias = weights[0], weights[1], weights[2], weights[3]
    hidden = recurrence.size(1)
    is_gru = recurrence.size(0) == 3 * hidden
    inputs = torch.nn.functional.linear(data, weight, bias)
    state = torch.zeros(int(batch_sizes[0]), hidden, dtype=data.dtype, device=data.device)
    cell = torch.zeros_like(state)
    starts = batch_sizes.cumsum(0) - batch_sizes
    steps = batch_sizes.size(0)
    found: list[Tensor] = []
    for number in range(steps):
        step = steps - 1 - number if reverse else number
        start, rows = int(starts[step]), int(batch_sizes[step])
        ours = inputs[start : start + rows]
        theirs = torch.nn.functional.linear(state[:rows], recurrence, recurrent_bias)
        if is_gru:
            open_gates = ((ours + theirs)[:, : 2 * hidden] * slope + 0.5).clamp(0, 1)
            candidate = torch.tanh(ours[:, 2 * hidden :] + open_gates[:, :hidden] * theirs[:, 2 * hidden :])
            update = open_gates[:, hidden:]
            new = (1 - update) * candidate + update * state[:rows]
        else:
            gates = ours + theirs
            open_gates = (gates * slope + 0.5).clamp(0, 1)
            forget = open_gates[:, hidden : 2 * hidden]
            new_cell = forget * cell[:rows] + open_gates[:, :hidden] * torch.tanh(gates[:, 2 * hidden : 3 * hidden])
            new = open_gates[:, 3 * hidden :] * torch.tanh(new_cell)
            cell = torch.cat([new_cell, cell[rows:]])
        state = torch.cat([new, state[rows:]])
        found.append(new)
    if reverse:
        found.reverse()
    return torch.cat(found), state


@cache
def _scripted() -> RunDirection:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        script: RunDirection = torch.jit.script(run_direction)
    return script


def run_packed(
    data: Tensor, batch_sizes: Tensor, layers: list[list[list[Tensor]]], slope: float
) -> tuple[Tensor, Tensor]:
    """Layers with hard gates, over packed rows.

    Args:
        data, batch_sizes, slope: as for `run_direction`.
        layers: of each layer, of each direction, its weights.

    Returns:
        States of the last layer, float[tokens, directions * hidden], and the final ones of all, [layers * directions,
        rows, hidden].
    """
    run = _scripted() if torch.jit.is_tracing() else run_direction
    finals = []
    for layer in layers:
        results = [run(data, batch_sizes, weights, slope, number == 1) for number, weights in enumerate(layer)]
        data = results[0][0] if len(results) == 1 else torch.cat([states for states, _ in results], dim=1)
        finals += [final for _, final in results]
    return data, torch.stack(finals)


class HardGru(nn.GRU):
    """A GRU, batch first, whose gates are clip(slope x + 1/2, 0, 1)."""

    def __init__(self, slope: float, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.slope = slope

    def forward(self, rows: Any, _: Any = None) -> Any:
        """Packed rows, or float[batch, sequence, features], to states of the same kind and final states."""
        return _run_layers(self, self.slope, rows)


class HardLstm(nn.LSTM):
    """An LSTM, batch first, whose gates are clip(slope x + 1/2, 0, 1). Its final states come without those of cells."""

    def __init__(self, slope: float, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.slope = slope

    def forward(self, rows: Any, _: Any = None) -> Any:
        """As `HardGru.forward`."""
        return _run_layers(self, self.slope, rows)


def _run_layers(rnn: nn.RNNBase, slope: float, rows: Tensor | PackedSequence) -> tuple[Tensor | PackedSequence, Tensor]:
    directions, weights = 2 if rnn.bidirectional else 1, rnn.all_weights
    layers: Any = [weights[first : first + directions] for first in range(0, len(weights), directions)]
    if isinstance(rows, PackedSequence):
        data, final = run_packed(rows.data, rows.batch_sizes, layers, slope)
        if rows.unsorted_indices is not None:
            final = final.index_select(1, rows.unsorted_indices)
        return rows._replace(data=data), final
    batch, sequence, _ = rows.shape
    data, final = run_packed(rows.transpose(0, 1).flatten(0, 1), torch.full((sequence,), batch), layers, slope)
    return data.unflatten(0, (sequence, batch)).transpose(0, 1), final
