"""A teacher is run on batches of one length, and its vectors come back in the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lengthwise.training.equal_lengths as module
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.training.equal_lengths import encode_equal_lengths


def ragged(lengths: list[int]) -> RaggedTokens:
    no = np.zeros(len(lengths), np.bool_)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RaggedTokens(np.arange(offsets[-1], dtype=np.int32), offsets, no, no)


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 6), max_size=30), workers=st.integers(1, 3), max_tokens=st.integers(1, 20))
def test_vectors_keep_the_order_of_the_rows(lengths: list[int], workers: int, max_tokens: int) -> None:
    tokens, sizes = ragged(lengths), list[int]()

    def run(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        sizes.append(ids.size)
        return np.stack([ids.sum(axis=1), np.full(len(ids), ids.shape[1])], axis=1).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_TOKENS", max_tokens)
        vectors = encode_equal_lengths(tokens, run, workers)
    assert vectors.shape == (len(lengths), 2)
    assert vectors.dtype == np.float32
    expected = [(tokens.row(row).sum(), length) for row, length in enumerate(lengths)]
    np.testing.assert_array_equal(vectors, np.array(expected, np.float32).reshape(-1, 2))
    assert all(size <= max(max_tokens, max(lengths, default=1)) for size in sizes)


def test_failure_of_the_teacher_is_raised() -> None:
    def run(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        raise ValueError("out of range")

    with pytest.raises(ValueError, match="out of range"):
        encode_equal_lengths(ragged([1, 2]), run, 2)
