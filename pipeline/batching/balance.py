"""Steps of several ranks whose batches cost about the same, of rows of any lengths.

Decisions:
- Each row, from the longest to the shortest, goes to the batch that costs least so far.
- What imbalance that leaves is reduced by exchanging two rows, or moving one, between the costliest and the cheapest
  batch. The longest row of a batch stays where it is, so that its time steps stay the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from lengthwise.batching.costs import BatchCosts

BALANCE = 1.02  # the largest cost of a step over its mean, where the rows allow it
_MAX_EXCHANGES = 64  # per step


def deal_step(lengths: Sequence[int], costs: BatchCosts, ranks: int) -> tuple[list[list[int]], int]:
    """Deal the first of these rows to the batches of one step.

    The step ends where its batches cost the same: of all ends after which no row is left, or a row per rank, at the
    last whose costs are balanced, or else at the best balanced.

    Args:
        lengths: of the rows, descending; at least `ranks` of them.
        costs: what batches cost, and their limits.
        ranks: batches of the step.

    Returns:
        The batches, as positions in `lengths`, longest row first; and how many rows they hold together.
    """
    batches: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    open_batches = [(0.0, rank) for rank in range(ranks)]
    largest = total = 0.0
    stop, best = ranks, float("inf")
    for row, length in enumerate(lengths):
        if not open_batches:
            break
        cost, rank = heapq.heappop(open_batches)
        batches[rank].append(row)
        tokens[rank] += length
        longest, size = lengths[batches[rank][0]], len(batches[rank])
        new = costs.batch_cost(longest, size, tokens[rank])
        largest, total = max(largest, new), total + new - cost
        if size < costs.max_batch_rows(longest):
            heapq.heappush(open_batches, (new, rank))
        done, left = row + 1, len(lengths) - row - 1
        balance = largest * ranks / total
        if done >= ranks and (left == 0 or left >= ranks) and (balance <= BALANCE or balance < best):
            stop, best = done, max(balance, BALANCE)
    dealt = [[row for row in batch if row < stop] for batch in batches]
    if best > BALANCE:
        _rebalance(dealt, lengths, costs)
    return dealt, stop


def _rebalance(batches: list[list[int]], lengths: Sequence[int], costs: BatchCosts) -> None:
    """Exchange rows between the costliest and the cheapest batch until the step is balanced, or nothing more helps."""
    for _ in range(_MAX_EXCHANGES):
        found = [_cost(batch, lengths, costs) for batch in batches]
        if max(found) * len(found) <= BALANCE * sum(found):
            return
        high, low = batches[found.index(max(found))], batches[found.index(min(found))]
        options = list(_exchanges(high, low, lengths, costs))
        cost, given, taken = min(options, default=(max(found), -1, -1))
        if cost >= max(found):
            return
        high.remove(given)
        low.append(given)
        if taken >= 0:
            low.remove(taken)
            high.append(taken)
        high.sort()
        low.sort()


def _exchanges(
    high: list[int], low: list[int], lengths: Sequence[int], costs: BatchCosts
) -> Iterator[tuple[float, int, int]]:
    """Rows of `high` for shorter ones of `low`, or for none (-1): the larger cost that is left, and the two rows."""
    has_space = len(low) < costs.max_batch_rows(lengths[low[0]])
    taken = {lengths[row]: row for row in low[1:]} | ({0: -1} if has_space else {})
    tokens = [sum(lengths[row] for row in batch) for batch in (high, low)]
    for given_length, given in {lengths[row]: row for row in high[1:]}.items():
        for taken_length, row in taken.items():
            if taken_length < given_length <= lengths[low[0]]:
                moved, rows = given_length - taken_length, 1 if row < 0 else 0
                left = costs.batch_cost(lengths[high[0]], len(high) - rows, tokens[0] - moved)
                grown = costs.batch_cost(lengths[low[0]], len(low) + rows, tokens[1] + moved)
                yield max(left, grown), given, row


def _cost(batch: Sequence[int], lengths: Sequence[int], costs: BatchCosts) -> float:
    return costs.batch_cost(lengths[batch[0]], len(batch), sum(lengths[row] for row in batch))
