"""`StepwiseEncoder`: the encoder in float32 on a CPU, one matrix product per time step, without padding at any length.

- A batch is packed: rows are sorted from longest to shortest, so that the rows still active at a step are the first
  ones. A step is one product over exactly those rows, and a batch of mixed lengths costs what its tokens cost.
- Embedding and input weights are multiplied once, into a table with a row per token: what a token adds to the gates
  of the first layer depends on the token alone. Where the table would exceed `TABLE_BYTES`, it is computed for the
  tokens of each batch.
- tanh(x) is computed as 2 sigmoid(2x) - 1, since PyTorch's vectorised sigmoid takes a quarter of the time of its tanh;
  the factor 2 is part of the weights. The error per step is at most 1.2e-7, absolute. Where that is amplified later
  (a short vector is normalised or projected, small states are summed, or projection and static residual cancel), rows
  are computed again in float64, head included, so that the promised 1e-6 holds there too.
- Sums over time are in float64 beyond a few steps: a text that repeats one token rounds a float32 sum the same way
  at each step. Sums of embeddings, for a static residual, are in float64 throughout.
- States are pooled as they are computed, so the memory of a long text is that of its ids. Stacked layers keep theirs,
  4 bytes per token and unit, because a layer that reads backwards starts with the last of them.
- Products run on one thread and batches in parallel (`TorchEngine`), so a vector does not depend on the number of
  threads.
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
from torch.nn.functional import embedding_bag

from lengthwise.encoder.fused import FusedDirection
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.layers import TABLE_BYTES, WINDOW, LstmLayers
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.order import encode_longest_first
from lengthwise.encoder.sharing import PrefixSharing
from lengthwise.util.compat import copy_without

SHORT_NORM = 0.5  # a vector with a smaller norm, before projection or normalisation, is computed again in float64
STEP_ERROR, TOLERANCE = 1.2e-7, 1e-6  # so is a sum of states whose error may exceed the tolerance

_STEPS_PER_SLICE = 4_096  # converted to Python integers at a time

Steps = NDArray[np.int64]  # number of rows at each time step, never more than at the step before
Fill = Callable[[int, int, Tensor], object]  # writes the gate inputs of packed tokens start to stop
Visit = Callable[[int, Tensor], object]  # called with a step's start in the packed input and its states [rows, hidden]


class StepwiseEncoder:
    """Computes the vectors of a `PackedEncoder` in float32 on the CPU.

    It works on a copy of the weights: later changes to the encoder have no effect.

    Attributes:
        fused_layers: the LSTM in the fused kernel, if that computes.
        sharing: how rows share steps, if they can.
    """

    def __init__(self, encoder: PackedEncoder, fused: bool | None = None) -> None:
        """Prepare the weights.

        Args:
            fused: whether the fused kernel computes, where float32 suffices; by default where it runs.
        """
        config = encoder.config
        self.config = config
        self._packed = encoder = copy.deepcopy(encoder).eval().to("cpu", torch.float32)
        self._exact_head = copy.deepcopy(copy_without(encoder, "embedding", "lstm")).double()
        suffixes = ("", "_reverse")[: config.directions]
        with torch.inference_mode():
            self._layers, self._exact_layers = (
                [
                    [_Direction.from_lstm(encoder.lstm, f"_l{layer}{suffix}", dtype) for suffix in suffixes]
                    for layer in range(config.num_layers)
                ]
                for dtype in (torch.float32, torch.float64)
            )
            is_fused = has_kernel() if fused is None else fused
            self.fused_layers = LstmLayers(encoder, FusedDirection) if is_fused else None
            self.sharing = PrefixSharing.of(self.fused_layers, self._finish)
            self._tables: list[Tensor] | None = None
            if self.fused_layers is None and 4 * config.vocab_size * 4 * config.state_dim <= TABLE_BYTES:
                self._tables = [direction.input_gates(encoder.embedding.weight) for direction in self._layers[0]]

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of a batch in any order; a batch that is sorted from longest to shortest is not sorted again.

        Args:
            input_ids: int64[batch, sequence], right-padded.
            lengths: int64[batch], each from 1 to sequence.

        Returns:
            float32[batch, dim], in the order of the input.
        """
        return encode_longest_first(self._encode_sorted, input_ids, lengths)

    def _encode_sorted(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pooled = self._pool(input_ids, lengths).numpy()
        return self._finish(pooled, input_ids, lengths)

    def _finish(
        self, pooled_states: NDArray[np.float32], input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """From pooled states to vectors, as `PackedEncoder.finish`, of rows sorted from longest to shortest."""
        pooled = torch.from_numpy(pooled_states)
        with torch.inference_mode():
            static = self._static_means(input_ids, lengths)
            vectors = self._packed.finish(pooled, None if static is None else static.float())
            sensitive = self._sensitive_rows(pooled, static, torch.from_numpy(lengths))
            if len(sensitive):
                exact = self._pool(input_ids[sensitive], lengths[sensitive], exact=True)
                exact_static = None if static is None else static[sensitive]
                vectors[sensitive] = self._exact_head.finish(exact, exact_static).float()
        return vectors.numpy()

    def _static_means(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor | None:
        """The means of the rows' token embeddings, float64[batch, embedding_dim]; None without a static residual."""
        if not self.config.static_residual:
            return None
        is_real = np.arange(input_ids.shape[1]) < lengths[:, None]
        distinct, ids = torch.from_numpy(input_ids[is_real]).unique(return_inverse=True)
        starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        return embedding_bag(ids, self._packed.embedding(distinct).double(), starts, mode="mean")

    def _sensitive_rows(self, pooled: Tensor, static: Tensor | None, lengths: Tensor) -> NDArray[np.int64]:
        """The rows whose error in the vector would exceed that of their states."""
        is_sum, is_projected = self.config.pooling == "sum", self._packed.projection is not None
        times = lengths if is_sum else torch.ones_like(lengths)  # number of step errors in a pooled state
        projected = combined = self._packed.combine(pooled)
        short = torch.zeros(len(pooled), dtype=torch.bool)
        if static is not None:
            combined = self._packed.combine(pooled, static.float())
            short |= combined.norm(dim=1) < SHORT_NORM * (combined - projected).norm(dim=1)
        if is_sum and not self.config.normalize:
            short |= STEP_ERROR * times > TOLERANCE * pooled.abs().amax(dim=1).clamp(min=1)
        if is_projected:
            short |= pooled.norm(dim=1) < SHORT_NORM * times
        if self.config.normalize or (is_sum and (is_projected or static is not None)):
            short |= combined.norm(dim=1) < SHORT_NORM * times
        return np.flatnonzero(short.numpy())

    def _pool(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64], exact: bool = False) -> Tensor:
        """float32[batch, pooled_dim], or float64 if exact, of rows sorted from longest to shortest."""
        if self.fused_layers is not None and not exact:
            return torch.from_numpy(self.fused_layers.pool(input_ids, lengths))
        layers = self._exact_layers if exact else self._layers
        times = np.arange(lengths[0])
        steps = len(lengths) - np.searchsorted(lengths[::-1], times, side="right")
        ids = torch.from_numpy(input_ids[:, : lengths[0]].T[times[:, None] < lengths])
        fills = self._fills(ids, layers[0], None if exact else self._tables)
        for below, above in pairwise(layers):
            states = torch.empty(len(ids), self.config.state_dim, dtype=torch.float32)
            parts = states.split(self.config.hidden_size, dim=1)
            for direction, fill, part in zip(below, fills, parts, strict=True):
                direction.run(fill, steps, partial(_store_states, part))
            fills = [partial(direction.fill_gates, states) for direction in above]
        last = zip(layers[-1], fills, strict=True)
        pooled = [self._pool_direction(direction, fill, steps, lengths) for direction, fill in last]
        return torch.cat([part for parts in zip(*pooled, strict=True) for part in parts], dim=1)

    def _fills(self, ids: Tensor, layer: list[_Direction], tables: list[Tensor] | None) -> list[Fill]:
        """The gate inputs of packed ids, int64[tokens], in the first layer, per direction."""
        if tables is None:
            distinct, ids = ids.unique(return_inverse=True)
            embedded = self._packed.embedding(distinct)
            tables = [direction.input_gates(embedded) for direction in layer]
        return [partial(_fill_from_table, table, ids) for table in tables]

    def _pool_direction(
        self, direction: _Direction, fill: Fill, steps: Steps, lengths: NDArray[np.int64]
    ) -> list[Tensor]:
        """The parts of a pooled row, [batch, hidden] each, in the dtype of the direction's weights."""
        shape, dtype, pooling = (len(lengths), self.config.hidden_size), direction.bias.dtype, self.config.pooling
        if pooling == "last":
            return [direction.run(fill, steps, lambda start, states: None)]
        if pooling == "max":
            pooled = torch.full(shape, -torch.inf, dtype=dtype)
            direction.run(fill, steps, lambda start, states: _update_maximum(pooled[: len(states)], states))
            return [pooled]
        total = _StateSum(*shape, dtype)
        last = direction.run(fill, steps, total.add)
        if pooling == "sum":
            return [total.result()]
        mean = total.result(torch.from_numpy(lengths))
        return [mean, last] if pooling == "mean_last" else [mean]


@dataclass(frozen=True, eq=False)
class _Direction:
    """The weights of one direction of one layer, in float32 or float64; gates are ordered i, f, o, g, with g doubled.

    Attributes:
        inputs: [features, 4 * hidden].
        recurrent: [hidden, 4 * hidden].
        bias: [4 * hidden], the sum of PyTorch's two.
        reverse: whether it reads from the last token to the first.
    """

    inputs: Tensor
    recurrent: Tensor
    bias: Tensor
    reverse: bool

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM, suffix: str, dtype: torch.dtype) -> _Direction:
        """The weights of an LSTM whose names end in `suffix`."""

        def reordered(name: str) -> Tensor:
            i, f, g, o = getattr(lstm, name + suffix).detach().to(dtype).chunk(4)
            return torch.cat([i, f, o, 2 * g])

        bias = reordered("bias_ih") + reordered("bias_hh")
        inputs, recurrent = reordered("weight_ih").t().contiguous(), reordered("weight_hh").t().contiguous()
        return cls(inputs, recurrent, bias, suffix.endswith("_reverse"))

    def input_gates(self, inputs: Tensor) -> Tensor:
        """Inputs, float32[rows, features], times the input weights: [rows, 4 * hidden]."""
        return torch.addmm(self.bias, inputs.to(self.bias.dtype), self.inputs)

    def fill_gates(self, inputs: Tensor, start: int, stop: int, gates: Tensor) -> None:
        """Write the gate inputs of rows start to stop into `gates`."""
        torch.addmm(self.bias, inputs[start:stop].to(self.bias.dtype), self.inputs, out=gates)

    def run(self, fill: Fill, steps: Steps, visit: Visit) -> Tensor:
        """Run over a packed batch; returns the state after each row's last token in reading order, [batch, hidden].

        Forwards, the rows of a step are the first ones of the step before. Backwards, a step has the rows of the step
        before and further rows that start there with a state of zero.
        """
        batch, hidden = int(steps[0]), len(self.recurrent)
        all_gates, states = self.bias.new_empty(batch, 4 * hidden), self.bias.new_empty(batch, hidden)
        cells = self.bias.new_zeros(batch, hidden)
        active = 0
        for start, rows in _starts_and_rows(steps, self.reverse):
            gates, cell, state = all_gates[:rows], cells[:rows], states[:rows]
            fill(start, start + rows, gates)
            active = min(active, rows)
            gates[:active].addmm_(states[:active], self.recurrent)
            input_gate, forget_gate, output_gate, candidate = gates.sigmoid_().split(hidden, dim=1)
            cell.mul_(forget_gate).addcmul_(input_gate, candidate, value=2).sub_(input_gate)
            torch.mul(cell, 2, out=state).sigmoid_().mul_(2).sub_(1).mul_(output_gate)
            visit(start, state)
            active = rows
        return states


class _StateSum:
    """Sums states over time: a few steps in the states' own dtype, and those sums in float64."""

    def __init__(self, rows: int, hidden: int, dtype: torch.dtype) -> None:
        self._partial = torch.zeros(rows, hidden, dtype=dtype)
        self._total = torch.zeros(rows, hidden, dtype=torch.float64)
        self._steps = 0

    def add(self, start: int, states: Tensor) -> None:
        """Add the states of a step to the first rows."""
        self._partial[: len(states)].add_(states)
        self._steps += 1
        if self._steps % WINDOW == 0:
            self._total += self._partial
            self._partial.zero_()

    def result(self, lengths: Tensor | None = None) -> Tensor:
        """The sums, or with lengths the means: [rows, hidden], in the states' own dtype."""
        self._total += self._partial
        return (self._total if lengths is None else self._total / lengths[:, None]).to(self._partial.dtype)


def _starts_and_rows(steps: Steps, reverse: bool) -> Iterator[tuple[int, int]]:
    """Start in the packed input and number of rows of each time step, in reading order."""
    starts = np.cumsum(steps) - steps
    if reverse:
        starts, steps = starts[::-1], steps[::-1]
    for first in range(0, len(steps), _STEPS_PER_SLICE):
        part = slice(first, first + _STEPS_PER_SLICE)
        yield from zip(starts[part].tolist(), steps[part].tolist(), strict=True)


def _fill_from_table(table: Tensor, ids: Tensor, start: int, stop: int, gates: Tensor) -> None:
    torch.index_select(table, 0, ids[start:stop], out=gates)


def _store_states(target: Tensor, start: int, states: Tensor) -> None:
    target[start : start + len(states)] = states


def _update_maximum(largest: Tensor, states: Tensor) -> None:
    torch.maximum(largest, states, out=largest)
