"""The record of a folder's input: segments, their hash, and the shards that they are cut into."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.errors import StoreError
from lengthwise.store.input_record import InputRecord, Segment, read_input, shard_ranges
from lengthwise.store.layout import INPUT
from lengthwise.store.local import LocalFolder

FIRST, SECOND = Segment("f1", 0, 5, {"a": "1"}), Segment("f2", 5, None, {"a": "2", "b": "1"})


@given(rows=st.lists(st.integers(0, 30), max_size=6), shard_rows=st.integers(1, 12))
def test_shards_cover_all_rows_and_none_spans_two_segments(rows: list[int], shard_rows: int) -> None:
    ranges = list(shard_ranges(rows, shard_rows))
    assert [row for first, count in ranges for row in range(first, first + count)] == list(range(sum(rows)))
    assert all(0 < count <= shard_rows for _, count in ranges)
    ends = {sum(rows[:number]) for number in range(len(rows) + 1)}
    assert all(count == shard_rows or first + count in ends for first, count in ranges)
    for end in ends:
        assert not [first for first, count in ranges if first < end < first + count]


def test_one_segment_has_the_fingerprint_of_its_input() -> None:
    """So a run that does not append has the same identity."""
    record = InputRecord({})
    assert record.fingerprint == ""
    assert record.with_segment(FIRST).fingerprint == "f1"
    both = record.with_segment(FIRST).with_segment(SECOND)
    assert both.first(1).fingerprint == "f1"
    others = [Segment("f3", 5, None, {}), Segment("f2", 4, None, {})]
    hashes = {both.fingerprint, *(record.with_segment(FIRST).with_segment(other).fingerprint for other in others)}
    assert len(hashes) == 3
    assert both.with_rows(7).fingerprint == both.fingerprint  # the rows of a stream are known at its end only
    assert (both.rows, both.with_rows(7).rows) == (None, 12)


def test_record_is_read_as_written(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert read_input(folder) is None
    record = InputRecord({"split": "train"}, (FIRST, SECOND))
    folder.write(INPUT, record.to_json())
    assert read_input(folder) == record


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"{", "cannot be read .JSONDecodeError"),
        (b'{"format": 99}', "cannot be read .ValueError: it was written by another version of lengthwise"),
        (b'{"format": 1, "reading": {}, "segments": [{"rows": 1}]}', "cannot be read .KeyError"),
    ],
)
def test_damaged_record_is_an_error(tmp_path: Path, contents: bytes, problem: str) -> None:
    folder = LocalFolder(tmp_path)
    folder.write(INPUT, contents)
    with pytest.raises(StoreError, match=rf"input\.json: {problem}.*--fresh"):
        read_input(folder)
