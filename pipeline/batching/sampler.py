"""`LengthBatchSampler`: batches of like lengths for `torch.utils.data.DataLoader`, and any other loop.

Decisions:
- It is a `batch_sampler` by its methods, not by its base class, so that nothing here imports torch.
- An epoch is a function of the lengths, the settings, the seed and the epoch's number. So every rank makes the same
  plan without a message, and a saved state is a few numbers.
- More rows than fit one window (4 million) are planned window by window, each a random sample of the rows left.
- An iterator that reaches its end moves the sampler on to the next epoch, so that a loop that never calls `set_epoch`
  is shuffled anew in every epoch all the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.epoch import EpochPlan, plan_epoch
from lengthwise.batching.epoch_report import EpochReport, report_epoch
from lengthwise.batching.permutation import Permutation
from lengthwise.errors import BatchError

# `nn.LSTM` in training on a CPU (`lengthwise benchmark batches`): what a step and different lengths cost there.
TRAINING = BatchCosts(max_tokens=4_096, max_rows=2**31, step=4, mixed=2.0)
WINDOW_ROWS = 2**22
_UNLIMITED = 2**40
_CHECKSUMS = 64


class LengthBatchSampler:
    """Batches of row numbers whose lengths are equal wherever the data allow, in random order.

    Every row of at least one token is in exactly one batch of an epoch; rows of no tokens are in none, since an LSTM
    takes none. A row longer than `max_tokens` has a batch of its own.

    Args:
        lengths: [rows], the length of each row: a list, an array (also a memory-mapped one), or a tensor.
        max_tokens: the most cells (rows x longest row) of a batch.
        batch_size: the most rows of a batch. At least one of the two is needed.
        shuffle: rows in random order within a length, and batches in random order. Without it, long batches come first.
        seed: of all that is random.
        drop_last: full batches only. Rows that do not fill a batch of their own length share one with their neighbours,
            and the last rows that do not fill one either are dropped.
        num_replicas: processes that train together. All get the same number of batches, of about the same cost in
            every step.
        rank: the process whose batches these are. None gives all of them, step by step and rank by rank, which is what
            a loader that deals batches out by itself (accelerate) needs.
        noise: how far lengths are disturbed before rows are grouped by them: a row of length n is grouped as if its
            length was uniform in n * (1 - noise) to n * (1 + noise). 0 gives batches of equal lengths; more gives rows
            other companions, and padding.
        costs: what batches cost where they are run. The default is `nn.LSTM` on a CPU, which is fastest where all
            lengths of a batch are equal; for a GPU take `lengthwise.batching.costs.PACKED_CUDA`.

    Raises:
        BatchError: a length is missing, negative or no integer; or the settings contradict each other.

    Example:
        >>> sampler = LengthBatchSampler([3, 5, 3, 5, 3], max_tokens=12, shuffle=False)
        >>> list(sampler)
        [[1, 3], [0, 2, 4]]
    """

    batch_size = None  # batches differ in size: loaders that read this attribute must not count on one

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int | None = None,
        noise: float = 0.0,
        costs: BatchCosts = TRAINING,
    ) -> None:
        check_replicas(seed, num_replicas, rank)
        _check_noise(noise, shuffle)
        self.lengths = check_lengths(lengths)
        self.shuffle, self.seed, self.drop_last, self.noise = shuffle, seed, drop_last, float(noise)
        self.num_replicas, self.rank = num_replicas, 0 if num_replicas == 1 else rank
        self.costs = batch_limits(costs, max_tokens, batch_size)
        self.num_windows = max(1, -(-len(self.lengths) // WINDOW_ROWS))
        self._epoch = 0
        self._start = (0, 0)  # window, and batch of this rank within it
        self._latest: _EpochIterator | None = None
        self._plans: dict[tuple[int, int], EpochPlan] = {}
        self._sizes: dict[tuple[int, int], int] = {}

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration belongs to."""
        return self._epoch

    @property
    def mean_rows(self) -> float:
        """Rows per batch, the mean over an epoch: a loss times `rows / mean_rows` gives every row the same weight."""
        batches = len(self) * (1 if self.rank is None else self.num_replicas)
        return float(np.count_nonzero(self.lengths)) / max(1, batches)

    @property
    def sampler(self) -> LengthBatchSampler:
        """Itself: trainers call `loader.batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. A position that was loaded for this very epoch is kept."""
        if epoch != self._epoch:
            self._epoch, self._start, self._latest = epoch, (0, 0), None

    def __len__(self) -> int:
        """Batches of this rank in the whole of the epoch that the next iteration belongs to."""
        return sum(self._window_batches(self._epoch, window) for window in range(self.num_windows))

    def __iter__(self) -> Iterator[list[int]]:
        self._latest = _EpochIterator(self, self._epoch, self._start)
        return self._latest

    def report(self) -> EpochReport:
        """What this epoch's batches are like, over all ranks; `print` shows it."""
        plans = (self.window_plan(self._epoch, window) for window in range(self.num_windows))
        following = self.window_plan(self._epoch + 1, 0) if self.shuffle and self.num_windows == 1 else None
        return report_epoch(self.lengths, plans, following, self.costs, self.num_replicas)

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch, after the batches that were taken from the latest iterator; plain data.

        A loader with worker processes takes batches ahead of the training loop. `torchdata.StatefulDataLoader` accounts
        for that; without it, pass the number of batches that were trained on to `skip`.
        """
        latest = self._latest
        if latest is None or latest.epoch != self._epoch:
            return self._state(self._epoch, self._start)
        return self._state(latest.epoch, latest.position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved: the next iteration gives the rest of that epoch.

        Raises:
            BatchError: the state was saved by a sampler of other settings, or of other lengths.
        """
        self._epoch, self._start = self._position(state)
        self._latest = None

    def skip(self, batches: int) -> None:
        """Begin the next iteration after so many batches of this epoch.

        Raises:
            BatchError: the epoch has fewer.
        """
        window, left = 0, batches
        while window < self.num_windows and left > self._window_batches(self._epoch, window):
            left -= self._window_batches(self._epoch, window)
            window += 1
        if batches < 0 or window == self.num_windows:
            raise BatchError(f"cannot skip {batches} batches: epoch {self._epoch} has {len(self)}")
        self._start, self._latest = (window, left), None

    def check_ranks(self) -> None:
        """Compare lengths, settings and epoch over all processes of `torch.distributed`; all of them have to call it.

        Raises:
            BatchError: a rank would make another plan.
        """
        import torch.distributed as distributed

        states: list[dict[str, Any]] = [{}] * distributed.get_world_size()
        distributed.all_gather_object(states, self._state(self._epoch, (0, 0)))
        for rank, state in enumerate(states):
            difference = _difference(state, states[0], f"on rank {rank}", "on rank 0")
            if difference:
                raise BatchError(
                    f"the ranks disagree: {difference}; make the sampler from the same lengths and settings everywhere"
                )

    def window_plan(self, epoch: int, window: int) -> EpochPlan:
        """The plan of one window; the latest two are kept."""
        key = (epoch, window)
        if key not in self._plans:
            while len(self._plans) > 1:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = self._make_plan(epoch, window)
            self._sizes[key] = len(self._plans[key])
        return self._plans[key]

    def _make_plan(self, epoch: int, window: int) -> EpochPlan:
        rng = np.random.default_rng((self.seed, epoch, window)) if self.shuffle else None
        if self.num_windows == 1:
            rows, lengths = None, self.lengths
        else:
            rows = self._window_rows(epoch, window)
            lengths = np.asarray(self.lengths[rows])
        plan = plan_epoch(lengths, self.costs, rng, ranks=self.num_replicas, noise=self.noise, drop_last=self.drop_last)
        return plan if rows is None else replace(plan, rows=rows[plan.rows])

    def _window_rows(self, epoch: int, window: int) -> NDArray[np.int64]:
        start, stop = window * WINDOW_ROWS, min(len(self.lengths), (window + 1) * WINDOW_ROWS)
        if not self.shuffle:
            return np.arange(start, stop)
        return np.sort(Permutation(len(self.lengths), (self.seed, epoch)).part(start, stop))

    def _window_batches(self, epoch: int, window: int) -> int:
        """Batches of this rank in a window."""
        if (epoch, window) not in self._sizes:
            self.window_plan(epoch, window)
        return self._sizes[epoch, window] // (1 if self.rank is None else self.num_replicas)

    def _batch(self, epoch: int, window: int, number: int) -> list[int]:
        plan = self.window_plan(epoch, window)
        return plan.batch(number if self.rank is None else number * self.num_replicas + self.rank)

    def _finish(self, epoch: int) -> None:
        if epoch == self._epoch:
            self.set_epoch(epoch + 1)

    def _state(self, epoch: int, position: tuple[int, int]) -> dict[str, Any]:
        settings = {
            "max_tokens": self.costs.max_tokens,
            "batch_size": self.costs.max_rows,
            "costs": [self.costs.step, self.costs.mixed, self.costs.pads],
            **{name: getattr(self, name) for name in ("shuffle", "seed", "drop_last", "num_replicas", "noise")},
            "all ranks": self.rank is None,
        }
        window, batch = position
        lengths = {"rows": len(self.lengths), "checksums": self._checksums()}
        return {"epoch": epoch, "window": window, "batch": batch, "settings": settings, "lengths": lengths}

    def _position(self, state: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
        own = self._state(self._epoch, (0, 0))
        if not isinstance(state, Mapping) or state.keys() != own.keys():
            raise BatchError("this is not the state of a LengthBatchSampler; pass what its state_dict() returned")
        difference = _difference({**own, "epoch": state["epoch"]}, state, "here", "in the saved state")
        if difference:
            raise BatchError(
                f"the saved state does not fit this sampler: {difference};"
                " make it from the lengths and settings that it was saved with, or begin the epoch anew"
            )
        return state["epoch"], (state["window"], state["batch"])

    def _checksums(self) -> list[int]:
        if not hasattr(self, "_checksums_cache"):
            parts = (self.lengths[start:stop] for start, stop in _checksum_ranges(len(self.lengths)))
            self._checksums_cache = [zlib.crc32(part.astype(np.int64).tobytes()) for part in parts]
        return self._checksums_cache


class _EpochIterator(Iterator[list[int]]):
    """The rest of an epoch, with a position that can be saved and loaded, as torchdata's loader asks of iterators."""

    def __init__(self, sampler: LengthBatchSampler, epoch: int, position: tuple[int, int]) -> None:
        self._sampler = sampler
        self.epoch = epoch
        self.position = position

    def __next__(self) -> list[int]:
        window, batch = self.position
        while batch >= self._sampler._window_batches(self.epoch, window):
            if window + 1 == self._sampler.num_windows:
                self._sampler._finish(self.epoch)
                raise StopIteration
            window, batch = window + 1, 0
        self.position = (window, batch + 1)
        return self._sampler._batch(self.epoch, window, batch)

    def state_dict(self) -> dict[str, Any]:
        """As `LengthBatchSampler.state_dict`."""
        return self._sampler._state(self.epoch, self.position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `LengthBatchSampler.load_state_dict`."""
        self._sampler.load_state_dict(state)
        self.epoch, self.position = self._sampler._epoch, self._sampler._start
        self._sampler._latest = self


def check_lengths(lengths: ArrayLike | Sequence[int | None]) -> NDArray[np.integer]:
    """Lengths as an array of integers, [rows]; an array of integers is not copied.

    Raises:
        BatchError: one is missing, negative or no integer; the message names the row.
    """
    array = np.asarray(lengths)
    if array.ndim != 1:
        raise BatchError(f"lengths have shape {array.shape}; pass one length per row")
    if not len(array):
        return np.empty(0, np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        array = _whole_numbers(array)
    for start in range(0, len(array), WINDOW_ROWS):
        negative = np.flatnonzero(array[start : start + WINDOW_ROWS] < 0)
        if len(negative):
            row = start + int(negative[0])
            raise BatchError(f"row {row}: the length is {array[row]}; lengths are counts of tokens, 0 or more")
    return array


def _whole_numbers(array: NDArray[Any]) -> NDArray[np.int64]:
    for row, length in enumerate(array.tolist()):
        if isinstance(length, bool) or not isinstance(length, int | float) or length != length or length % 1:
            found = "missing" if length is None or length != length else repr(length)
            raise BatchError(f"row {row}: the length is {found}; pass a whole number for every row")
    return array.astype(np.int64)


def batch_limits(costs: BatchCosts, max_tokens: int | None, batch_size: int | None) -> BatchCosts:
    """The costs with these limits and no others.

    Raises:
        BatchError: no limit is given, or one that is not positive.
    """
    if max_tokens is None and batch_size is None:
        raise BatchError("neither max_tokens nor batch_size is given; pass one of them, e.g. max_tokens=4096")
    for name, value in (("max_tokens", max_tokens), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise BatchError(f"{name} is {value}; pass 1 or more")
    return replace(costs, max_tokens=max_tokens or _UNLIMITED, max_rows=batch_size or _UNLIMITED)


def check_replicas(seed: int, num_replicas: int, rank: int | None) -> None:
    """Refuse a seed or a rank that cannot be.

    Raises:
        BatchError: with the value and the range.
    """
    if num_replicas < 1:
        raise BatchError(f"num_replicas is {num_replicas}; pass 1 or more")
    if seed < 0:
        raise BatchError(f"seed is {seed}; pass 0 or more")
    if rank is not None and not 0 <= rank < num_replicas:
        raise BatchError(f"rank is {rank}, but num_replicas is {num_replicas}; ranks are 0 to {num_replicas - 1}")


def _check_noise(noise: float, shuffle: bool) -> None:
    if not 0 <= noise < 1:
        raise BatchError(f"noise is {noise}; pass a share of the length, from 0 up to but not including 1")
    if noise and not shuffle:
        raise BatchError(f"noise is {noise}, but shuffle is False, and noise is random; pass shuffle=True or noise=0")


def _checksum_ranges(rows: int) -> list[tuple[int, int]]:
    parts = min(rows, _CHECKSUMS)
    ends = [rows * part // parts for part in range(parts + 1)] if parts else [0]
    return list(pairwise(ends))


def _difference(first: Mapping[str, Any], second: Mapping[str, Any], here: str, there: str) -> str:
    """The first thing in which two states differ beside their position, in words; "" where there is none."""
    for name, value in first["settings"].items():
        if value != second["settings"].get(name):
            return f"{name} is {value} {here} and {second['settings'].get(name)} {there}"
    if first["epoch"] != second["epoch"]:
        return f"the epoch is {first['epoch']} {here} and {second['epoch']} {there}"
    rows, other_rows = first["lengths"]["rows"], second["lengths"]["rows"]
    if rows != other_rows:
        return f"there are {rows} lengths {here} and {other_rows} {there}"
    checksums = zip(first["lengths"]["checksums"], second["lengths"]["checksums"], strict=True)
    for (start, stop), (one, other) in zip(_checksum_ranges(rows), checksums, strict=True):
        if one != other:
            where = f"row {start}" if stop == start + 1 else f"one of rows {start} to {stop - 1}"
            return f"{where} has one length {here} and another {there}"
    return ""
