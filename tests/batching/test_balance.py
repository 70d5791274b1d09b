"""Steps of several ranks: their rows, limits and balance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.batching.balance import BALANCE, deal_step
from lengthwise.batching.costs import BatchCosts

COSTS = st.builds(
    BatchCosts,
    max_tokens=st.integers(1, 300),
    max_rows=st.integers(1, 30),
    step=st.sampled_from([0.0, 4.0, 256.0]),
    mixed=st.sampled_from([1.0, 2.0]),
    pads=st.booleans(),
)


def imbalance(batches: list[list[int]], lengths: list[int], costs: BatchCosts) -> float:
    found = [costs.batch_cost(lengths[b[0]], len(b), sum(lengths[row] for row in b)) for b in batches]
    return max(found) / (sum(found) / len(found))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=7, max_size=80), COSTS, st.integers(1, 7))
def test_a_step_holds_the_first_rows_once_and_keeps_the_limits(
    lengths: list[int], costs: BatchCosts, ranks: int
) -> None:
    lengths = sorted(lengths, reverse=True)
    batches, stop = deal_step(lengths, costs, ranks)
    assert sorted(row for batch in batches for row in batch) == list(range(stop))
    assert len(batches) == ranks
    left = len(lengths) - stop
    assert left == 0 or left >= ranks or stop == ranks
    for batch in batches:
        assert batch == sorted(batch)
        assert 1 <= len(batch) <= costs.max_batch_rows(lengths[batch[0]])


def test_rows_are_exchanged_where_dealing_them_in_order_leaves_an_imbalance() -> None:
    costs = BatchCosts(max_tokens=1_000, max_rows=5, step=0)
    lengths = [90, 60, 60, 50, 40, 40, 40, 30, 30]
    assert imbalance([[0, 3, 5, 7], [1, 2, 4, 6, 8]], lengths, costs) > BALANCE
    assert deal_step(lengths, costs, 2) == ([[0, 2, 5, 7], [1, 3, 4, 6, 8]], len(lengths))
    assert imbalance([[0, 2, 5, 7], [1, 3, 4, 6, 8]], lengths, costs) <= BALANCE


@pytest.mark.parametrize("ranks", range(2, 9))
def test_steps_of_skewed_lengths_are_balanced(ranks: int) -> None:
    costs = BatchCosts(max_tokens=16_384, max_rows=2**31, step=4, mixed=2.0)
    lengths = sorted(
        np.random.default_rng(0).lognormal(3.5, 1.0, 600).clip(1, 1_000).astype(int).tolist(), reverse=True
    )
    start, found = 0, []
    while len(lengths) - start >= ranks:
        batches, dealt = deal_step(lengths[start:], costs, ranks)
        found.append(imbalance(batches, lengths[start:], costs))
        start += dealt
    assert max(found) <= BALANCE
