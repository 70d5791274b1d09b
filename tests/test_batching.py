"""Batch plans: what every plan promises, over any lengths and settings, and what it costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.batching import BatchPlan, plan_batches, report_plan
from pipeline.config import BatchingSettings

Lengths = NDArray[np.integer]

SKEWED = st.lists(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 7, 40]), max_size=120)
SPREAD = st.lists(st.integers(0, 60), max_size=80)
HUGE = st.lists(st.integers(0, 2**31 - 1), max_size=20)
LENGTHS = st.builds(np.array, SKEWED | SPREAD | HUGE, dtype=st.sampled_from([np.int32, np.int64]))
SETTINGS = st.builds(
    BatchingSettings, max_tokens=st.integers(1, 300), max_rows=st.integers(1, 20), min_equal_rows=st.integers(1, 10)
)
properties = settings(max_examples=150, deadline=None)


def fits(rows: int, longest: int, limits: BatchingSettings) -> bool:
    return rows == 1 or (rows <= limits.max_rows and rows * longest <= limits.max_tokens)


def least_sum_of_longest(falling: list[int], limits: BatchingSettings) -> int:
    """The optimum over every way to cut rows in falling order of length into batches that fit."""
    best = [0]
    for stop in range(1, len(falling) + 1):
        starts = (start for start in range(stop) if fits(stop - start, falling[start], limits))
        best.append(min(best[start] + falling[start] for start in starts))
    return best[-1]


def cut_from_shortest(falling: list[int], limits: BatchingSettings) -> int:
    """Sum of the longest rows when each batch, from the shortest row up, takes as many rows as fit."""
    total, rows = 0, 0
    rising = falling[::-1]
    for place, length in enumerate(rising):
        rows += 1
        if place + 1 == len(rising) or not fits(rows + 1, rising[place + 1], limits):
            total, rows = total + length, 0
    return total


def realistic(rows: int = 65_536, seed: int = 0) -> Lengths:
    drawn = np.random.default_rng(seed).lognormal(np.log(13), 0.8, rows)
    return np.clip(drawn.round(), 1, 400).astype(np.int64)


@properties
@given(LENGTHS, SETTINGS)
def test_every_row_of_tokens_is_in_exactly_one_batch(lengths: Lengths, limits: BatchingSettings) -> None:
    plan = plan_batches(lengths, limits)
    assert sorted(row for batch in plan for row in batch.tolist()) == np.flatnonzero(lengths).tolist()
    assert all(len(batch) > 0 for batch in plan)
    assert len(plan) == len(list(plan))
    assert (plan.rows.dtype, plan.starts.dtype) == (np.int64, np.int64)


@properties
@given(LENGTHS, SETTINGS)
def test_batches_keep_to_their_limits_and_their_order(lengths: Lengths, limits: BatchingSettings) -> None:
    for batch in plan_batches(lengths, limits):
        rows = [(-int(lengths[row]), row) for row in batch.tolist()]
        assert rows == sorted(rows)  # descending lengths, ties in row order
        assert fits(len(batch), -rows[0][0], limits)


@properties
@given(LENGTHS, SETTINGS)
def test_a_common_length_gets_batches_of_its_own(lengths: Lengths, limits: BatchingSettings) -> None:
    batches = [lengths[batch].tolist() for batch in plan_batches(lengths, limits)]
    for length in set(lengths[lengths > 0].tolist()):
        count = int((lengths == length).sum())
        if count < limits.min_equal_rows or not fits(limits.min_equal_rows, length, limits):
            continue
        own = [batch for batch in batches if length in batch]
        assert all(set(batch) == {length} for batch in own)
        sizes = [len(batch) for batch in own]
        assert max(sizes) - min(sizes) <= 1
        room = max(1, min(limits.max_rows, limits.max_tokens // length))
        assert len(sizes) == -(-count // room)


@properties
@given(LENGTHS, SETTINGS)
def test_rare_rows_are_cut_as_cheaply_as_can_be(lengths: Lengths, limits: BatchingSettings) -> None:
    alone = limits.model_copy(update={"min_equal_rows": 10**9, "max_rows": 1_000})
    room = np.minimum(alone.max_rows, np.maximum(1, alone.max_tokens // np.maximum(lengths, 1)))
    rare = np.array(
        [length for length, fit in zip(lengths.tolist(), room, strict=True) if (lengths == length).sum() < fit],
        np.int64,
    )
    plan = plan_batches(rare, alone)
    falling = sorted(rare[rare > 0].tolist(), reverse=True)
    cost = sum(int(rare[batch].max()) for batch in plan)
    assert cost == least_sum_of_longest(falling, alone)
    assert cost <= cut_from_shortest(falling, alone)


def test_cutting_from_the_shortest_would_cost_more() -> None:
    limits = BatchingSettings(max_tokens=1_000, max_rows=4, min_equal_rows=2)
    lengths = np.arange(1, 14)
    cost = sum(int(lengths[batch].max()) for batch in plan_batches(lengths, limits))
    assert (cost, cut_from_shortest(lengths[::-1].tolist(), limits)) == (13 + 9 + 5 + 1, 4 + 8 + 12 + 13)


@properties
@given(LENGTHS, SETTINGS)
def test_the_same_lengths_give_the_same_plan(lengths: Lengths, limits: BatchingSettings) -> None:
    first, second = plan_batches(lengths, limits), plan_batches(lengths.astype(np.int32), limits)
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.starts, second.starts)


def test_planning_leaves_the_lengths_alone() -> None:
    lengths = np.array([3, 0, 5, 5, 1], np.int32)
    plan_batches(lengths)
    assert lengths.tolist() == [3, 0, 5, 5, 1]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_nothing_to_encode(lengths: list[int]) -> None:
    planned = np.array(lengths, np.int64)
    plan = plan_batches(planned)
    assert (len(plan), list(plan), plan.starts.tolist()) == (0, [], [0])
    report = report_plan(planned, plan)
    assert (report.rows, report.batches, report.padding, report.unplanned_padding) == (0, 0, 0.0, 0.0)


def test_a_row_longer_than_a_batch_is_a_batch_by_itself() -> None:
    plan = plan_batches(np.array([3, 90, 2, 90]), BatchingSettings(max_tokens=10, min_equal_rows=2))
    assert [batch.tolist() for batch in plan] == [[1], [3], [0, 2]]


def test_a_small_plan_by_hand() -> None:
    lengths = np.array([5, 2, 9, 5, 0, 2, 5, 4])
    plan = plan_batches(lengths, BatchingSettings(max_tokens=20, max_rows=2, min_equal_rows=2))
    assert [batch.tolist() for batch in plan] == [[0, 3], [6], [1, 5], [2, 7]]


@properties
@given(LENGTHS, SETTINGS)
def test_report_counts_what_a_naive_count_gives(lengths: Lengths, limits: BatchingSettings) -> None:
    plan = plan_batches(lengths, limits)
    report = report_plan(lengths, plan)
    batches = [[int(lengths[row]) for row in plan.rows[a:b]] for a, b in pairwise(plan.starts)]
    encoded = [length for length in lengths.tolist() if length]
    assert report.rows == len(encoded)
    assert report.tokens == sum(encoded)
    assert report.batches == len(batches)
    assert report.distinct_lengths == len(set(encoded))
    assert report.equal_rows == sum(len(batch) for batch in batches if len(set(batch)) == 1)
    assert report.padded_cells == sum(len(batch) * max(batch) for batch in batches)
    step = max(1, round(len(encoded) / max(1, len(batches))))
    unplanned = [encoded[start : start + step] for start in range(0, len(encoded), step)]
    assert report.unplanned_cells == sum(len(batch) * max(batch) for batch in unplanned)
    padding = sum(max(batch) - length for batch in batches for length in batch)
    assert report.padding == pytest.approx(padding / max(1, report.padded_cells))


def test_reports_add_up() -> None:
    a, b = np.array([1, 2, 3]), np.array([4, 4])
    first, second = report_plan(a, plan_batches(a)), report_plan(b, plan_batches(b))
    both = first + second
    assert (both.rows, both.tokens, both.batches, both.distinct_lengths) == (5, 14, 2, 3)
    assert both.padded_cells == first.padded_cells + second.padded_cells == 9 + 8
    assert both.padding == pytest.approx(3 / 17)


def test_padding_is_rare_on_a_realistic_shard() -> None:
    lengths = realistic()
    report = report_plan(lengths, plan_batches(lengths))
    assert report.padding <= 0.005
    assert report.unplanned_padding > 0.4
    assert report.equal_rows >= 0.98 * report.rows


def test_a_plan_iterates_over_its_batches() -> None:
    plan = BatchPlan(np.array([4, 1, 0]), np.array([0, 1, 3]))
    assert [batch.tolist() for batch in plan] == [[4], [1, 0]]
