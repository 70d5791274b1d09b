"""One direction of one recurrent layer, step by step with PyTorch's operators, in float32 or float64.

- A step is one product over exactly the rows that are not finished.
- An LSTM's tanh(x) is computed as 2 sigmoid(2x) - 1, since PyTorch's vectorised sigmoid takes a quarter of the time of
  its tanh; the factor 2 is part of the weights. A GRU and hard gates use tanh itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthwise.config import EncoderConfig
from lengthwise.encoder.products import make_product
from lengthwise.encoder_config import GATE_SLOPES

Steps = NDArray[np.int64]  # number of rows at each time step, never more than at the step before
Fill = Callable[[int, int, Tensor], object]  # writes the gate inputs of packed tokens start to stop
Visit = Callable[[int, Tensor], object]  # called with a step's start in the packed input and its states [rows, hidden]
_STEPS_PER_SLICE = 4_096  # converted to Python integers at a time


def make_direction(
    config: EncoderConfig, weights: Mapping[str, Tensor], suffix: str, dtype: torch.dtype, *, onednn: bool = False
) -> StepDirection:
    """The direction whose weights' names end in `suffix`, in this type.

    Args:
        onednn: whether oneDNN computes the products; only in float32.
    """
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    inputs, recurrent, bias, recurrent_bias = (weights[name + suffix].detach().to(dtype) for name in names)
    slope, reverse = GATE_SLOPES[config.gate_activation], suffix.endswith("_reverse")
    if config.cell == "gru":
        return GruDirection(inputs, recurrent, bias, recurrent_bias, reverse, onednn, slope)
    if slope is None:
        return LstmDirection(inputs, recurrent, bias, recurrent_bias, reverse, onednn)
    return HardLstmDirection(inputs, recurrent, bias, recurrent_bias, reverse, onednn, slope)


class StepDirection(ABC):
    """Weights as a step needs them.

    Attributes:
        bias: [gates * hidden], added to the inputs' part.
    """

    def __init__(self, inputs: Tensor, recurrent: Tensor, bias: Tensor, reverse: bool, onednn: bool) -> None:
        """Prepare the weights, [gates * hidden, ...], in the order of `_step`.

        Args:
            reverse: whether rows are read from their ends.
            onednn: whether oneDNN computes the products.
        """
        self.bias, self._reverse, self._hidden = bias, reverse, recurrent.shape[1]
        self._add_inputs, self._add_states = (make_product(part, onednn=onednn) for part in (inputs, recurrent))

    def input_gates(self, inputs: Tensor) -> Tensor:
        """Inputs, float32[rows, features], times the input weights: [rows, gates * hidden]."""
        gates = self.bias.new_empty(len(inputs), len(self.bias))
        self.fill_gates(inputs, 0, len(inputs), gates)
        return gates

    def fill_gates(self, inputs: Tensor, start: int, stop: int, gates: Tensor) -> None:
        """Write the gate inputs of rows start to stop into `gates`."""
        self._add_inputs(gates.copy_(self.bias), inputs[start:stop].to(self.bias.dtype))

    def run(self, fill: Fill, steps: Steps, visits: Sequence[Visit]) -> Tensor:
        """Run over a packed batch; returns the state after each row's last token in reading order, [batch, hidden].

        Forwards, the rows of a step are the first ones of the step before. Backwards, a step has the rows of the step
        before and further rows that start there with a state of zero.
        """
        batch, hidden = int(steps[0]), self._hidden
        all_gates, states = self.bias.new_empty(batch, self.bias.numel()), self.bias.new_zeros(batch, hidden)
        cells = self.bias.new_zeros(batch, hidden)
        active = 0
        for start, rows in starts_and_rows(steps, self._reverse):
            gates, cell, state = all_gates[:rows], cells[:rows], states[:rows]
            fill(start, start + rows, gates)
            self._step(gates, min(active, rows), cell, state)
            for visit in visits:
                visit(start, state)
            active = rows
        return states

    @abstractmethod
    def _step(self, gates: Tensor, active: int, cells: Tensor, states: Tensor) -> None:
        """Update the states, [rows, hidden], and the cells of an LSTM.

        Args:
            gates: the inputs' part, [rows, gates * hidden], which is overwritten.
            active: the first rows, which have a state; that of the others is zero.
        """


class LstmDirection(StepDirection):
    """Gates are ordered i, f, o, g, with g doubled."""

    def __init__(
        self, inputs: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor, reverse: bool, onednn: bool
    ) -> None:
        bias = _reordered(bias, 2) + _reordered(recurrent_bias, 2)
        super().__init__(_reordered(inputs, 2), _reordered(recurrent, 2), bias, reverse, onednn)

    def _step(self, gates: Tensor, active: int, cells: Tensor, states: Tensor) -> None:
        self._add_states(gates[:active], states[:active])
        input_gate, forget_gate, output_gate, candidate = gates.sigmoid_().split(cells.shape[1], dim=1)
        cells.mul_(forget_gate).addcmul_(input_gate, candidate, value=2).sub_(input_gate)
        torch.mul(cells, 2, out=states).sigmoid_().mul_(2).sub_(1).mul_(output_gate)


class HardLstmDirection(StepDirection):
    """Gates are ordered i, f, o, g."""

    def __init__(
        self,
        inputs: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        recurrent_bias: Tensor,
        reverse: bool,
        onednn: bool,
        slope: float,
    ) -> None:
        bias = _reordered(bias) + _reordered(recurrent_bias)
        super().__init__(_reordered(inputs), _reordered(recurrent), bias, reverse, onednn)
        self._slope = slope

    def _step(self, gates: Tensor, active: int, cells: Tensor, states: Tensor) -> None:
        hidden = cells.shape[1]
        self._add_states(gates[:active], states[:active])
        input_gate, forget_gate, output_gate = _open(gates[:, : 3 * hidden], self._slope).split(hidden, dim=1)
        cells.mul_(forget_gate).addcmul_(input_gate, gates[:, 3 * hidden :].tanh_())
        torch.tanh(cells, out=states).mul_(output_gate)


class GruDirection(StepDirection):
    """Gates are ordered r, z, n, as in PyTorch."""

    def __init__(
        self,
        inputs: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        recurrent_bias: Tensor,
        reverse: bool,
        onednn: bool,
        slope: float | None,
    ) -> None:
        super().__init__(inputs, recurrent, bias, reverse, onednn)
        self._recurrent_bias, self._slope = recurrent_bias, slope

    def _step(self, gates: Tensor, active: int, cells: Tensor, states: Tensor) -> None:
        hidden = states.shape[1]
        of_states = self._recurrent_bias.expand(len(gates), -1).clone()
        self._add_states(of_states[:active], states[:active])
        opened = gates[:, : 2 * hidden].add_(of_states[:, : 2 * hidden])
        opened = opened.sigmoid_() if self._slope is None else _open(opened, self._slope)
        reset, update = opened.split(hidden, dim=1)
        candidate = gates[:, 2 * hidden :].addcmul_(reset, of_states[:, 2 * hidden :]).tanh_()
        states.sub_(candidate).mul_(update).add_(candidate)  # candidate + update (state - candidate)


def _open(gates: Tensor, slope: float) -> Tensor:
    """clip(slope x + 1/2, 0, 1), in place."""
    return gates.mul_(slope).add_(0.5).clamp_(0, 1)


def _reordered(rows: Tensor, factor: float = 1) -> Tensor:
    """Rows of an LSTM's gates i, f, g, o as i, f, o, factor g."""
    i, f, g, o = rows.chunk(4)
    return torch.cat([i, f, o, factor * g])


def starts_and_rows(steps: Steps, reverse: bool) -> Iterator[tuple[int, int]]:
    """Start in the packed input and number of rows of each time step, in reading order."""
    starts = np.cumsum(steps) - steps
    if reverse:
        starts, steps = starts[::-1], steps[::-1]
    for first in range(0, len(steps), _STEPS_PER_SLICE):
        part = slice(first, first + _STEPS_PER_SLICE)
        yield from zip(starts[part].tolist(), steps[part].tolist(), strict=True)
