"""`StepwiseEncoder`: the encoder in float32 on a CPU, one matrix product per time step, without padding at any length.

- A batch is packed: rows are sorted from longest to shortest, so that the rows still active at a step are the first
  ones. A step is one product over exactly those rows, and a batch of mixed lengths costs what its tokens cost.
- Embedding and input weights are multiplied once, into a table with a row per token: what a token adds to the gates
  of the first layer depends on the token alone. Where the table would exceed `TABLE_BYTES`, it is computed for the
  tokens of each batch.
- Without the fused kernel, tanh(x) is computed as 2 sigmoid(2x) - 1 (`encoder.step_directions`). The error per step is
  at most 1.2e-7, absolute. Where that is amplified later (a short vector is normalised or projected, small states are
  summed, scores of attention are large, or projection and static residual cancel), rows are computed again in float64,
  head included, so that the promised 1e-6 holds there too.
- Sums over time are in float64 beyond a few steps: a text that repeats one token rounds a float32 sum the same way
  at each step. Sums of embeddings, for a static residual, are in float64 throughout.
- States are pooled as they are computed, so the memory of a long text is that of its ids. Stacked layers keep theirs,
  4 bytes per token and unit, because a layer that reads backwards starts with the last of them.
- In the fused kernel a row's vector has the same bits in any batch, projections included (`encoder.vector_head`). Rows
  that are computed again in float64 are rounded once, so the order of their sums shows about once in 1e8 values.
- Products run on one thread and batches in parallel (`TorchEngine`), so a vector does not depend on the number of
  threads.
"""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from lengthwise.encoder.fused import FusedDirection
from lengthwise.encoder.kernel import has_kernel, kernel_computes
from lengthwise.encoder.layers import TABLE_BYTES, WINDOW, LstmLayers
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.order import encode_longest_first
from lengthwise.encoder.padding import read_batch
from lengthwise.encoder.pooled import StatePooler
from lengthwise.encoder.products import is_onednn_faster
from lengthwise.encoder.sharing import PrefixSharing
from lengthwise.encoder.step_directions import Fill, StepDirection, Steps, Visit, make_direction
from lengthwise.encoder.vector_head import VectorHead
from lengthwise.util.compat import copy_without

SHORT_NORM = 0.5  # a vector with a smaller norm, before projection or normalisation, is computed again in float64
STEP_ERROR, TOLERANCE = 1.2e-7, 1e-6  # so is a sum of states whose error may exceed the tolerance


class StepwiseEncoder:
    """Computes the vectors of a `PackedEncoder` in float32 on the CPU.

    It works on a copy of the weights: later changes to the encoder have no effect.

    Attributes:
        fused_layers: the LSTM in the fused kernel, if that computes.
        uses_onednn: whether oneDNN computes the products, without the fused kernel.
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
        self._exact_head = copy.deepcopy(copy_without(encoder, "embedding", config.cell)).double()
        suffixes, weights = ("", "_reverse")[: config.directions], dict(encoder.rnn.named_parameters())
        is_fused = kernel_computes(config) and (has_kernel() if fused is None else fused)
        with torch.inference_mode():
            self.uses_onednn = not is_fused and is_onednn_faster(*reversed(weights["weight_hh_l0"].shape))
            self._layers, self._exact_layers = (
                [
                    [make_direction(config, weights, f"_l{layer}{suffix}", dtype, onednn=onednn) for suffix in suffixes]
                    for layer in range(config.num_layers)
                ]
                for dtype, onednn in ((torch.float32, self.uses_onednn), (torch.float64, False))
            )
            self._pooler = StatePooler(encoder)
            self._attention_gain = _attention_gain(encoder)
            fused_direction = partial(FusedDirection, gate_activation=config.gate_activation)
            self.fused_layers = LstmLayers(encoder, fused_direction) if is_fused else None
            self._head = VectorHead(encoder, fused=True) if is_fused else None
            self.sharing = PrefixSharing.of(self.fused_layers, self._finish)
            self._tables: list[Tensor] | None = None
            if (
                self.fused_layers is None
                and 4 * config.vocab_size * self._layers[0][0].bias.numel() * config.directions <= TABLE_BYTES
            ):
                self._tables = [direction.input_gates(encoder.embedding.weight) for direction in self._layers[0]]

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of a batch in any order; a batch that is sorted from longest to shortest is not sorted again.

        Args:
            input_ids: int64[batch, sequence], right-padded.
            lengths: int64[batch], each from 1 to sequence.

        Returns:
            float32[batch, dim], in the order of the input.
        """
        return encode_longest_first(self._encode_sorted, *read_batch(input_ids, lengths, self.config))

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
            projected, combined, vectors = self._head_of(pooled, None if static is None else static.float())
            sensitive = self._sensitive_rows(pooled, projected, combined, torch.from_numpy(lengths))
            if len(sensitive):
                exact = self._pool(input_ids[sensitive], lengths[sensitive], exact=True)
                exact_static = None if static is None else static[sensitive]
                vectors[sensitive] = self._exact_head.finish(exact, exact_static).float()
        return vectors.numpy()

    def _head_of(self, pooled: Tensor, static: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Projected rows, those with the static residual, and vectors, float32[batch, dim] each."""
        if self._head is None:
            projected, combined = self._packed.combine(pooled), self._packed.combine(pooled, static)
            return projected, combined, self._packed.normalize(combined)
        rows = self._head.project(pooled.numpy())
        sums = self._head.combine(rows, None if static is None else static.numpy())
        return torch.from_numpy(rows), torch.from_numpy(sums), torch.from_numpy(self._head.normalize(sums))

    def _static_means(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor | None:
        """The means of the rows' token embeddings, float64[batch, embedding_dim]; None without a static residual."""
        if not self.config.static_residual:
            return None
        is_real = np.arange(input_ids.shape[1]) < lengths[:, None]
        distinct, ids = torch.from_numpy(input_ids[is_real]).unique(return_inverse=True)
        starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        return embedding_bag(ids, self._packed.embedding(distinct).double(), starts, mode="mean")

    def _sensitive_rows(
        self, pooled: Tensor, projected: Tensor, combined: Tensor, lengths: Tensor
    ) -> NDArray[np.int64]:
        """The rows whose error in the vector would exceed that of their states."""
        has_static = self.config.static_residual
        is_sum, is_projected = "sum" in self.config.pooling_parts, bool(self.config.dense or self.config.projection_dim)
        times = lengths if is_sum else torch.ones_like(lengths)  # number of step errors in a pooled state
        short = torch.full((len(pooled),), STEP_ERROR * self._attention_gain > TOLERANCE)
        if has_static:
            short |= combined.norm(dim=1) < SHORT_NORM * (combined - projected).norm(dim=1)
        if is_sum and not self.config.normalize:
            short |= STEP_ERROR * times > TOLERANCE * pooled.abs().amax(dim=1).clamp(min=1)
        if is_projected:
            short |= pooled.norm(dim=1) < SHORT_NORM * times
        if self.config.normalize or (is_sum and (is_projected or has_static)):
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
            between = torch.empty(len(ids), self.config.state_dim, dtype=torch.float32)
            parts = between.split(self.config.hidden_size, dim=1)
            for direction, fill, part in zip(below, fills, parts, strict=True):
                direction.run(fill, steps, [partial(_store_states, part)])
            fills = [partial(direction.fill_gates, between) for direction in above]
        dtype = layers[-1][0].bias.dtype
        kept: list[dict[str, NDArray[np.floating]]] = []
        states: Tensor | None = None
        if "floats" in self._pooler.outputs:
            states = torch.empty(len(ids), self.config.state_dim, dtype=dtype)
        for number, (direction, fill) in enumerate(zip(layers[-1], fills, strict=True)):
            part = None if states is None else states.split(self.config.hidden_size, dim=1)[number]
            kept.append(self._keep_of_direction(direction, fill, steps, part))
        pooled = self._pooler.join(kept, None if states is None else states.numpy(), steps, lengths)
        return torch.cat([torch.from_numpy(part).to(dtype) for part in pooled], dim=1)

    def _fills(self, ids: Tensor, layer: list[StepDirection], tables: list[Tensor] | None) -> list[Fill]:
        """The gate inputs of packed ids, int64[tokens], in the first layer, per direction."""
        if tables is None:
            distinct, ids = ids.unique(return_inverse=True)
            embedded = self._packed.embedding(distinct)
            tables = [direction.input_gates(embedded) for direction in layer]
        return [partial(_fill_from_table, table, ids) for table in tables]

    def _keep_of_direction(
        self, direction: StepDirection, fill: Fill, steps: Steps, states: Tensor | None
    ) -> dict[str, NDArray[np.floating]]:
        """Run a direction; what `StatePooler` reads of it, [batch, hidden] each, sums in float64.

        Args:
            states: [tokens, hidden], where the states of all tokens are stored, if they are.
        """
        shape, dtype, outputs = (int(steps[0]), self.config.hidden_size), direction.bias.dtype, self._pooler.outputs
        visits: list[Visit] = [] if states is None else [partial(_store_states, states)]
        kept: dict[str, NDArray[np.floating]] = {}
        total = _StateSum(*shape, dtype)
        if "sum" in outputs:
            visits.append(total.add)
        if "max" in outputs:
            largest = torch.full(shape, -torch.inf, dtype=dtype)
            visits.append(partial(_update_maximum, largest))
            kept["max"] = largest.numpy()
        kept["last"] = direction.run(fill, steps, visits).numpy()
        if "sum" in outputs:
            kept["sum"] = total.result().numpy()
        return kept


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

    def result(self) -> Tensor:
        """The sums, float64[rows, hidden]."""
        return self._total + self._partial


def _fill_from_table(table: Tensor, ids: Tensor, start: int, stop: int, gates: Tensor) -> None:
    torch.index_select(table, 0, ids[start:stop], out=gates)


def _store_states(target: Tensor, start: int, states: Tensor) -> None:
    target[start : start + len(states)] = states


def _update_maximum(largest: Tensor, start: int, states: Tensor) -> None:
    of_rows = largest[: len(states)]
    torch.maximum(of_rows, states, out=of_rows)


def _attention_gain(encoder: PackedEncoder) -> float:
    """How many times the errors of states are in what attention pools: those of the scores are in their weights."""
    attention = encoder.attention
    if attention is None:
        return 0.0
    scores = attention.score.weight if attention.hidden is None else attention.score.weight @ attention.hidden.weight
    return 1 + 2 * float(scores.norm())
