"""`PrefixSharing`: tokens that rows begin with (for the reverse direction: end with) in common are computed once.

- A direction reads its rows in blocks, in the order of their ids (`encoder.trie`): first the steps that rows share,
  then the rest of each row, in batches of like lengths that continue where the rows left each other.
- The kernel adds a row's products and sums in an order of its own, so a vector has the same bits with sharing and
  without it. It is therefore no setting, and no part of a run's identity: it is on where it saves steps.
- It needs the fused kernel and an LSTM of one layer. Upper layers read states that rows do not share, and products of
  PyTorch depend on the other rows in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.cut import cheapest_cut
from lengthwise.config import EncoderConfig
from lengthwise.encoder.fused import FusedDirection, States
from lengthwise.encoder.kernel import has_kernel, kernel_computes, missing_for_kernel
from lengthwise.encoder.layers import LstmLayers
from lengthwise.encoder.state_cache import StateCache
from lengthwise.encoder.trie import SortedRows, Trie
from lengthwise.tokens.ragged import RaggedTokens

BLOCK_ROWS = 8_192
MIN_ROWS, MIN_SAVED = 64, 0.03  # fewer rows, or a smaller share of the steps: not worth the bookkeeping
_TAIL_ROWS = 512

Ints = NDArray[np.int64]
Finish = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class SharedBlock:
    """A block of one direction.

    Attributes:
        direction: 0, or 1 for the reverse one.
        order: int64[rows], rows of the trie from the one with most steps after the levels to those with none.
        tails: int64[batches + 1]; batch b of the remaining steps is `order[tails[b]:tails[b + 1]]`.
    """

    direction: int
    trie: Trie
    order: Ints
    tails: Ints


@dataclass(frozen=True, eq=False)
class SharingPlan:
    """Which rows share which steps.

    Attributes:
        layers: that run the steps.
        finish: see `PrefixSharing`.
        blocks: of all directions.
        saved: steps that are not computed, over all directions.
        steps: all steps, over all directions.
    """

    layers: LstmLayers
    finish: Finish
    blocks: list[SharedBlock]
    saved: int
    steps: int

    def pooling_tasks(self, pooled: NDArray[np.float32]) -> Iterator[Callable[[], Ints]]:
        """Tasks that write the pooled states of all rows, and return the rows that one direction is done with.

        Tasks may run in parallel, but have to be begun in their order: one may wait for an earlier one.

        Args:
            pooled: float32[rows of all tokens, pooled_dim].
        """
        waiting: Iterator[Callable[[], Ints]] = iter(())
        for block in self.blocks:
            run = _BlockRun(self.layers, block, pooled)
            yield run.run_levels
            yield from waiting
            waiting = iter([partial(run.run_tail, tail) for tail in range(len(block.tails) - 1)])
        yield from waiting


class PrefixSharing:
    """Pools the rows of whole shards, for encoders whose LSTM has one layer in the fused kernel."""

    def __init__(self, layers: LstmLayers, finish: Finish) -> None:
        """Share the steps of these layers.

        Args:
            finish: from pooled states, float32[rows, pooled_dim], and a batch, from its longest row to its shortest, to
                vectors.
        """
        self._layers, self._finish = layers, finish

    @classmethod
    def of(cls, layers: LstmLayers | None, finish: Finish) -> PrefixSharing | None:
        """None where these layers cannot share steps."""
        return cls(layers, finish) if layers is not None and layers.can_share else None

    def cache_states(self, max_bytes: int) -> StateCache:
        """Keep states from batch to batch, for batches that `plan` does not see together."""
        cache = StateCache(max_bytes)
        self._layers.pool_known = partial(cache.pool, self._layers)
        return cache

    def plan(self, tokens: RaggedTokens, rows: Ints, costs: BatchCosts) -> SharingPlan | None:
        """What the rows share; None if that is too little.

        Args:
            rows: int64[rows], distinct rows of `tokens`.
            costs: of batches.
        """
        rows = rows[tokens.lengths[rows] > 0]
        if len(rows) < MIN_ROWS:
            return None
        count = -(-len(rows) // BLOCK_ROWS)
        ways = [
            SortedRows.sort(tokens, rows, reverse=direction == 1).limit_depth(count, costs.step)
            for direction in range(self._layers.directions)
        ]
        saved, steps = sum(way.saved for way in ways), sum(int(way.lengths.sum()) for way in ways)
        if saved < MIN_SAVED * steps:
            return None
        blocks = [_plan_block(n, block, costs) for n, way in enumerate(ways) for block in way.blocks(count)]
        return SharingPlan(self._layers, self._finish, blocks, saved, steps)


def missing_for_sharing(config: EncoderConfig) -> str:
    """Why rows of an encoder do not share steps on a CPU, for a message."""
    if not (kernel_computes(config) and has_kernel()):
        return f"they need the fused kernel: {missing_for_kernel(config)}"
    if config.num_layers > 1:
        return f"the LSTM has {config.num_layers} layers, and rows share steps in a single one"
    if config.padding is not None:
        return "padding is part of the encoder's function"
    return f"{config.pooling} pooling reads the states of all tokens"


def _plan_block(direction: int, rows: SortedRows, costs: BatchCosts) -> SharedBlock:
    trie = Trie(rows)
    remaining = trie.remaining
    order = np.argsort(-remaining, kind="stable")
    distinct, counts = np.unique(remaining[remaining > 0], return_counts=True)
    limits = costs.with_limits(max_rows=min(costs.max_rows, _TAIL_ROWS))
    sizes = cheapest_cut(distinct[::-1], counts[::-1], limits)
    return SharedBlock(direction, trie, order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


class _BlockRun:
    """Runs a block; its states are kept while a task needs them."""

    def __init__(self, layers: LstmLayers, block: SharedBlock, pooled: NDArray[np.float32]) -> None:
        self._layers, self._block, self._pooled = layers, block, pooled
        self._prepared: Future[tuple[States, FusedDirection, NDArray[np.float32], NDArray[np.int32]]] = Future()

    def run_levels(self) -> Ints:
        """Run the steps that rows share, and pool the rows that end in them."""
        try:
            prepared = self._prepare()
        except BaseException as error:
            self._prepared.set_exception(error)
            raise
        self._prepared.set_result(prepared)
        states, done = prepared[0], slice(int(self._block.tails[-1]), None)
        rest = states.part(done)
        rest.end_windows()
        return self._write(rest, done)

    def run_tail(self, number: int) -> Ints:
        """Run the remaining steps of one batch of rows, and pool these."""
        states, direction, table, ids = self._prepared.result()
        block, rows = self._block, slice(*self._block.tails[number : number + 2].tolist())
        of_trie = block.order[rows]
        lengths, starts = block.trie.remaining[of_trie], (block.trie.block.starts + block.trie.begun)[of_trie]
        times = np.arange(lengths[0])
        steps = len(lengths) - np.searchsorted(lengths[::-1], times, side="right")
        positions = (starts + times[:, None])[times[:, None] < lengths]
        part = states.part(rows)
        direction.advance(part, steps.astype(np.int64), ids[positions], table, len(lengths))
        return self._write(part, rows)

    def _prepare(self) -> tuple[States, FusedDirection, NDArray[np.float32], NDArray[np.int32]]:
        """The states of all rows after the levels, and what the rest is read with."""
        block = self._block
        trie, rows = block.trie, block.trie.block
        direction, table, ids = self._layers.shared_direction(block.direction, rows)
        slots = np.empty(len(block.order), np.int32)
        slots[block.order] = np.arange(len(slots), dtype=np.int32)
        states = direction.begin(len(slots))
        for level in trie.levels():
            direction.branch(states, level, slots, ids[rows.starts[level.children] + level.time], table)
        return states, direction, table, ids

    def _write(self, states: States, slots: slice) -> Ints:
        """Write what these states are pooled to, and return their rows."""
        of_trie, sorted_rows = self._block.order[slots], self._block.trie.block
        rows = sorted_rows.rows[of_trie]
        self._layers.write_pooled(
            states.outputs, sorted_rows.lengths[of_trie], self._block.direction, rows, self._pooled
        )
        return rows
