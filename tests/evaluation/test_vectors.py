"""Vectors of texts: encoded once, of length 1, refused where they are wrong; and exact search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.errors import LengthwiseError
from lengthwise.evaluation.vectors import VectorCache, nearest


def test_each_text_is_encoded_once() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> NDArray[np.float64]:
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts])

    cache = VectorCache(encode, "lengths")
    first = cache(["a", "bb", "a"])
    second = cache(["bb", "ccc"])
    assert asked == ["a", "bb", "ccc"]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], second[0])
    np.testing.assert_allclose(np.linalg.norm(second, axis=1), 1, rtol=1e-6)
    assert cache.dim == 2
    assert cache([]).shape == (0, 2)


def test_zeros_stay_zeros() -> None:
    assert not VectorCache(lambda texts: np.zeros((len(texts), 3)), "zeros")(["a"]).any()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(2), "gave vectors of shape \\[2\\] for 2 texts"),
        (np.zeros((3, 2)), "gave vectors of shape \\[3, 2\\] for 2 texts"),
        (np.array([[0, 0], [0, np.nan]]), "the vector of 'b' is not finite"),
    ],
)
def test_what_is_no_vector_per_text_is_refused(vectors: NDArray[np.float64], message: str) -> None:
    with pytest.raises(LengthwiseError, match=f"broken: {message}"):
        VectorCache(lambda texts: vectors, "broken")(["a", "b"])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32))
def test_the_nearest_are_those_of_a_full_sort(queries: int, documents: int, depth: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    left = generator.integers(-1, 2, (queries, 2)).astype(np.float32)  # with many equal cosines
    right = generator.integers(-1, 2, (documents, 2)).astype(np.float32)
    scores, rows = nearest(left, right, depth)
    expected = left @ right.T
    for query in range(queries):
        order = sorted(range(documents), key=lambda row: (-expected[query, row], row))[:depth]
        assert rows[query].tolist() == order
        assert scores[query].tolist() == [expected[query, row] for row in order]


def test_more_queries_than_a_block() -> None:
    documents = np.eye(3, dtype=np.float32)
    queries = np.tile(documents, (800, 1))
    assert nearest(queries, documents, 1)[1][:, 0].tolist() == [0, 1, 2] * 800
