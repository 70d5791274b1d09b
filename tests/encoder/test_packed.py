"""A packed batch holds each token once per direction, in reading order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.encoder.packed import PackedIds


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 3))
def test_tokens_are_in_reading_order(lengths: list[int], padding: int) -> None:
    longest_first = np.array(sorted(lengths, reverse=True), np.int64)
    ids = np.random.default_rng(0).integers(0, 99, (len(lengths), max(lengths) + padding))
    batch = PackedIds.pack(ids, longest_first, 2)
    times = range(max(lengths))
    expected = [[(row, time) for row, length in enumerate(longest_first) if time < length] for time in times]
    assert batch.steps.tolist() == [len(step) for step in expected]
    tokens = [token for step in expected for token in step]
    assert batch.ids[0].tolist() == [ids[row, time] for row, time in tokens]
    assert batch.positions[0].tolist() == list(range(len(tokens)))
    from_the_end = [(row, longest_first[row] - 1 - time) for row, time in tokens]
    assert batch.ids[1].tolist() == [ids[row, time] for row, time in from_the_end]
    assert [tokens[position] for position in batch.positions[1]] == from_the_end
