"""The encoder on a CPU, one matrix product a time step: faster than PyTorch's LSTM, and no padding at any length.

A batch is packed: sorted from its longest row down, so that at each step the rows that are still being read are the
first ones. A step is then one product over exactly those rows, and a batch of mixed lengths costs what its tokens cost
(`torch.nn.LSTM` is fast on a CPU only where all lengths are equal).

Notable decisions:
- What a token adds to the gates of the first layer depends on the token alone, so embedding and input weights are
  multiplied once, into a table of a row a token. At an embedding of 300 and 512 hidden units that is a third of the
  arithmetic, and what makes this faster than the fused kernel it replaces. Where the table would be too large, it is
  made anew for the tokens of each batch.
- tanh(x) is computed as 2 sigmoid(2x) - 1, since PyTorch's vectorised sigmoid takes a quarter of the time of its tanh.
  The factor inside is part of the weights. It costs relative precision near zero: a step errs by up to 1.2e-7 absolute.
  Where that would be made larger (a short vector is normalised or projected, or small states are summed over time),
  rows are read once more in float64, which takes three times as long, so that the promised 1e-6 holds there too.
- Sums over time are in float64, but for a few steps. In float32, a text that repeats one token adds the same number at
  each step and rounds it the same way each time: a thousand tokens moved a mean by 5e-6.
- A step's states are pooled and forgotten, so a text of millions of tokens needs no more than its ids. Only stacked
  layers keep their states, 4 bytes a token and unit, since a layer that reads backwards begins with the last of them.
- Every product runs on one thread, and batches run side by side (`TorchEngine`): no thread ever waits for another
  within a step, and a vector does not depend on how many there are.
- Sharing the states of common prefixes between texts was tried: it saves 6 % of the products on dictionary glosses and
  costs as much in bookkeeping.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.order import encode_longest_first

TABLE_BYTES = 512 * 2**20
FEW_STEPS = 8  # are summed in float32
SHORT = 0.5  # a vector below this length, before it is projected or normalised, is computed again
STEP_ERROR, TOLERANCE = 1.2e-7, 1e-6  # so is a sum whose steps together may err by more than is promised

_STEPS_LISTED = 4_096  # at a time, of what would be a Python object a token

Steps = NDArray[np.int64]  # how many rows are read at each time step, never more than at the one before
Fill = Callable[[int, int, Tensor], object]  # writes what rows start to stop of the packed input add to the gates
Visit = Callable[[int, Tensor], object]  # is given each step's start in the packed input and its states [rows, hidden]


class StepwiseEncoder:
    """The vectors of a `PackedEncoder`, in float32 on the CPU.

    It works on a copy of the weights: what is changed in the encoder afterwards has no effect.
    """

    def __init__(self, encoder: PackedEncoder) -> None:
        config = encoder.config
        self.config = config
        self._packed = encoder = copy.deepcopy(encoder).eval().to("cpu", torch.float32)
        suffixes = ("", "_reverse")[: config.directions]
        with torch.inference_mode():
            self._layers, self._exact_layers = (
                [
                    [_Direction.of(encoder.lstm, f"_l{layer}{suffix}", dtype) for suffix in suffixes]
                    for layer in range(config.num_layers)
                ]
                for dtype in (torch.float32, torch.float64)
            )
            self._tables: list[Tensor] | None = None
            if 4 * config.vocab_size * 4 * config.state_dim <= TABLE_BYTES:
                self._tables = [direction.of_inputs(encoder.embedding.weight) for direction in self._layers[0]]

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of a batch in any order; one that is sorted from its longest row down is not sorted again.

        Args:
            input_ids: int64[batch, sequence], right-padded.
            lengths: int64[batch], each from 1 to sequence.

        Returns:
            float32[batch, dim], in the order of the input.
        """
        return encode_longest_first(self._encode_sorted, input_ids, lengths)

    def _encode_sorted(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pooled = self._pool(input_ids, lengths)
            vectors = self._packed.finish(pooled)
            again = self._sensitive_rows(pooled, torch.from_numpy(lengths))
            if len(again):
                exact = self._pool(input_ids[again], lengths[again], exact=True)
                vectors[again] = self._packed.finish(exact.float())
        return vectors.numpy()

    def _sensitive_rows(self, pooled: Tensor, lengths: Tensor) -> NDArray[np.int64]:
        """The rows whose error grows beyond that of their states on the way to a vector."""
        is_sum = self.config.pooling == "sum"
        times = lengths if is_sum else torch.ones_like(lengths)  # how often a step's error is in what is pooled
        short = torch.zeros(len(pooled), dtype=torch.bool)
        if is_sum and not self.config.normalize:
            short |= STEP_ERROR * times > TOLERANCE * pooled.abs().amax(dim=1).clamp(min=1)
        if self.config.normalize or self._packed.projection is not None:
            short |= pooled.norm(dim=1) < SHORT * times
        if (self.config.normalize or is_sum) and self._packed.projection is not None:
            short |= self._packed.projection(pooled).norm(dim=1) < SHORT * times
        return np.flatnonzero(short.numpy())

    def _pool(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64], exact: bool = False) -> Tensor:
        """float32[batch, state_dim], or float64 if exact, of rows in falling order of length."""
        layers = self._exact_layers if exact else self._layers
        times = np.arange(lengths[0])
        steps = len(lengths) - np.searchsorted(lengths[::-1], times, side="right")
        ids = torch.from_numpy(input_ids[:, : lengths[0]].T[times[:, None] < lengths])
        fills = self._fills(ids, layers[0], None if exact else self._tables)
        for below, above in pairwise(layers):
            states = torch.empty(len(ids), self.config.state_dim, dtype=torch.float32)
            parts = states.split(self.config.hidden_size, dim=1)
            for direction, fill, part in zip(below, fills, parts, strict=True):
                direction.run(fill, steps, partial(_write, part))
            fills = [partial(direction.fill, states) for direction in above]
        last = zip(layers[-1], fills, strict=True)
        return torch.cat([self._pooled(direction, fill, steps, lengths) for direction, fill in last], dim=1)

    def _fills(self, ids: Tensor, layer: list[_Direction], tables: list[Tensor] | None) -> list[Fill]:
        """What packed ids, int64[tokens], add to the gates of the first layer, a direction."""
        if tables is None:
            distinct, ids = ids.unique(return_inverse=True)
            embedded = self._packed.embedding(distinct)
            tables = [direction.of_inputs(embedded) for direction in layer]
        return [partial(_fill_from_table, table, ids) for table in tables]

    def _pooled(self, direction: _Direction, fill: Fill, steps: Steps, lengths: NDArray[np.int64]) -> Tensor:
        """One state a row, [batch, hidden], in the direction's type."""
        shape, dtype = (len(lengths), self.config.hidden_size), direction.bias.dtype
        if self.config.pooling == "last":
            return direction.run(fill, steps, lambda start, states: None)
        if self.config.pooling == "max":
            pooled = torch.full(shape, -torch.inf, dtype=dtype)
            direction.run(fill, steps, lambda start, states: _maximum(pooled[: len(states)], states))
        else:
            total = _Sum(*shape, dtype)
            direction.run(fill, steps, total.add)
            pooled = total.over(torch.from_numpy(lengths) if self.config.pooling == "mean" else None)
        return pooled


@dataclass(frozen=True, eq=False)
class _Direction:
    """One direction of one layer, in float32 or float64; gates are in the order i, f, o, g, and the last is doubled.

    Attributes:
        inputs: [features, 4 * hidden].
        recurrent: [hidden, 4 * hidden].
        bias: [4 * hidden], both of PyTorch's.
        reverse: whether it reads from the last token to the first.
    """

    inputs: Tensor
    recurrent: Tensor
    bias: Tensor
    reverse: bool

    @classmethod
    def of(cls, lstm: nn.LSTM, suffix: str, dtype: torch.dtype) -> _Direction:
        """The weights that end in `suffix`."""

        def prepared(name: str) -> Tensor:
            i, f, g, o = getattr(lstm, name + suffix).detach().to(dtype).chunk(4)
            return torch.cat([i, f, o, 2 * g])

        bias = prepared("bias_ih") + prepared("bias_hh")
        inputs, recurrent = prepared("weight_ih").t().contiguous(), prepared("weight_hh").t().contiguous()
        return cls(inputs, recurrent, bias, suffix.endswith("_reverse"))

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """What inputs, float32[rows, features], add to the gates: [rows, 4 * hidden]."""
        return torch.addmm(self.bias, inputs.to(self.bias.dtype), self.inputs)

    def fill(self, inputs: Tensor, start: int, stop: int, gates: Tensor) -> None:
        """The same for some rows of the inputs, written into `gates`."""
        torch.addmm(self.bias, inputs[start:stop].to(self.bias.dtype), self.inputs, out=gates)

    def run(self, fill: Fill, steps: Steps, visit: Visit) -> Tensor:
        """Read a packed batch: the states after each row's last token (in reading order), [batch, hidden].

        Read forwards, the rows of a step are the first ones of the step before. Read backwards, a step has the rows
        of the one before and some that only start there, whose state is zero.
        """
        batch, hidden = int(steps[0]), len(self.recurrent)
        all_gates, states = self.bias.new_empty(batch, 4 * hidden), self.bias.new_empty(batch, hidden)
        cells = self.bias.new_zeros(batch, hidden)
        read = 0
        for start, rows in _starts_and_rows(steps, self.reverse):
            gates, cell, state = all_gates[:rows], cells[:rows], states[:rows]
            fill(start, start + rows, gates)
            read = min(read, rows)
            gates[:read].addmm_(states[:read], self.recurrent)
            keep, forget, output, candidate = gates.sigmoid_().split(hidden, dim=1)
            cell.mul_(forget).addcmul_(keep, candidate, value=2).sub_(keep)
            torch.mul(cell, 2, out=state).sigmoid_().mul_(2).sub_(1).mul_(output)
            visit(start, state)
            read = rows
        return states


class _Sum:
    """Sums of states over time: in the states' own type over a few steps, and of these in float64."""

    def __init__(self, rows: int, hidden: int, dtype: torch.dtype) -> None:
        self._few = torch.zeros(rows, hidden, dtype=dtype)
        self._all = torch.zeros(rows, hidden, dtype=torch.float64)
        self._steps = 0

    def add(self, start: int, states: Tensor) -> None:
        """One more step, of the first rows."""
        self._few[: len(states)].add_(states)
        self._steps += 1
        if self._steps % FEW_STEPS == 0:
            self._all += self._few
            self._few.zero_()

    def over(self, lengths: Tensor | None) -> Tensor:
        """The sums, or divided by each row's length the means: [rows, hidden], in the states' own type."""
        self._all += self._few
        return (self._all if lengths is None else self._all / lengths[:, None]).to(self._few.dtype)


def _starts_and_rows(steps: Steps, reverse: bool) -> Iterator[tuple[int, int]]:
    """Where each time step's rows start in the packed input, and how many there are, in reading order."""
    starts = np.cumsum(steps) - steps
    if reverse:
        starts, steps = starts[::-1], steps[::-1]
    for first in range(0, len(steps), _STEPS_LISTED):
        part = slice(first, first + _STEPS_LISTED)
        yield from zip(starts[part].tolist(), steps[part].tolist(), strict=True)


def _fill_from_table(table: Tensor, ids: Tensor, start: int, stop: int, gates: Tensor) -> None:
    torch.index_select(table, 0, ids[start:stop], out=gates)


def _write(target: Tensor, start: int, states: Tensor) -> None:
    target[start : start + len(states)] = states


def _maximum(largest: Tensor, states: Tensor) -> None:
    torch.maximum(largest, states, out=largest)
