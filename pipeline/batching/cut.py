"""Where to cut rows that are sorted by length into batches: an exact dynamic program over the distinct lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import BatchCosts


def cheapest_cut(longest: NDArray[np.int64], counts: NDArray[np.int64], costs: BatchCosts) -> NDArray[np.int64]:
    """The batch sizes of the cheapest plan.

    A batch holds rows of one group (as many batches as the group needs, as even as possible), or all rows of
    neighbouring groups. Of all such plans this is one whose cost is the smallest.

    Args:
        longest: [groups], the length of each group's rows, or an upper bound of it; descending.
        counts: [groups], rows of each group, at least one.

    Returns:
        int64[batches], rows per batch, for rows in the order of the groups.
    """
    groups = len(longest)
    limits = max_batch_rows(longest, costs)
    rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    tokens = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts * longest)])
    cheapest = np.zeros(groups + 1)  # of the rows from each group down
    stops = np.arange(1, groups + 1)  # where the batch that starts at each group ends
    furthest = np.searchsorted(rows, rows[:-1] + limits, side="right")  # exclusive, of the groups in one batch
    batches = -(-counts // limits)
    alone = longest * (counts + batches * costs.step)
    for start in range(groups - 1, -1, -1):
        cheapest[start] = alone[start] + cheapest[start + 1]
        if furthest[start] <= start + 2:
            continue
        several = slice(start + 2, furthest[start])
        together = batch_costs(longest[start], rows[several] - rows[start], tokens[several] - tokens[start], costs)
        together += cheapest[several]
        best = int(np.argmin(together))
        if together[best] < cheapest[start]:
            cheapest[start], stops[start] = together[best], start + 2 + best
    return _sizes(rows, stops, batches)


def max_batch_rows(longest: NDArray[np.int64], costs: BatchCosts) -> NDArray[np.int64]:
    """`BatchCosts.max_batch_rows` of each length."""
    return np.clip(costs.max_tokens // longest, 1, costs.max_rows)


def batch_costs(
    longest: NDArray[np.int64] | np.int64, rows: NDArray[np.int64], tokens: NDArray[np.int64], costs: BatchCosts
) -> NDArray[np.float64]:
    """`BatchCosts.batch_cost` of several batches with the same longest row."""
    work = longest * rows if costs.pads else tokens
    return (work + costs.step * longest) * np.where(tokens == longest * rows, 1.0, costs.mixed)


def _sizes(rows: NDArray[np.int64], stops: NDArray[np.int64], batches: NDArray[np.int64]) -> NDArray[np.int64]:
    sizes: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    start = 0
    while start < len(stops):
        stop = int(stops[start])
        count, parts = int(rows[stop] - rows[start]), int(batches[start]) if stop == start + 1 else 1
        sizes.append(np.full(parts, count // parts) + (np.arange(parts) < count % parts))
        start = stop
    return np.concatenate(sizes)
