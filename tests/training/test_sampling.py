"""The order of sources and rows: shares, epochs, and positions that are saved and loaded."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.batching.sampler import LengthBatchSampler
from lengthwise.training.sampling import GroupSampler, LengthSampler, due_sources, source_seed

SHARES = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


@given(shares=SHARES, rounds=st.integers(1, 300))
def test_each_source_gets_its_part_of_the_rounds(shares: list[float], rounds: int) -> None:
    due = [due_sources(shares, number) for number in range(rounds)]
    counts = np.bincount([source for sources in due for source in sources], minlength=len(shares))
    assert counts[np.argmax(shares)] == rounds
    assert (np.abs(counts - rounds * np.array(shares) / max(shares)) <= 1).all()


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(2, 60),
    group=st.integers(2, 20),
    window=st.none() | st.integers(1, 5),
    seed=st.integers(0, 99),
    taken=st.integers(0, 40),
)
def test_groups_are_disjoint_within_an_epoch_and_resume(
    rows: int, group: int, window: int | None, seed: int, taken: int
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 9, (2, rows))
    sampler = GroupSampler(lengths, group, seed, window)
    first = np.concatenate([sampler.next() for _ in range(sampler.batches)])
    assert len(set(first.tolist())) == len(first) > rows - group
    assert sampler.epoch == 0
    for _ in range(taken):
        sampler.next()
    resumed = GroupSampler(lengths, group, seed, window)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    for _ in range(5):
        np.testing.assert_array_equal(sampler.next(), resumed.next())
    assert sampler.epoch == resumed.epoch


@settings(max_examples=50, deadline=None)
@given(
    kinds=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    group=st.integers(2, 20),
    window=st.none() | st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_groups_have_one_kind_and_what_is_left_is_mixed(
    kinds: list[int], group: int, window: int | None, seed: int
) -> None:
    of_rows = np.array(kinds, np.int64)
    lengths = np.random.default_rng(seed).integers(1, 9, (2, len(kinds)))
    sampler = GroupSampler(lengths, group, seed, window, of_rows)
    for _ in range(2):
        groups = [sampler.next() for _ in range(sampler.batches)]
        assert len(np.unique(np.concatenate(groups))) == len(groups) * min(group, len(kinds))
        pure = [of_rows[rows[0]] for rows in groups if len(np.unique(of_rows[rows])) == 1]
        for kind, count in zip(*np.unique(of_rows, return_counts=True), strict=True):
            assert pure.count(kind) >= count // group
    assert sampler.epoch == 1


def test_groups_of_a_window_have_few_lengths_and_change_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 11, (2, 10_000))

    def spread(window: int | None) -> float:
        sampler = GroupSampler(lengths, 25, 0, window)
        found = [sampler.next() for _ in range(2 * sampler.batches)]
        assert not {tuple(sorted(group)) for group in found[:400]} & {tuple(sorted(group)) for group in found[400:]}
        return float(np.mean([len(np.unique(lengths[:, group])) for group in found]))

    assert spread(4) < 4 < 9 < spread(None)


def test_length_batches_go_on_over_epochs_and_resume() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 100)

    def make() -> LengthSampler:
        return LengthSampler(LengthBatchSampler(lengths, max_tokens=24, seed=3))

    sampler = make()
    epoch = np.concatenate([sampler.next() for _ in range(sampler.batches)])
    assert sorted(epoch.tolist()) == list(range(100))
    assert sampler.epoch == 0
    for _ in range(7):
        sampler.next()
    assert sampler.epoch == 1
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    for _ in range(100):
        np.testing.assert_array_equal(sampler.next(), resumed.next())
        assert sampler.epoch == resumed.epoch


def test_seeds_of_sources_differ() -> None:
    seeds = {source_seed(seed, number) for seed in range(10) for number in range(10)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
