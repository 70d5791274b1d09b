"""`RaggedTokens`: rows as views, padded, selected and concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ragged import rows
from lengthwise.tokens.ragged import RaggedTokens, concatenate_tokens


def ragged(lengths: Sequence[int], first: int = 100) -> RaggedTokens:
    total = sum(lengths)
    return RaggedTokens(
        np.arange(first, first + total, dtype=np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(lengths)) % 2 == 0,
        np.array(lengths, np.int64) == 0,
        {row: f"row {row} is bad" for row, length in enumerate(lengths) if length == 0},
    )


def test_row_is_a_view() -> None:
    tokens = ragged([2, 0, 3])
    assert rows(tokens) == [[100, 101], [], [102, 103, 104]]
    assert np.shares_memory(tokens.row(2), tokens.values)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=12), data=st.data(), pad_id=st.integers(-1, 5))
def test_pad_rows_equals_naive_padding(lengths: list[int], data: st.DataObject, pad_id: int) -> None:
    tokens = ragged(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    input_ids, got = tokens.pad_rows(np.array(chosen, np.int64), pad_id)
    longest = max((lengths[row] for row in chosen), default=0)
    naive = [row + [pad_id] * (longest - len(row)) for row in (tokens.row(index).tolist() for index in chosen)]
    assert input_ids.tolist() == naive
    assert got.tolist() == [lengths[row] for row in chosen]
    assert (input_ids.dtype, got.dtype) == (np.int64, np.int64)
    assert input_ids.shape == (len(chosen), longest)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_take_selects_rows_with_their_flags(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 4), max_size=10))
    offsets = np.cumsum([0, *lengths])
    flags = np.arange(len(lengths)) % 2 == 0
    bad = {row: f"row {row} is bad" for row in range(0, len(lengths), 3)}
    tokens = RaggedTokens(np.arange(offsets[-1], dtype=np.int32), offsets, flags, ~flags, bad)
    rows_taken = data.draw(st.lists(st.sampled_from(range(len(lengths))), max_size=12)) if lengths else []
    taken = tokens.take(np.array(rows_taken, np.int64))
    assert rows(taken) == [rows(tokens)[row] for row in rows_taken]
    assert taken.truncated.tolist() == flags[rows_taken].tolist()
    assert taken.null.tolist() == (~flags)[rows_taken].tolist()
    assert taken.bad == {place: bad[row] for place, row in enumerate(rows_taken) if row in bad}
    assert (taken.values.dtype, taken.offsets.dtype) == (np.int32, np.int64)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=4))
def test_concatenation_has_the_rows_of_all_parts(parts: list[list[int]]) -> None:
    tokens = [ragged(lengths, 1_000 * number) for number, lengths in enumerate(parts)]
    whole = concatenate_tokens(tokens)
    assert rows(whole) == [row for part in tokens for row in rows(part)]
    assert whole.truncated.tolist() == [flag for part in tokens for flag in part.truncated.tolist()]
    assert whole.null.tolist() == [flag for part in tokens for flag in part.null.tolist()]
    assert sorted(whole.bad) == [row for row, length in enumerate(chain.from_iterable(parts)) if length == 0]
    assert (whole.values.dtype, whole.offsets.dtype, len(whole)) == (np.int32, np.int64, sum(map(len, parts)))
