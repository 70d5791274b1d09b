"""`LstmLayers`: from packed ids to pooled states, through all layers and directions of an LSTM or GRU.

- What a token adds to the gates of the first layer depends on the token alone: it is read from a table with a row per
  token, in float32. Where the table would exceed `TABLE_BYTES`, it is made for the tokens of each batch.
- States are pooled as they are computed, so the memory of a long text is that of its ids. Only layers below another
  store theirs.
- How a direction computes is its own: with the fused kernel (`encoder.fused`), or without (`encoder.int8`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder.packed import PackedIds
from lengthwise.encoder.pooled import Output, StatePooler, pool_direction

if TYPE_CHECKING:
    from lengthwise.encoder.model import PackedEncoder
    from lengthwise.encoder.trie import SortedRows

TABLE_BYTES = 512 * 2**20
WINDOW = 8  # steps that are summed in float32, before their sum is added in float64
ALL_STATES: frozenset[Output] = frozenset({"states"})


class Direction(ABC):
    """One direction of one layer.

    Attributes:
        bias: float32[1, ...], of `table_width` values: a table for any token.
    """

    bias: NDArray[np.float32]
    _linear: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None  # of the first layer only

    @property
    def table_width(self) -> int:
        """Values per row of a table."""
        return self.bias.size

    def multiply_inputs(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """What these embeddings, float32[tokens, features], add to the gates: float32[tokens, table_width].

        Raises:
            ValueError: this is not a direction of the first layer.
        """
        if self._linear is None:
            raise ValueError("only the first layer reads embeddings")
        return self._linear(embedding)

    @abstractmethod
    def room_for_states(self, tokens: int, directions: int) -> NDArray[Any] | None:
        """Where the directions of a layer store the states of all tokens, [tokens, ...], if they do.

        Those of a layer below another are operands, those that are pooled float32[tokens, directions * hidden], where
        hidden may be rounded up.
        """

    @abstractmethod
    def run(
        self,
        batch: PackedIds,
        number: int,
        table: NDArray[np.float32],
        ids: NDArray[np.int32],
        below: NDArray[Any] | None,
        stored: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """Run a batch.

        Args:
            number: of the direction, 0 or 1.
            table: float32[entries, table_width].
            ids: int32[tokens], the table's entry for each token in this direction's order.
            below: the states of the layer below.
            stored: from `room_for_states`.

        Returns:
            The outputs but the states, by name: [rows, at least hidden], float64 for the sum, else float32.
        """


PoolKnown = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32] | None]
MakeDirection = Callable[[dict[str, NDArray[np.float64]], str, frozenset[Output]], Direction]


class LstmLayers:
    """Pools the states of packed batches.

    It works on a copy of the LSTM's weights.

    Attributes:
        pool_known: pools a batch of whose rows something is known, else returns None (`encoder.state_cache`).
    """

    def __init__(self, encoder: PackedEncoder, make_direction: MakeDirection, like: LstmLayers | None = None) -> None:
        """Prepare the weights.

        Args:
            encoder: in float32 on the CPU; its embeddings are not copied.
            make_direction: prepares one direction of one layer.
            like: layers of the same encoder with the same kind of tables, which are then used too.
        """
        self.pool_known: PoolKnown = lambda input_ids, lengths: None
        config = self._config = encoder.config
        weights = {name: value.detach().numpy().astype(np.float64) for name, value in encoder.rnn.named_parameters()}
        self._embedding: NDArray[np.float32]
        self._embedding = encoder.embedding.weight.detach().numpy() if like is None else like._embedding
        self._pooler = StatePooler(encoder)
        top, suffixes = config.num_layers - 1, ("", "_reverse")[: config.directions]
        self._layers = [
            [
                make_direction(weights, f"_l{layer}{suffix}", self._pooler.outputs if layer == top else ALL_STATES)
                for suffix in suffixes
            ]
            for layer in range(config.num_layers)
        ]
        self._tables: list[NDArray[np.float32]] | None = None
        if 4 * config.vocab_size * sum(direction.table_width for direction in self._layers[0]) <= TABLE_BYTES:
            self._tables = self._make_tables(self._embedding) if like is None else like._tables

    def pool(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Pooled states per row.

        Args:
            input_ids: int64[batch, sequence], right-padded.
            lengths: int64[batch], from 1 to sequence, in descending order.

        Returns:
            float32[batch, pooled_dim].
        """
        pooled = self.pool_known(input_ids, lengths)
        if pooled is not None:
            return pooled
        batch = PackedIds.pack(input_ids, lengths, self._config.directions)
        first, *upper = self._layers
        tables, ids = self._tables, batch.ids
        if tables is None:
            distinct, inverse = np.unique(ids[0], return_inverse=True)
            tables = self._make_tables(self._embedding[distinct])
            ids = [inverse.astype(np.int32)[positions] for positions in batch.positions]
        states = first[0].room_for_states(len(ids[0]), len(first))
        results = [
            direction.run(batch, number, table, ids[number], None, states)
            for number, (direction, table) in enumerate(zip(first, tables, strict=True))
        ]
        no_ids = np.zeros_like(ids[0])
        for layer in upper:
            below, states = states, layer[0].room_for_states(len(no_ids), len(layer))
            results = [
                direction.run(batch, number, direction.bias, no_ids, below, states)
                for number, direction in enumerate(layer)
            ]
        return self._join(results, states, batch.steps, lengths)

    def _make_tables(self, embedding: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What tokens add to the gates of the first layer: float32[tokens, table_width] per direction."""
        return [direction.multiply_inputs(embedding) for direction in self._layers[0]]

    def _join(
        self,
        results: Sequence[dict[str, NDArray[Any]]],
        states: NDArray[Any] | None,
        steps: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """The parts side by side, each with its directions side by side, without units that only fill up."""
        hidden, count = self._config.hidden_size, len(results)
        kept = [{name: values[:, :hidden] for name, values in result.items()} for result in results]
        if states is not None:
            states = states.reshape(len(states), count, -1)[:, :, :hidden].reshape(len(states), count * hidden)
        return np.concatenate(self._pooler.join(kept, states, steps, lengths), axis=1, dtype=np.float32)

    def empty_pooled(self, rows: int) -> NDArray[np.float32]:
        """Room for pooled states, float32[rows, pooled_dim]."""
        return np.empty((rows, self._config.pooled_dim), np.float32)

    def write_pooled(
        self,
        result: Mapping[str, NDArray[Any]],
        lengths: NDArray[np.int64],
        number: int,
        rows: NDArray[np.int64] | slice,
        pooled: NDArray[np.float32],
    ) -> None:
        """Write one direction's part of some rows.

        Args:
            result: what `Direction.run` returns.
            lengths: int64[rows], of these rows.
            number: of the direction, 0 or 1.
            rows: where these rows are in `pooled`, float32[all rows, pooled_dim].
        """
        hidden = self._config.hidden_size
        for position, part in enumerate(self._config.pooling_parts):
            first = (position * self._config.directions + number) * hidden
            pooled[rows, first : first + hidden] = pool_direction(part, result, lengths)[:, :hidden]

    @property
    def directions(self) -> int:
        """1 or 2."""
        return self._config.directions

    @property
    def can_share(self) -> bool:
        """Whether rows can share steps, see `encoder.sharing`."""
        reads_own_ids = self._config.padding is None and "floats" not in self._pooler.outputs
        return reads_own_ids and len(self._layers) == 1 and hasattr(self._layers[0][0], "branch")

    def shared_direction(self, number: int, rows: SortedRows) -> tuple[Any, NDArray[np.float32], NDArray[np.int32]]:
        """A direction of the first layer, its table, and the table's entries for `rows.values`.

        Without a table of the whole vocabulary, one is made for these rows; other rows have no entries then.
        """
        if self._tables is not None:
            return self._layers[0][number], self._tables[number], rows.values
        entries = np.zeros_like(rows.values)
        taken = np.repeat(rows.starts - np.cumsum(rows.lengths) + rows.lengths, rows.lengths)
        taken += np.arange(len(taken))
        direction, table, entries[taken] = self.first_direction(number, rows.values[taken])
        return direction, table, entries

    def first_direction(
        self, number: int, ids: NDArray[np.int32]
    ) -> tuple[Any, NDArray[np.float32], NDArray[np.int32]]:
        """A direction of the first layer, a table, and the table's entries for these ids."""
        direction = self._layers[0][number]
        if self._tables is not None:
            return direction, self._tables[number], ids
        distinct, entries = np.unique(ids, return_inverse=True)
        return direction, direction.multiply_inputs(self._embedding[distinct]), entries.astype(np.int32)
