"""The layers of an `nn.LSTM` without packing, for PyTorch files that need PyTorch alone.

Every direction is a forward LSTM from zero states over the whole padded axis. A reverse direction reads each row
backwards within its own length, and the last state is gathered at the row's end, so padding has no effect. Two
functions run a layer:

    dense    PyTorch's own LSTM, for `torch.jit.trace`
    scanned  a `scan` over the steps, for `torch.export`, which would unroll PyTorch's LSTM to the example's length
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lengthwise.util.compat import load_scan

RunLayer = Callable[[Tensor, list[Tensor]], Tensor]
_scan = load_scan()
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def dense(x: Tensor, weights: list[Tensor]) -> Tensor:
    """One layer, its directions side by side.

    Args:
        x: float[sequence, directions, batch, features], each direction in its own order.
        weights: weight_ih, weight_hh, bias_ih and bias_hh of an `nn.LSTM`, directions stacked.

    Returns:
        float[sequence, directions, batch, hidden].
    """
    zeros = x.new_zeros(1, x.shape[2], weights[1].shape[2])
    states = [
        torch.lstm(x[:, d], (zeros, zeros), [weight[d] for weight in weights], True, 1, 0.0, False, False, False)[0]
        for d in range(x.shape[1])
    ]
    return torch.stack(states, dim=1)


def scanned(x: Tensor, weights: list[Tensor]) -> Tensor:
    """The same, one step at a time."""
    weight, recurrence, bias, recurrent_bias = weights
    recurrence = recurrence.transpose(1, 2)

    def step(carried: tuple[Tensor, Tensor], part: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        hidden, cell = carried
        i, f, g, o = (part + hidden @ recurrence).chunk(4, dim=2)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        return (hidden, cell), hidden.clone()

    zeros = x.new_zeros(x.shape[1], x.shape[2], recurrence.shape[1])
    parts = x @ weight.transpose(1, 2) + (bias + recurrent_bias)[:, None]
    return _scan(step, (zeros, zeros.clone()), parts, dim=0)[1]


class PortableLstm(nn.Module):
    """The layers of an `nn.LSTM`, through `dense` or `scanned`."""

    def __init__(self, lstm: nn.LSTM, run: RunLayer) -> None:
        super().__init__()
        self.num_layers, self.bidirectional, self._run = lstm.num_layers, lstm.bidirectional, run
        suffixes = ["", "_reverse"][: 2 if lstm.bidirectional else 1]
        for layer in range(lstm.num_layers):
            for name in _WEIGHTS:
                parts = [getattr(lstm, f"{name}_l{layer}{suffix}").detach() for suffix in suffixes]
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
            states = self._run(torch.stack(read, dim=1), weights)
            last = [_rows_at(states[:, d], (lengths - 1)[None])[0] for d in range(len(read))]
            x = torch.cat([states[:, 0], *(_rows_at(states[:, d], mirrored) for d in range(1, len(read)))], dim=2)
        return x, torch.cat(last, dim=1)


def _rows_at(values: Tensor, steps: Tensor) -> Tensor:
    """Gather float[sequence, batch, width] at int64[times, batch]: float[times, batch, width]."""
    return values.gather(0, steps[:, :, None].expand(-1, -1, values.shape[2]))
