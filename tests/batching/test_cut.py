"""The cheapest cut of sorted rows: as cheap as the best of all cuts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.cut import batch_costs, cheapest_cut

COSTS = st.builds(
    BatchCosts,
    max_tokens=st.integers(1, 300),
    max_rows=st.integers(1, 20),
    step=st.sampled_from([0.0, 1.0, 4.0, 30.0]),
    mixed=st.sampled_from([1.0, 1.5, 4.0]),
    pads=st.booleans(),
)
GROUPS = st.dictionaries(st.integers(1, 60), st.integers(1, 12), max_size=25)


@settings(max_examples=100, deadline=None)
@given(GROUPS, COSTS)
def test_cut_is_as_cheap_as_the_best_of_all_cuts(groups: dict[int, int], costs: BatchCosts) -> None:
    longest = sorted(groups, reverse=True)
    counts = [groups[length] for length in longest]
    sizes = cheapest_cut(np.array(longest, np.int64), np.array(counts, np.int64), costs)
    assert sizes.sum() == sum(counts)
    lengths = np.repeat(longest, counts)
    ends = np.cumsum(sizes)
    batches = [lengths[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    found = sum(costs.batch_cost(int(batch[0]), len(batch), int(batch.sum())) for batch in batches)

    @cache
    def cheapest(start: int) -> float:
        if start == len(longest):
            return 0.0
        parts = -(-counts[start] // costs.max_batch_rows(longest[start]))
        best = longest[start] * (counts[start] + parts * costs.step) + cheapest(start + 1)
        for stop in range(start + 2, len(longest) + 1):
            rows = sum(counts[start:stop])
            if rows <= costs.max_batch_rows(longest[start]):
                tokens = sum(longest[group] * counts[group] for group in range(start, stop))
                best = min(best, costs.batch_cost(longest[start], rows, tokens) + cheapest(stop))
        return best

    assert found == pytest.approx(cheapest(0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=9), COSTS)
def test_costs_of_arrays_are_those_of_single_batches(batches: list[tuple[int, int]], costs: BatchCosts) -> None:
    longest, rows = (np.array(column, np.int64) for column in zip(*batches, strict=True))
    tokens = longest + (rows - 1) * np.maximum(1, longest - 1)
    expected = [costs.batch_cost(*map(int, batch)) for batch in zip(longest, rows, tokens, strict=True)]
    assert batch_costs(longest, rows, tokens, costs).tolist() == expected
