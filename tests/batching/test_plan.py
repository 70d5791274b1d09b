"""Batch plans: the properties of every plan, over any lengths and costs, and that none costs less."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.batching.costs import PACKED, PACKED_CUDA, PADDED, PADDED_CUDA, STEPWISE, BatchCosts
from lengthwise.batching.plan import BatchPlan, PlanReport, plan_batches, plan_in_order, report_plan

Lengths = NDArray[np.integer]

SKEWED = st.lists(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 7, 40]), max_size=120)
SPREAD = st.lists(st.integers(0, 60), max_size=80)
HUGE = st.lists(st.integers(0, 2**31 - 1), max_size=20)
LENGTHS = st.builds(np.array, SKEWED | SPREAD | HUGE, dtype=st.sampled_from([np.int32, np.int64]))
COSTS = st.builds(
    BatchCosts,
    max_tokens=st.integers(1, 300),
    max_rows=st.integers(1, 20),
    step=st.sampled_from([0.0, 1.0, 4.0, 30.0]),
    mixed=st.sampled_from([1.0, 1.5, 4.0]),
    pads=st.booleans(),
)
properties = settings(max_examples=150, deadline=None)


def fits(rows: int, longest: int, costs: BatchCosts) -> bool:
    return rows == 1 or (rows <= costs.max_rows and rows * longest <= costs.max_tokens)


def realistic_lengths(rows: int = 65_536, seed: int = 0) -> Lengths:
    drawn = np.random.default_rng(seed).lognormal(np.log(13), 0.8, rows)
    return np.clip(drawn.round(), 1, 400).astype(np.int64)


@properties
@given(LENGTHS, COSTS)
def test_every_row_with_tokens_is_in_exactly_one_batch(lengths: Lengths, costs: BatchCosts) -> None:
    plan = plan_batches(lengths, costs)
    assert sorted(row for batch in plan for row in batch.tolist()) == np.flatnonzero(lengths).tolist()
    assert all(len(batch) > 0 for batch in plan)
    assert len(plan) == len(list(plan))
    assert (plan.rows.dtype, plan.starts.dtype) == (np.int64, np.int64)


@properties
@given(LENGTHS, COSTS)
def test_batches_respect_limits_and_order(lengths: Lengths, costs: BatchCosts) -> None:
    plan = plan_batches(lengths, costs)
    rows = [(-int(lengths[row]), row) for row in plan.rows.tolist()]
    assert rows == sorted(rows)  # falling lengths, ties in row order
    assert all(fits(len(batch), int(lengths[batch].max()), costs) for batch in plan)


def lowest_cost_by_exhaustion(lengths: Lengths, costs: BatchCosts) -> float:
    """The lowest cost of any grouping of neighbouring lengths, by trying all of them."""
    distinct, counts = np.unique(lengths[lengths > 0], return_counts=True)
    groups = list(zip(distinct.tolist()[::-1], counts.tolist()[::-1], strict=True))

    def alone(length: int, count: int) -> float:
        batches = -(-count // costs.max_batch_rows(length))
        return length * count + batches * costs.step * length

    @cache
    def rest(start: int) -> float:
        if start == len(groups):
            return 0.0
        found = [alone(*groups[start]) + rest(start + 1)]
        for stop in range(start + 2, len(groups) + 1):
            together = groups[start:stop]
            rows, tokens = sum(count for _, count in together), sum(length * count for length, count in together)
            if fits(rows, together[0][0], costs):
                found.append(costs.batch_cost(together[0][0], rows, tokens) + rest(stop))
        return min(found)

    return rest(0)


@properties
@given(st.builds(np.array, SKEWED | SPREAD, dtype=st.just(np.int64)), COSTS)
def test_plan_has_the_lowest_cost(lengths: Lengths, costs: BatchCosts) -> None:
    report = report_plan(lengths, plan_batches(lengths, costs), costs)
    assert report.cost == pytest.approx(lowest_cost_by_exhaustion(lengths, costs))


@properties
@given(LENGTHS, COSTS)
def test_batches_of_one_length_are_of_even_size(lengths: Lengths, costs: BatchCosts) -> None:
    batches = [lengths[batch].tolist() for batch in plan_batches(lengths, costs)]
    for length in set(lengths[lengths > 0].tolist()):
        own = [len(batch) for batch in batches if set(batch) == {length}]
        if own:
            assert max(own) - min(own) <= 1


@properties
@given(LENGTHS, COSTS)
def test_plan_does_not_depend_on_the_dtype(lengths: Lengths, costs: BatchCosts) -> None:
    first, second = plan_batches(lengths, costs), plan_batches(lengths.astype(np.int32), costs)
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.starts, second.starts)


@pytest.mark.parametrize(("rows", "largest"), [(50, 50), (200, 50), (2_000, 125), (65_536, 512)])
def test_few_rows_are_cut_into_smaller_batches(rows: int, largest: int) -> None:
    sizes = np.diff(plan_batches(np.full(rows, 9), STEPWISE).starts)
    assert sizes.max() == largest
    assert sizes.max() - sizes.min() <= 1


def test_plan_batches_does_not_change_its_input() -> None:
    lengths = np.array([3, 0, 5, 5, 1], np.int32)
    plan_batches(lengths)
    assert lengths.tolist() == [3, 0, 5, 5, 1]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_plan_without_tokens_is_empty(lengths: list[int]) -> None:
    planned = np.array(lengths, np.int64)
    for plan in (plan_batches(planned), plan_in_order(planned)):
        assert (len(plan), list(plan), plan.starts.tolist()) == (0, [], [0])
        assert report_plan(planned, plan) == PlanReport()
        assert report_plan(planned, plan).padding == 0.0


def test_row_beyond_max_tokens_is_a_batch_of_its_own() -> None:
    plan = plan_batches(np.array([3, 90, 2, 90]), BatchCosts(max_tokens=10, max_rows=8, step=1))
    assert [batch.tolist() for batch in plan] == [[1], [3], [0, 2]]


@pytest.mark.parametrize(
    ("costs", "batches"),
    [
        # one step costs more than the two cells of padding that save it
        (BatchCosts(max_tokens=100, max_rows=4, step=3, pads=True), [[2], [0, 3, 6, 7], [1, 5]]),
        # steps are free: one batch per length
        (BatchCosts(max_tokens=100, max_rows=4, step=0, pads=True), [[2], [0, 3, 6], [7], [1, 5]]),
        # mixed lengths cost nothing: as few steps as possible
        (BatchCosts(max_tokens=100, max_rows=4, step=3), [[2, 0, 3, 6], [7, 1, 5]]),
        # mixed lengths are slow: one batch per length, although a step has a cost
        (BatchCosts(max_tokens=100, max_rows=4, step=0.1, mixed=3), [[2], [0, 3, 6], [7], [1, 5]]),
    ],
)
def test_plan_follows_the_costs(costs: BatchCosts, batches: list[list[int]]) -> None:
    lengths = np.array([5, 2, 9, 5, 0, 2, 5, 4])
    assert [batch.tolist() for batch in plan_batches(lengths, costs)] == batches


@properties
@given(LENGTHS, COSTS, st.booleans())
def test_report_equals_a_naive_count(lengths: Lengths, costs: BatchCosts, in_order: bool) -> None:
    plan = plan_in_order(lengths, 7) if in_order else plan_batches(lengths, costs)
    report = report_plan(lengths, plan, costs)
    batches = [[int(lengths[row]) for row in plan.rows[a:b]] for a, b in pairwise(plan.starts)]
    encoded = [length for length in lengths.tolist() if length]
    cells = sum(len(batch) * max(batch) for batch in batches)
    assert report.rows == len(encoded)
    assert report.tokens == sum(encoded)
    assert report.batches == len(batches)
    assert report.cells == (cells if costs.pads else sum(encoded))
    assert report.padding == pytest.approx((cells - sum(encoded)) / cells if costs.pads and cells else 0)
    expected = sum(
        ((len(batch) * max(batch) if costs.pads else sum(batch)) + costs.step * max(batch))
        * (costs.mixed if len(set(batch)) > 1 else 1)
        for batch in batches
    )
    assert report.cost == pytest.approx(expected)


def test_plan_in_order_keeps_input_order() -> None:
    plan = plan_in_order(np.array([4, 0, 1, 9, 2]), rows=2)
    assert [batch.tolist() for batch in plan] == [[0, 2], [3, 4]]


def test_reports_add_up() -> None:
    a, b = np.array([1, 2, 3]), np.array([4, 4])
    costs = BatchCosts(max_tokens=4_096, max_rows=128, step=4, pads=True)
    first, second = (report_plan(lengths, plan_batches(lengths, costs), costs) for lengths in (a, b))
    both = first + second
    assert (both.rows, both.tokens, both.batches) == (5, 14, 2)
    assert (both.cells, both.cost) == (first.cells + second.cells, first.cost + second.cost) == (9 + 8, 21 + 24)
    assert both.padding == pytest.approx(3 / 17)


@pytest.mark.parametrize("costs", [STEPWISE, PACKED, PADDED, PACKED_CUDA, PADDED_CUDA])
def test_padding_is_rare_on_a_realistic_shard(costs: BatchCosts) -> None:
    lengths = realistic_lengths()
    plan = plan_batches(lengths, costs)
    report = report_plan(lengths, plan, costs)
    assert report.padding <= (0.06 if costs is PADDED_CUDA else 0.005)  # a step costs as much as 256 tokens
    in_order = report_plan(lengths, plan_in_order(lengths), PADDED)
    assert in_order.padding > 0.4
    assert report.cost < in_order.cost / 1.5
    if costs.mixed > 1:
        assert sum(len(batch) for batch in plan if len(set(lengths[batch])) == 1) >= 0.9 * report.rows


def test_plan_iterates_over_its_batches() -> None:
    plan = BatchPlan(np.array([4, 1, 0]), np.array([0, 1, 3]))
    assert [batch.tolist() for batch in plan] == [[4], [1, 0]]
