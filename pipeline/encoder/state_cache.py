"""`StateCache`: states after beginnings that texts have in common, kept from batch to batch in bounded memory.

- A beginning is a path of blocks of `BLOCK` ids in a trie; the reverse direction, which begins at a text's end, has one
  of its own. A block is found by its ids and by the node that it follows: no beginning is taken for another.
- A block ends where a window of the sums does. A row that goes on from there adds in the order in which it would have
  from its first id, so its vector has the same bits (as with `encoder.sharing`, in the fused kernel with one layer).
- A block that is seen again enters the trie, and after it as many as the row has in the trie already: a text that
  shares nothing leaves next to nothing, and a long preamble is known after a few texts. The state after a block is kept
  once it was found `_SIGHTINGS` times. What was used longest ago is dropped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder.fused import SavedState
from lengthwise.encoder.layers import WINDOW

if TYPE_CHECKING:
    from lengthwise.encoder.layers import LstmLayers

BLOCK = WINDOW  # tokens
MIN_SAVED = 0.03  # of a batch's steps; to save fewer is not worth the bookkeeping
_SIGHTINGS = 3
_ID_BYTES = 4
_BLOCK_BYTES = BLOCK * _ID_BYTES
_NODE_BYTES, _SEEN_BYTES = 340, 160  # of a node and its key, without a state; of what was seen
_SEEN_PART = 8  # of the memory, for what was seen

Ints = NDArray[np.int64]
_Key = tuple[int, bytes]  # the number of the node before a block, and its ids


class StateCache:
    """Keeps states of beginnings, and pools batches whose rows begin there.

    Attributes:
        max_bytes: limit of `nbytes`.
        hits: rows that began at a kept state, counted per direction.
        saved: steps that were not computed.
        steps: all steps, these included.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.saved = self.steps = 0
        self._nodes: OrderedDict[_Key, _Node] = OrderedDict()  # the one used longest ago first
        self._numbers = 2  # 0 and 1 are the roots, one per direction
        self._seen = _Seen(max_bytes // _SEEN_PART // (2 * _SEEN_BYTES))
        self._trie_bytes, self._max_trie_bytes = 0, max_bytes - max_bytes // _SEEN_PART
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the states, their ids, and what was seen once."""
        return self._trie_bytes + _SEEN_BYTES * len(self._seen)

    def pool(
        self, layers: LstmLayers, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        """As `LstmLayers.pool`; None where that is as fast."""
        data, counts = input_ids.astype(np.int32).tobytes(), lengths.tolist()
        steps = layers.directions * sum(counts)
        with self._lock:
            self.steps += steps
            ways = [self._find(data, counts, reverse=number == 1) for number in range(layers.directions)]
            if not any(ways):
                return None
            saved = sum(way.saved for way in ways)
            if saved < MIN_SAVED * steps and not any(way.kept for way in ways):
                return None
            self.saved += saved
            self.hits += sum(way.hits for way in ways)
        pooled = layers.empty_pooled(len(counts))
        states = [way.run(layers, input_ids, lengths, pooled) for way in ways]
        with self._lock:
            for node, state in chain.from_iterable(found.items() for found in states):
                self._keep(node, state)
            self._evict()
        return pooled

    def counts(self) -> dict[str, int]:
        """The attributes, under the names that a server gives them."""
        return {
            "max_bytes": self.max_bytes,
            "bytes": self.nbytes,
            "hits": self.hits,
            "saved_steps": self.saved,
            "steps": self.steps,
        }

    def _find(self, data: bytes, lengths: list[int], *, reverse: bool) -> _Beginnings:
        """What is known of rows, whose ids are int32[rows, sequence] in `data`."""
        found, sequence = _Beginnings(reverse), len(data) // len(lengths)
        longer = [row for row, length in enumerate(lengths) if length > BLOCK]
        firsts = [row * sequence + (_ID_BYTES * (lengths[row] - BLOCK) if reverse else 0) for row in longer]
        for number in self._seen.add([data[at : at + _BLOCK_BYTES] for at in firsts]):
            blocks = (lengths[longer[number]] - 1) // BLOCK  # so that at least one step is left
            path = self._walk(data, firsts[number], blocks, reverse=reverse)
            if path:
                found.add(longer[number], path)
        self._evict()
        return found

    def _walk(self, data: bytes, first: int, blocks: int, *, reverse: bool) -> list[_Node]:
        """The path of a row's blocks in the trie, which is made longer.

        Args:
            first: where the row's first block is in `data`.
        """
        step = -_BLOCK_BYTES if reverse else _BLOCK_BYTES
        ids = [data[at : at + _BLOCK_BYTES] for at in range(first, first + blocks * step, step)]
        nodes, parent, path = self._nodes, int(reverse), list[_Node]()
        for block in ids:
            node = nodes.get((parent, block))
            if node is None:
                break
            path.append(node)
            parent = node.number
        further = ids[len(path) : max(1, 2 * len(path))]
        if further and self._seen.add([(parent, further[0])]):
            for block in further:
                key = parent, block
                nodes[key] = _Node(key, self._numbers)
                parent, self._numbers = self._numbers, self._numbers + 1
                self._trie_bytes += _NODE_BYTES
        for node in reversed(path):  # a node is dropped after those that follow it
            node.sightings += 1
            nodes.move_to_end(node.key)
        return path

    def _keep(self, node: _Node, state: SavedState) -> None:
        if node.state is None and self._nodes.get(node.key) is node:  # not kept by another thread, nor dropped
            node.state = state
            self._trie_bytes += state.nbytes

    def _evict(self) -> None:
        while self._trie_bytes > self._max_trie_bytes:
            _, node = self._nodes.popitem(last=False)
            self._trie_bytes -= _NODE_BYTES + (node.state.nbytes if node.state is not None else 0)


class _Seen:
    """Keys that were seen lately: at least the last `count`, and at most twice as many."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._new, self._old = set[_Key | bytes](), set[_Key | bytes]()

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, keys: Sequence[_Key | bytes]) -> list[int]:
        """Which of these were seen before."""
        new, old, seen = self._new, self._old, list[int]()
        if not (new.isdisjoint(keys) and old.isdisjoint(keys)):
            seen = [number for number, key in enumerate(keys) if key in new or key in old]
        if len(new) + len(keys) > self._count:
            self._new, self._old = set(), new
        self._new.update(keys[: self._count])
        return seen


class _Node:
    """A block of ids.

    Attributes:
        key: the number of the node before it, and its ids.
        number: its own.
        sightings: how often it was found.
        state: after it, if that is kept.
    """

    __slots__ = ("key", "number", "sightings", "state")

    def __init__(self, key: _Key, number: int) -> None:
        self.key, self.number, self.sightings = key, number, 0
        self.state: SavedState | None = None


@dataclass(frozen=True, eq=False)
class _Beginnings:
    """What is known of a batch, as one direction reads it.

    Attributes:
        reverse: whether rows are read from their ends.
        known: the rows that begin at each kept state, after so many steps.
        kept: a row that passes each node whose state is to be kept, and its steps up to there.
    """

    reverse: bool
    known: dict[SavedState, tuple[int, list[int]]] = field(default_factory=dict)
    kept: dict[_Node, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.known or self.kept)

    @property
    def hits(self) -> int:
        """Rows that begin at a state."""
        return sum(len(rows) for _, rows in self.known.values())

    @property
    def saved(self) -> int:
        """Steps that need not be computed."""
        return sum(steps * len(rows) for steps, rows in self.known.values())

    def add(self, row: int, path: list[_Node]) -> None:
        """Begin a row at the last state of its path, and keep that of the last node that was found often."""
        often = next((node for node in reversed(path) if node.sightings >= _SIGHTINGS), None)
        for depth, node in zip(range(len(path), 0, -1), reversed(path), strict=True):
            if node.state is not None:
                self.known.setdefault(node.state, (depth * BLOCK, []))[1].append(row)
                break
            if node is often:
                self.kept.setdefault(node, (row, depth * BLOCK))

    def run(
        self, layers: LstmLayers, input_ids: Ints, lengths: Ints, pooled: NDArray[np.float32]
    ) -> dict[_Node, SavedState]:
        """Compute the other steps, write the pooled states, and return those that are to be kept."""
        begun = np.zeros_like(lengths)
        for steps, members in self.known.values():
            begun[members] = steps
        order = np.argsort(begun - lengths, kind="stable")
        slots, remaining = np.argsort(order), (lengths - begun)[order]
        times = np.arange(remaining[0])[:, None]
        is_left = times < remaining
        rows, places = np.broadcast_to(order, is_left.shape)[is_left], (begun[order] + times)[is_left]
        if self.reverse:
            places = lengths[rows] - 1 - places
        steps = np.count_nonzero(is_left, axis=1)
        ids = input_ids[rows, places].astype(np.int32)
        direction, table, ids = layers.first_direction(int(self.reverse), ids)
        states = direction.begin(len(order))
        if self.known:
            states.operands.fill(direction.zero)
        for state, (_, members) in self.known.items():
            states.restore(slots[members], state)
        stops: dict[int, list[tuple[_Node, int]]] = {}
        for node, (row, depth) in self.kept.items():
            stops.setdefault(depth - int(begun[row]), []).append((node, int(slots[row])))
        saved: dict[_Node, SavedState] = {}
        active, start = len(order) if self.known else 0, 0
        for first, stop in pairwise(sorted({0, *stops, len(steps)})):
            part = steps[first:stop]
            direction.advance(states.part(slice(int(part[0]))), part, ids[start:], table, active)
            saved.update((node, states.save(slot)) for node, slot in stops.get(stop, ()))
            active, start = len(order), start + int(part.sum())
        layers.write_pooled(states.outputs, lengths[order], int(self.reverse), order, pooled)
        return saved
