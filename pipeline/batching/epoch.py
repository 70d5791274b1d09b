"""One epoch of training batches: every row once, in batches of equal lengths wherever the data allow, for any ranks.

Decisions:
- With several ranks, each rank gets the same number of rows of every length, so that all ranks run batches of the same
  shapes: their step times are equal for any costs. What remains of each length, fewer rows than ranks, is
  dealt to the ranks by cost.
- Everything follows from the lengths, the limits and one random generator. No rank asks another.
- Only what remains is handled row by row in Python; the rest is NumPy on whole epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.balance import deal_step
from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.cut import cheapest_cut, max_batch_rows

Rows = NDArray[np.int64]

_MOST_GROUPS = 4_096  # distinct lengths that are planned for; more are planned as so many neighbourhoods


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The batches of one epoch, step by step, and within a step rank by rank.

    Attributes:
        rows: int64[planned rows], row numbers, one batch after the other.
        starts: int64[batches + 1]; batch b is `rows[starts[b]:starts[b + 1]]`, of step `b // ranks`.
        repeated: rows that occur twice, because there were fewer rows left than ranks.
        dropped: rows that are in no batch, under `drop_last`.
    """

    rows: Rows
    starts: NDArray[np.int64]
    repeated: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, number: int) -> list[int]:
        """The row numbers of one batch."""
        return self.rows[self.starts[number] : self.starts[number + 1]].tolist()


@dataclass
class _Steps:
    """Steps in the making: the sizes of each one's batches, and their rows one after the other."""

    rows: Rows
    sizes: NDArray[np.int64]  # [steps, ranks]

    def __add__(self, other: _Steps) -> _Steps:
        return _Steps(np.concatenate([self.rows, other.rows]), np.concatenate([self.sizes, other.sizes]))


def plan_epoch(
    lengths: NDArray[np.integer],
    costs: BatchCosts,
    rng: np.random.Generator | None,
    *,
    ranks: int = 1,
    noise: float = 0.0,
    drop_last: bool = False,
) -> EpochPlan:
    """The batches of one epoch.

    Args:
        lengths: [rows], the length of each row. Rows of length 0 are in no batch.
        costs: what batches cost, and their limits.
        rng: shuffles rows within a length, and steps. None keeps rows in their order, and puts long batches first.
        ranks: processes that run one batch each in every step.
        noise: rows are grouped as if their length was `length * (1 + noise * u)`, with u uniform in [-1, 1) and drawn
            for each row; needs `rng`.
        drop_last: full batches only. Rows that fill none of their own length fill some with their neighbours, and the
            last of these are dropped.
    """
    rows = _shuffled(lengths, rng)
    keys = None
    if noise and rng is not None:
        disturbed = lengths[rows] * (1 + noise * rng.uniform(-1, 1, len(rows)))
        keys = np.maximum(1, np.rint(disturbed)).astype(np.int64)
    rows, longest, counts = _grouped(lengths, rows, keys)
    if drop_last:
        steps = _full_steps(lengths, rows, longest, counts, costs, ranks)
        return _finished(lengths, steps, rng, dropped=len(rows) - len(steps.rows))
    steps, repeated = _all_steps(lengths, rows, longest, counts, costs, ranks, mixed=noise > 0)
    return _finished(lengths, steps, rng, repeated=repeated)


def plan_full_batches(
    lengths: NDArray[np.integer], costs: BatchCosts, rng: np.random.Generator | None, *, ranks: int = 1
) -> EpochPlan:
    """The full batches that rows of one length make; the other rows are in none.

    The arguments are those of `plan_epoch`.
    """
    rows, longest, counts = _grouped(lengths, _shuffled(lengths, rng), None)
    sizes, in_full = _full_groups(longest, counts, costs, ranks)
    return _finished(lengths, _dealt(lengths, rows[in_full], sizes, ranks), rng)


def _grouped(
    lengths: NDArray[np.integer], rows: Rows, keys: NDArray[np.int64] | None
) -> tuple[Rows, NDArray[np.int64], NDArray[np.int64]]:
    """Rows in descending order of their keys; and of each group of equal keys, its longest row and its size.

    The keys are the lengths where none are given.
    """
    if not len(rows):
        return rows, np.empty(0, np.int64), np.empty(0, np.int64)
    if keys is None:
        keys = lengths[rows].astype(np.int64)
    descending = keys.max() - keys
    if descending.max() < 2**16:
        descending = descending.astype(np.uint16)  # which NumPy sorts in linear time
    order = np.argsort(descending, kind="stable")
    rows, descending = rows[order], descending[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(descending)) + 1])
    if len(starts) > _MOST_GROUPS:
        starts = starts[np.linspace(0, len(starts), _MOST_GROUPS, endpoint=False).astype(np.int64)]
    counts = np.diff(np.append(starts, len(rows)))
    longest = np.maximum.reduceat(lengths[rows].astype(np.int64), starts)
    return rows, np.maximum.accumulate(longest[::-1])[::-1], counts


def _all_steps(
    lengths: NDArray[np.integer],
    rows: Rows,
    longest: NDArray[np.int64],
    counts: NDArray[np.int64],
    costs: BatchCosts,
    ranks: int,
    *,
    mixed: bool,
) -> tuple[_Steps, int]:
    """Steps that have every row, and how many rows had to be repeated."""
    if mixed:  # no group is of equal lengths, so that none is worth keeping apart
        costs = BatchCosts(costs.max_tokens, costs.max_rows, costs.step, 1.0, costs.pads)
    per_rank = counts // ranks
    shared = per_rank > 0
    sizes = cheapest_cut(longest[shared], per_rank[shared], costs)
    is_shared = _first_of_groups(counts, per_rank * ranks)
    regular = _dealt(lengths, rows[is_shared], sizes, ranks)
    remaining = rows[~is_shared]
    if not len(remaining):
        return regular, 0
    return _with_remaining(lengths, regular, remaining, costs, ranks)


def _dealt(lengths: NDArray[np.integer], rows: Rows, sizes: NDArray[np.int64], ranks: int) -> _Steps:
    """Rows cut into steps of `ranks` batches of these sizes, such that a step's batches have like lengths."""
    step_sizes = np.repeat(sizes[:, None], ranks, axis=1)
    if ranks == 1:
        return _Steps(rows, step_sizes)
    step = np.repeat(np.arange(len(sizes)), sizes * ranks)
    order = np.lexsort((-lengths[rows].astype(np.int64), step))
    start, size = np.repeat(np.cumsum(sizes * ranks) - sizes * ranks, sizes * ranks), np.repeat(sizes, sizes * ranks)
    round_, rank = np.divmod(np.arange(len(rows)) - start, ranks)
    rank = np.where(round_ % 2, ranks - 1 - rank, rank)  # there and back again
    dealt = np.empty_like(rows)
    dealt[start + rank * size + round_] = rows[order]
    return _Steps(dealt, step_sizes)


def _with_remaining(
    lengths: NDArray[np.integer], regular: _Steps, remaining: Rows, costs: BatchCosts, ranks: int
) -> tuple[_Steps, int]:
    """The steps, with more of them for the remaining rows.

    Where too few rows remain to give every rank a batch, a regular step is taken apart to help out, that of the
    shortest rows first; and if there is none, rows are repeated.
    """
    while True:
        order = np.argsort(-lengths[remaining].astype(np.int64), kind="stable")
        remaining = remaining[order]
        irregular, left = _deal_by_cost(lengths[remaining].tolist(), costs, ranks)
        if not left:
            return regular + _Steps(remaining[irregular.rows], irregular.sizes), 0
        divisible = np.flatnonzero(regular.sizes[:, 0] > 1)
        if not len(divisible):
            break
        regular, freed = _without_step(regular, int(divisible[-1]))
        remaining = np.concatenate([remaining, freed])
    pool = np.concatenate([remaining, regular.rows])
    last = np.concatenate([remaining[len(remaining) - left :], np.resize(pool, ranks - left)])
    steps = regular + _Steps(remaining[irregular.rows], irregular.sizes) + _Steps(last, np.ones((1, ranks), np.int64))
    return steps, ranks - left


def _without_step(steps: _Steps, step: int) -> tuple[_Steps, Rows]:
    ends = np.cumsum(steps.sizes.sum(axis=1))
    start, stop = int(ends[step] - steps.sizes[step].sum()), int(ends[step])
    kept = _Steps(np.delete(steps.rows, slice(start, stop)), np.delete(steps.sizes, step, axis=0))
    return kept, steps.rows[start:stop]


def _deal_by_cost(lengths: list[int], costs: BatchCosts, ranks: int) -> tuple[_Steps, int]:
    """Steps whose batches cost about the same, of rows in descending order of length.

    Returns:
        The steps, with positions in `lengths` for rows; and how many rows are left at the end, fewer than ranks.
    """
    rows: list[int] = []
    sizes: list[list[int]] = []
    start = 0
    while len(lengths) - start >= ranks:
        batches, dealt = deal_step(lengths[start:], costs, ranks)
        rows += [start + row for batch in batches for row in batch]
        sizes.append([len(batch) for batch in batches])
        start += dealt
    return _Steps(np.array(rows, np.int64), np.array(sizes, np.int64).reshape(-1, ranks)), len(lengths) - start


def _full_steps(
    lengths: NDArray[np.integer],
    rows: Rows,
    longest: NDArray[np.int64],
    counts: NDArray[np.int64],
    costs: BatchCosts,
    ranks: int,
) -> _Steps:
    """Steps of full batches: those of one group, then those that remaining rows of neighbouring groups fill."""
    full_sizes, in_full = _full_groups(longest, counts, costs, ranks)
    remaining, remaining_longest = rows[~in_full], np.repeat(longest, counts)[~in_full]
    sizes, start = [], 0
    while start < len(remaining):
        size = costs.max_batch_rows(int(remaining_longest[start]))
        if start + size * ranks > len(remaining):
            break
        sizes.append(size)
        start += size * ranks
    return _dealt(lengths, rows[in_full], full_sizes, ranks) + _dealt(
        lengths, remaining[:start], np.array(sizes, np.int64), ranks
    )


def _full_groups(
    longest: NDArray[np.int64], counts: NDArray[np.int64], costs: BatchCosts, ranks: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The size of each full step's batches that groups can fill by themselves, and which rows are in them."""
    limits = max_batch_rows(longest, costs)
    full = counts // (limits * ranks)
    return np.repeat(limits, full), _first_of_groups(counts, full * limits * ranks)


def _first_of_groups(counts: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of rows in groups, which are among the first so many of their group."""
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return position < np.repeat(first, counts)


def _in_order(lengths: NDArray[np.integer], steps: _Steps, rng: np.random.Generator | None) -> _Steps:
    """The steps in random order, or from the longest row to the shortest."""
    sizes = steps.sizes.sum(axis=1)
    if not len(sizes):
        return steps
    starts = np.cumsum(sizes) - sizes
    if rng is None:
        longest = np.maximum.reduceat(lengths[steps.rows].astype(np.int64), starts)
        order = np.argsort(-longest, kind="stable")
    else:
        order = rng.permutation(len(sizes))
    new_sizes = sizes[order]
    new_starts = np.cumsum(new_sizes) - new_sizes
    source = np.arange(len(steps.rows)) + np.repeat(starts[order] - new_starts, new_sizes)
    return _Steps(steps.rows[source], steps.sizes[order])


def _shuffled(lengths: NDArray[np.integer], rng: np.random.Generator | None) -> Rows:
    """The rows of at least one token."""
    rows = np.flatnonzero(lengths)
    if rng is not None:
        rng.shuffle(rows)
    return rows


def _finished(
    lengths: NDArray[np.integer],
    steps: _Steps,
    rng: np.random.Generator | None,
    *,
    repeated: int = 0,
    dropped: int = 0,
) -> EpochPlan:
    steps = _in_order(lengths, steps, rng)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(steps.sizes.ravel())])
    return EpochPlan(steps.rows, starts, repeated, dropped)
