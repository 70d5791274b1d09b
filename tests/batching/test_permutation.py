"""A permutation that is computed where it is needed: a bijection, in parts or whole, and random enough."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.batching.permutation import Permutation


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3_000), st.integers(0, 2**64), st.integers(1, 700))
def test_parts_make_up_a_bijection(size: int, seed: int, part: int) -> None:
    permutation = Permutation(size, seed)
    whole = permutation.part(0, size)
    assert len(permutation) == size
    assert sorted(whole.tolist()) == list(range(size))
    parts = [permutation.part(start, start + part).tolist() for start in range(0, size, part)]
    assert [number for part in parts for number in part] == whole.tolist()


def test_every_number_is_as_often_at_every_place() -> None:
    counts = np.zeros((11, 11))
    for seed in range(3_000):
        counts[np.arange(11), Permutation(11, seed).part(0, 11)] += 1
    expected = 3_000 / 11
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()


def test_neighbours_are_torn_apart() -> None:
    order = Permutation(100_000, (1, 2)).part(0, 100_000)
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    assert abs(np.abs(np.diff(order)).mean() / 100_000 - 1 / 3) < 0.01


def test_seeds_give_different_orders() -> None:
    orders = {tuple(Permutation(20, (seed, epoch)).part(0, 20)) for seed in range(9) for epoch in range(9)}
    assert len(orders) == 81
