"""Rows of the same ids, against the dictionary that says what is meant; also where hashes collide."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lengthwise.tokens.deduplicate as distinct
from lengthwise.tokens.deduplicate import distinct_rows

Rows = list[list[int]]
some_rows = st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=30)
ids = st.integers(0, 3) | st.integers(0, 2**31 - 1)
wide_rows = st.lists(st.sampled_from([[], [0], [0, 0]]) | st.lists(ids, max_size=40), max_size=12)


def flat(rows: Rows) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    return np.array([id_ for row in rows for id_ in row], np.int32), np.cumsum([0, *map(len, rows)])


def check(rows: Rows) -> None:
    first, same_as = distinct_rows(*flat(rows))
    expected = list(dict.fromkeys(map(tuple, rows)))
    assert first.tolist() == [rows.index(list(row)) for row in expected]
    assert [expected[number] for number in same_as] == list(map(tuple, rows))
    assert first.dtype == same_as.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(rows=some_rows | wide_rows.flatmap(lambda rows: st.permutations(rows * 2)), ids_a_slice=st.integers(1, 9))
def test_as_the_dictionary_has_it(rows: Rows, ids_a_slice: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "_SLICE", ids_a_slice)
        patch.setattr(distinct, "_by_dictionary", None)  # it is not needed
        check(rows)


@settings(max_examples=100, deadline=None)
@given(
    rows=some_rows,
    hashes=st.sampled_from(
        [
            lambda values, offsets: np.zeros(len(offsets) - 1, np.uint64),
            lambda values, offsets: np.diff(offsets).astype(np.uint64),  # so that only ids tell them apart
            lambda values, offsets: (np.diff(offsets) // 2).astype(np.uint64),  # some, of unequal lengths
        ]
    ),
)
def test_hashes_that_collide(rows: Rows, hashes: Callable[..., NDArray[np.uint64]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "_row_hashes", hashes)
        check(rows)


def test_one_different_id_is_found_in_any_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distinct, "_row_hashes", lambda values, offsets: np.zeros(len(offsets) - 1, np.uint64))
    monkeypatch.setattr(distinct, "_SLICE", 4)
    for place in range(11):
        row = list(range(11))
        other = [*row[:place], 99, *row[place + 1 :]]
        check([row, row, other])


def test_order_and_place_tell_rows_apart() -> None:
    rows = [[1, 2], [2, 1], [1], [0, 1], [1, 0], [0], [], [0, 0], [1, 2], []]
    hashes = distinct._row_hashes(*flat(rows))
    assert len(set(hashes.tolist())) == 8
    check(rows)


def test_a_row_of_millions_of_ids_takes_no_memory_of_their_size() -> None:
    row = np.arange(1_000_000, dtype=np.int32) % 8_000
    values = np.concatenate([row, row, row])
    tracemalloc.start()
    try:
        first, same_as = distinct_rows(values, np.arange(4) * 1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (first.tolist(), same_as.tolist()) == ([0], [0, 0, 0])
    assert peak < values.nbytes / 4
