"""Failing batches become small, and still fail."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.export.audit.shrink import shrink
from lengthwise.export.validation.cases import Case


def make_case(lengths: list[int], beyond: int = 0) -> Case:
    sequence = max(lengths) + beyond
    ids = np.random.default_rng(0).integers(50, size=(len(lengths), sequence))
    return Case("case", "group", ids, np.array(lengths, np.int64), 50)


def test_a_long_neighbour_is_all_that_is_left() -> None:
    """Rows fail beside a row of at least 10 tokens."""

    def failing(case: Case) -> np.ndarray:
        return np.array([length < 10 and case.lengths.max() >= 10 for length in case.lengths])

    found = shrink(make_case([3, 8, 24, 5, 17, 2]), failing, 200)
    assert sorted(found.lengths.tolist()) == [1, 10]


def test_one_row_is_enough_where_no_neighbour_matters() -> None:
    found = shrink(make_case([3, 8, 24]), lambda case: case.lengths >= 3, 200)
    assert found.lengths.tolist() == [3]


def test_padding_is_narrowed() -> None:
    def failing(case: Case) -> np.ndarray:
        return case.lengths < case.input_ids.shape[1]

    found = shrink(make_case([6], beyond=40), failing, 200)
    assert (found.lengths.tolist(), found.input_ids.shape) == ([1], (1, 2))


def test_a_batch_that_does_not_fail_is_left_alone() -> None:
    case = make_case([2, 3])
    assert shrink(case, lambda case: np.zeros(len(case.lengths), bool), 10) is case


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 30))
def test_what_is_left_fails_and_is_part_of_the_batch(lengths: list[int], total: int, tries: int) -> None:
    calls = 0

    def failing(case: Case) -> np.ndarray:
        nonlocal calls
        calls += 1
        return np.full(len(case.lengths), case.lengths.sum() >= total)

    case = make_case(lengths)
    found = shrink(case, failing, tries)
    assert calls <= tries + 1
    assert found.lengths.sum() >= min(total, sum(lengths))
    rows = {tuple(row) for row in case.input_ids.tolist()}
    assert all(any(row[:1] == ids[:1] for row in rows) for ids in map(tuple, found.input_ids.tolist()))
