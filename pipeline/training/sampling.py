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
    """Groups of rows drawn at random; the rows that do not fill a last group are left out of that epoch.

    Attributes:
        batches: how many there are per epoch.
        epoch: the epoch of the last group.
    """

    def __init__(self, rows: int, group: int, seed: int) -> None:
        """Begin with the first epoch.

        Args:
            rows: the number of rows; with fewer than `group`, they are one group.
        """
        self._rows, self._group, self._seed = rows, min(group, rows), seed
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
        return np.random.default_rng((self._seed, epoch)).permutation(self._rows)


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
