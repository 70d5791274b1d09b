"""Rows of the same ids, compared with a Python dictionary of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.tokens.deduplicate import find_distinct_rows

Rows = list[list[int]]
few_ids = st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=30)
ids = st.integers(0, 3) | st.integers(0, 2**31 - 1)
many_ids = st.lists(st.sampled_from([[], [0], [0, 0]]) | st.lists(ids, max_size=40), max_size=12)


def flatten(rows: Rows) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return np.array([token for row in rows for token in row], np.int32), offsets


def check(rows: Rows) -> None:
    first, same_as = find_distinct_rows(*flatten(rows))
    expected = list(dict.fromkeys(map(tuple, rows)))
    assert first.tolist() == [rows.index(list(row)) for row in expected]
    assert [expected[number] for number in same_as] == list(map(tuple, rows))
    assert first.dtype == same_as.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(rows=few_ids | many_ids.flatmap(lambda rows: st.permutations(rows * 2)))
def test_distinct_rows_are_those_of_a_dictionary(rows: Rows) -> None:
    check(rows)


def test_order_and_position_distinguish_rows() -> None:
    check([[1, 2], [2, 1], [1], [0, 1], [1, 0], [0], [], [0, 0], [1, 2], []])


def test_one_different_id_makes_another_row() -> None:
    row = list(range(11))
    for place in range(11):
        check([row, row, [*row[:place], 99, *row[place + 1 :]]])


def test_rows_of_a_million_ids() -> None:
    row = np.arange(1_000_000, dtype=np.int32) % 8_000
    values = np.concatenate([row, row, row])
    values[-1] += 1
    first, same_as = find_distinct_rows(values, np.arange(4) * 1_000_000)
    assert (first.tolist(), same_as.tolist()) == ([0, 2], [0, 0, 1])
