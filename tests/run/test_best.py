"""The best rows of blocks of scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.run.best import BestRows


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.lists(st.integers(0, 90), max_size=4), st.integers(0, 2**32 - 1))
def test_blocks_give_what_sorting_all_scores_gives(queries: int, top: int, sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    blocks = [random.integers(-3, 4, (queries, size)).astype(np.float32) for size in sizes]  # with many ties
    best, row = BestRows(queries, top), 0
    for block in blocks:
        best.add(block, np.arange(row, row + block.shape[1]))
        row += block.shape[1]
    scores = np.concatenate([np.empty((queries, 0), np.float32), *blocks], axis=1)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    np.testing.assert_array_equal(best.rows, rows)
    np.testing.assert_array_equal(best.scores, np.take_along_axis(scores, rows, axis=1))


def test_each_query_may_have_its_own_rows() -> None:
    best = BestRows(2, 2)
    best.add(np.array([[1, 3, 3], [0, 2, 1]], np.float32), np.array([[7, 9, 8], [4, 5, 6]]))
    assert best.rows.tolist() == [[8, 9], [5, 6]]


def test_sets_of_queries_are_stacked() -> None:
    parts = [BestRows(1, 2), BestRows(2, 2)]
    for part, scores in zip(parts, ([[1, 2]], [[4, 3], [5, 6]]), strict=True):
        part.add(np.array(scores, np.float32), np.arange(2))
    assert BestRows.stack(parts, 2).rows.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert BestRows.stack([], 2).rows.shape == (0, 0)
