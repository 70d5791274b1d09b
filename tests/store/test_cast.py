"""Vectors in their stored type: failures are found, and no second array is allocated."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.store.cast import cast_vectors

values = st.sampled_from([0.0, 1.5, -2.25, 65504.0, -65504.0, 65505.0, -70000.0, 3e38, np.inf, -np.inf, np.nan])


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(values, values, values), max_size=12),
    values_per_slice=st.integers(1, 20),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_cast_vectors_equals_casting_whole_arrays(
    rows: list[tuple[float, ...]], values_per_slice: int, dtype: str
) -> None:
    vectors = np.array(rows, np.float32).reshape(-1, 3)
    fits = (np.abs(vectors) <= np.finfo(dtype).max).all(axis=1)
    expected = np.where(fits[:, None], vectors, 0).astype(dtype)
    finite = np.isfinite(vectors).all(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lengthwise.store.cast._SLICE", values_per_slice)
        stored, found = cast_vectors(vectors, dtype)
    np.testing.assert_array_equal(stored, expected)
    assert stored.dtype == dtype
    assert list(found) == np.flatnonzero(~fits).tolist()
    for row, reason in found.items():
        expected_reason = "values beyond" if finite[row] else "is not finite"
        assert expected_reason in reason


def test_cast_vectors_names_the_reason() -> None:
    _, found = cast_vectors(np.array([[70_000, 0], [np.nan, 0]], np.float32), "float16")
    assert found == {
        0: "its vector has values beyond 65504, the largest that float16 holds",
        1: "its vector is not finite, which damaged weights cause",
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cast_vectors_allocates_no_second_array(dtype: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(20_000, 300)).astype(np.float32)
    expected = vectors.astype(dtype)
    tracemalloc.start()
    try:
        stored, found = cast_vectors(vectors, dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(stored, expected)
    assert not found
    assert np.shares_memory(stored, vectors)
    assert peak < vectors.nbytes / 10
