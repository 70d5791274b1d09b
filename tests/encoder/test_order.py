"""Batches in any order, for an encoder that requires descending lengths."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.batching.plan import plan_batches
from lengthwise.encoder.order import encode_longest_first


def batch_of(lengths: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    input_ids = np.arange(len(lengths) * max(lengths), dtype=np.int64).reshape(len(lengths), -1)
    return input_ids, np.array(lengths, np.int64)


def encode_descending(input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    assert (np.diff(lengths) <= 0).all()
    return np.stack([input_ids[:, 0], lengths], axis=1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_vectors_are_in_input_order(lengths: list[int]) -> None:
    input_ids, batch_lengths = batch_of(lengths)
    found = encode_longest_first(encode_descending, input_ids, batch_lengths)
    np.testing.assert_array_equal(found, np.stack([input_ids[:, 0], batch_lengths], axis=1))
    assert found.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_planned_batch_is_not_copied(lengths: list[int]) -> None:
    all_lengths = np.array(lengths, np.int64)
    for rows in plan_batches(all_lengths):
        batch = batch_of(all_lengths[rows].tolist())
        received: list[object] = []
        encode_longest_first(lambda *arrays: received.extend(arrays) or encode_descending(*arrays), *batch)  # noqa: B023
        assert received[0] is batch[0]
        assert received[1] is batch[1]
