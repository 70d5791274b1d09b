"""The layers of an `nn.LSTM` or `nn.GRU` without packing, for PyTorch files that need PyTorch alone.

Every direction is a forward one from zero states over the whole padded axis. A reverse direction reads each row
backwards within its own length, and the last state is gathered at the row's end, so padding has no effect. Two
functions run a layer:

    dense    PyTorch's own LSTM or GRU, for `torch.jit.trace`
    scanned  a `scan` over the steps, for `torch.export`, which would unroll PyTorch's layer to the example's length
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lengthwise.encoder_config import GATE_SLOPES
from lengthwise.export.graphs.packed_lstm import run_layer
from lengthwise.util.compat import load_scan

RunLayer = Callable[[Tensor, list[Tensor], str], Tensor]
_scan = load_scan()
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def dense(x: Tensor, weights: list[Tensor], gate_activation: str = "sigmoid") -> Tensor:
    """One layer, its directions side by side.

    Args:
        x: float[sequence, directions, batch, features], each direction in its own order.
        weights: weight_ih, weight_hh, bias_ih and bias_hh of an `nn.LSTM` or `nn.GRU`, directions stacked.
        gate_activation: see `EncoderSettings`.

    Returns:
        float[sequence, directions, batch, hidden].
    """
    return torch.stack(
        [_dense_direction(x[:, d], [weight[d] for weight in weights], gate_activation) for d in range(x.shape[1])],
        dim=1,
    )


def _dense_direction(x: Tensor, weights: list[Tensor], gate_activation: str) -> Tensor:
    """float[sequence, batch, features] to float[sequence, batch, hidden]."""
    hidden = weights[1].shape[1]
    if gate_activation != "sigmoid":
        batch_sizes = torch.zeros(x.shape[0], dtype=torch.int64) + x.shape[1]  # a trace would fix a filled value
        states, _ = run_layer(x.flatten(0, 1), batch_sizes, [weights], gate_activation)
        return states.reshape(x.shape[0], x.shape[1], hidden)
    zeros = x.new_zeros(1, x.shape[1], hidden)
    options = (True, 1, 0.0, False, False, False)
    if len(weights[1]) == 3 * hidden:
        return torch.gru(x, zeros, weights, *options)[0]
    return torch.lstm(x, (zeros, zeros), weights, *options)[0]


def scanned(x: Tensor, weights: list[Tensor], gate_activation: str = "sigmoid") -> Tensor:
    """The same, one step at a time."""
    weight, recurrence, bias, recurrent_bias = weights
    hidden = recurrence.shape[2]
    zeros = x.new_zeros(x.shape[1], x.shape[2], hidden)
    parts = x @ weight.transpose(1, 2) + bias[:, None]
    if recurrence.shape[1] == 3 * hidden:
        gru_step = partial(_gru_step, recurrence.transpose(1, 2), recurrent_bias[:, None], gate_activation)
        return _scan(gru_step, zeros, parts, dim=0)[1]
    lstm_step = partial(_lstm_step, recurrence.transpose(1, 2), gate_activation)
    return _scan(lstm_step, (zeros, zeros.clone()), parts + recurrent_bias[:, None], dim=0)[1]


def _lstm_step(
    recurrence: Tensor, gate_activation: str, carried: tuple[Tensor, Tensor], part: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    hidden, cell = carried
    i, f, g, o = (part + hidden @ recurrence).chunk(4, dim=2)
    cell = _open(f, gate_activation) * cell + _open(i, gate_activation) * g.tanh()
    hidden = _open(o, gate_activation) * cell.tanh()
    return (hidden, cell), hidden.clone()


def _gru_step(
    recurrence: Tensor, recurrent_bias: Tensor, gate_activation: str, hidden: Tensor, part: Tensor
) -> tuple[Tensor, Tensor]:
    (r, z, n), (state_r, state_z, state_n) = (
        part.chunk(3, dim=2),
        (hidden @ recurrence + recurrent_bias).chunk(3, dim=2),
    )
    update = _open(z + state_z, gate_activation)
    candidate = (n + _open(r + state_r, gate_activation) * state_n).tanh()
    hidden = (1 - update) * candidate + update * hidden
    return hidden, hidden.clone()


def _open(gates: Tensor, gate_activation: str) -> Tensor:
    slope = GATE_SLOPES[gate_activation]  # type: ignore[index]  # checked with the configuration
    return gates.sigmoid() if slope is None else (gates * slope + 0.5).clamp(0, 1)


class PortableRnn(nn.Module):
    """The layers of an `nn.LSTM` or `nn.GRU`, through `dense` or `scanned`."""

    def __init__(self, rnn: nn.RNNBase, run: RunLayer, gate_activation: str = "sigmoid") -> None:
        super().__init__()
        self.num_layers, self.bidirectional = rnn.num_layers, rnn.bidirectional
        self._run, self._gate_activation = run, gate_activation
        suffixes = ["", "_reverse"][: 2 if rnn.bidirectional else 1]
        for layer in range(rnn.num_layers):
            for name in _WEIGHTS:
                parts = [getattr(rnn, f"{name}_l{layer}{suffix}").detach() for suffix in suffixes]
                self.register_buffer(f"{name}_l{layer}", torch.stack(parts))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """float[sequence, batch, features] and int64[batch] to the last layer's states and last states.

        States beyond a row's length are undefined.
        """
        steps = torch.arange(x.shape[0], device=x.device)[:, None]
        mirrored = torch.where(steps < lengths, lengths - 1 - steps, steps)
        for layer in range(self.num_layers):
            read = [x, _rows_at(x, mirrored)] if self.bidirectional else [x]
            weights = [self.get_buffer(f"{name}_l{layer}") for name in _WEIGHTS]
            states = self._run(torch.stack(read, dim=1), weights, self._gate_activation)
            last = [_rows_at(states[:, d], (lengths - 1)[None])[0] for d in range(len(read))]
            x = torch.cat([states[:, 0], *(_rows_at(states[:, d], mirrored) for d in range(1, len(read)))], dim=2)
        return x, torch.cat(last, dim=1)


def _rows_at(values: Tensor, steps: Tensor) -> Tensor:
    """Gather float[sequence, batch, width] at int64[times, batch]: float[times, batch, width]."""
    return values.gather(0, steps[:, :, None].expand(-1, -1, values.shape[2]))
