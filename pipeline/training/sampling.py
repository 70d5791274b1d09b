"""The order of training: which source is next, and which of its rows.

All of it is a function of the seed and of a few numbers that a checkpoint holds, so that a resumed run sees the same
batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.sampler import LengthBatchSampler


class RowSampler(Protocol):
    """Batches of row numbers, epoch after epoch, without end.

    Attributes:
        batches: how many there are in the first epoch.
        epoch: the epoch of the batch that `next` gave last, from 0.
    """

    @property
    def batches(self) -> int: ...  # noqa: D102
    @property
    def epoch(self) -> int: ...  # noqa: D102

    def next(self) -> NDArray[np.int64]:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON-ready values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a position."""


class LengthSampler:
    """Batches of like lengths, from a `LengthBatchSampler`.

    Attributes:
        batches: how many there are in the first epoch.
        epoch: the epoch of the last batch.
        mean_rows: rows per batch, the mean over an epoch.
    """

    def __init__(self, sampler: LengthBatchSampler) -> None:
        """Begin at the sampler's position."""
        self.batches, self.mean_rows, self.epoch = len(sampler), sampler.mean_rows, sampler.epoch
        self._sampler = sampler
        self._iterator: Iterator[list[int]] = iter(sampler)

    def next(self) -> NDArray[np.int64]:
        """The next batch, int64[rows]."""
        self.epoch = self._sampler.epoch
        batch = next(self._iterator, None)
        while batch is None:
            self.epoch = self._sampler.epoch
            self._iterator = iter(self._sampler)
            batch = next(self._iterator, None)
        return np.array(batch, np.int64)

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON-ready values."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a position."""
        self._sampler.load_state_dict(state)
        self.epoch, self._iterator = self._sampler.epoch, iter(self._sampler)


class GroupSampler:
    """Groups of rows of like lengths, in random order; rows that do not fill a last group are left out of that epoch.

    Rows are sorted by their lengths and cut into windows of a few groups, from which groups are drawn. A group then has
    few distinct lengths, and runs in few batches. Where rows have kinds, a group has rows of one kind; what is left of
    the kinds makes mixed groups.

    Attributes:
        batches: how many groups there are per epoch.
        epoch: the epoch of the last group.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        group: int,
        seed: int,
        window: int | None,
        kinds: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin with the first epoch.

        Args:
            lengths: int64[sides, rows], of each row's texts.
            group: rows of a group; where there are fewer, they are one group.
            window: groups of a window; None draws groups from all rows.
            kinds: int64[rows], of each row; any rows make a group if None.
        """
        self._kinds = np.zeros(lengths.shape[1], np.int64) if kinds is None else kinds
        self._lengths, self._seed, self._window = lengths, seed, window
        rows = lengths.shape[1]
        self._group = min(group, rows)
        self.batches, self.epoch = max(1, rows // self._group), 0
        self._position = 0
        self._order = self._shuffle(0)

    def next(self) -> NDArray[np.int64]:
        """The next group, int64[group]."""
        if self._position == self.batches:
            self.epoch, self._position = self.epoch + 1, 0
            self._order = self._shuffle(self.epoch)
        start = self._position * self._group
        self._position += 1
        return self._order[start : start + self._group]

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON-ready values."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a position."""
        self.epoch, self._position = state["epoch"], state["position"]
        self._order = self._shuffle(self.epoch)

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, group after group."""
        draw = np.random.default_rng((self._seed, epoch))
        rows = draw.permutation(self._lengths.shape[1])
        kinds = self._kinds[rows]
        groups, rest = [], []
        for kind in np.unique(kinds):
            of_kind = rows[kinds == kind]
            whole = len(of_kind) // self._group * self._group
            groups.append(self._in_windows(of_kind[:whole], draw))
            rest.append(of_kind[whole:])
        left = draw.permutation(np.concatenate(rest))
        groups.append(self._in_windows(left[: len(left) // self._group * self._group], draw))
        return np.concatenate(groups).reshape(self.batches, self._group)[draw.permutation(self.batches)].ravel()

    def _in_windows(self, rows: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        """The rows of whole groups, in random order, as groups of like lengths."""
        if self._window is None or not len(rows):
            return rows
        rows = rows[np.lexsort(self._lengths[::-1, rows])]  # stable: rows of the same lengths stay in random order
        rows = np.roll(rows, int(draw.integers(len(rows))))  # so that windows begin elsewhere in each epoch
        size = self._window * self._group
        return np.concatenate([draw.permutation(rows[start : start + size]) for start in range(0, len(rows), size)])


def due_sources(shares: Sequence[float], round_number: int) -> list[int]:
    """The sources that have a batch in a round: that of the largest share in each, the others in their part of them.

    Args:
        shares: above 0.
        round_number: from 0.
    """
    largest = max(shares)
    parts = [share / largest for share in shares]
    return [
        number
        for number, part in enumerate(parts)
        if math.floor((round_number + 1) * part) > math.floor(round_number * part)
    ]


def source_seed(seed: int, number: int) -> int:
    """A seed of a source's own, below 2**63."""
    words = np.random.SeedSequence((seed, number)).generate_state(2, np.uint32)
    return int(words[0]) * 2**31 + int(words[1]) % 2**31
