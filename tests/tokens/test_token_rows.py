"""Rows of ids: padded, taken, told apart, and to Arrow and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ragged import check_shard, rows
from lengthwise.tokens.ragged import RaggedTokens


def ragged(lengths: Sequence[int], first: int = 100) -> RaggedTokens:
    total = sum(lengths)
    return RaggedTokens(
        np.arange(first, first + total, dtype=np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(lengths)) % 2 == 0,
        np.array(lengths, np.int64) == 0,
        {row: f"row {row} is bad" for row, length in enumerate(lengths) if length == 0},
    )


def test_a_row_is_a_view() -> None:
    shard = ragged([2, 0, 3])
    assert rows(shard) == [[100, 101], [], [102, 103, 104]]
    assert np.shares_memory(shard.row(2), shard.values)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=12), data=st.data(), pad_id=st.integers(-1, 5))
def test_gather_is_naive_padding(lengths: list[int], data: st.DataObject, pad_id: int) -> None:
    shard = ragged(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    input_ids, got = shard.gather(np.array(chosen, np.int64), pad_id)
    longest = max((lengths[row] for row in chosen), default=0)
    naive = [row + [pad_id] * (longest - len(row)) for row in (shard.row(index).tolist() for index in chosen)]
    assert input_ids.tolist() == naive
    assert got.tolist() == [lengths[row] for row in chosen]
    assert (input_ids.dtype, got.dtype) == (np.int64, np.int64)
    assert input_ids.shape == (len(chosen), longest)


def same(left: RaggedTokens, right: RaggedTokens) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in ("values", "offsets", "truncated", "null")]
    return left.bad == right.bad and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), max_size=10), data=st.data())
def test_arrow_round_trip_of_any_slice(lengths: list[int], data: st.DataObject) -> None:
    shard = ragged(lengths)
    table = shard.to_arrow()
    assert table["input_ids"].to_pylist() == rows(shard)
    assert same(RaggedTokens.from_arrow(table), shard)
    start = data.draw(st.integers(0, len(lengths)))
    stop = data.draw(st.integers(start, len(lengths)))
    part = RaggedTokens.from_arrow(table.slice(start, stop - start))
    check_shard(part, stop - start)
    assert rows(part) == rows(shard)[start:stop]
    assert part.truncated.tolist() == shard.truncated[start:stop].tolist()
    assert part.null.tolist() == shard.null[start:stop].tolist()
    assert part.bad == {row - start: reason for row, reason in shard.bad.items() if start <= row < stop}
    chunked = pa.concat_tables([table.slice(0, start), table.slice(start)])
    assert same(RaggedTokens.from_arrow(chunked), shard)


def test_a_table_of_no_chunks() -> None:
    assert len(RaggedTokens.from_arrow(ragged([]).to_arrow().schema.empty_table())) == 0


def test_ids_go_to_arrow_and_back_without_a_copy() -> None:
    shard = ragged([3, 0, 4, 2])
    table = shard.to_arrow()
    assert table["input_ids"].chunk(0).values.buffers()[1].address == shard.values.ctypes.data
    assert np.shares_memory(RaggedTokens.from_arrow(table).values, shard.values)
    part = RaggedTokens.from_arrow(table.slice(2, 1))
    assert part.values.ctypes.data == shard.row(2).ctypes.data


def test_columns_of_a_token_table() -> None:
    schema = ragged([1]).to_arrow().schema
    assert schema.names == ["input_ids", "truncated", "null", "bad"]
    assert schema.types == [pa.large_list(pa.int32()), pa.bool_(), pa.bool_(), pa.string()]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_taking_rows(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 4), max_size=10))
    offsets = np.cumsum([0, *lengths])
    flags = np.arange(len(lengths)) % 2 == 0
    bad = {row: f"row {row} is bad" for row in range(0, len(lengths), 3)}
    shard = RaggedTokens(np.arange(offsets[-1], dtype=np.int32), offsets, flags, ~flags, bad)
    rows_taken = data.draw(st.lists(st.sampled_from(range(len(lengths))), max_size=12)) if lengths else []
    taken = shard.take(np.array(rows_taken, np.int64))
    assert [taken.row(place).tolist() for place in range(len(taken))] == [shard.row(row).tolist() for row in rows_taken]
    assert taken.truncated.tolist() == flags[rows_taken].tolist()
    assert taken.null.tolist() == (~flags)[rows_taken].tolist()
    assert taken.bad == {place: bad[row] for place, row in enumerate(rows_taken) if row in bad}
    assert (taken.values.dtype, taken.offsets.dtype) == (np.int32, np.int64)
