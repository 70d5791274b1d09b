"""LengthBatchSampler: what every epoch promises, over any lengths, limits, ranks and interruptions."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lengthwise.batching import sampler as sampler_module
from lengthwise.batching.costs import PACKED_CUDA, PADDED, BatchCosts
from lengthwise.batching.sampler import TRAINING, LengthBatchSampler
from lengthwise.errors import BatchError

SKEWED = st.lists(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 7, 40]), max_size=120)
SPREAD = st.lists(st.integers(0, 60), max_size=80)
EQUAL = st.builds(lambda length, rows: [length] * rows, st.integers(0, 9), st.integers(0, 200))
POWER_LAW = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).zipf(1.6, 90).clip(0, 10**6).tolist()
)
LENGTHS = SKEWED | SPREAD | EQUAL | POWER_LAW
COSTS = st.builds(
    BatchCosts,
    max_tokens=st.just(1),
    max_rows=st.just(1),
    step=st.sampled_from([0.0, 4.0, 256.0]),
    mixed=st.sampled_from([1.0, 2.0]),
    pads=st.booleans(),
)
SETTINGS = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 300),
        "batch_size": st.none() | st.integers(1, 20),
        "seed": st.integers(0, 2**40),
        "noise": st.sampled_from([0.0, 0.0, 0.1, 0.7]),
        "costs": COSTS,
    }
)
RANKS = st.integers(1, 7)
properties = settings(max_examples=60, deadline=None)


def by_rank(lengths: list[int], ranks: int, **options: Any) -> list[LengthBatchSampler]:
    return [LengthBatchSampler(lengths, num_replicas=ranks, rank=rank, **options) for rank in range(ranks)]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@properties
@given(LENGTHS, SETTINGS, RANKS, st.integers(0, 5))
def test_every_row_of_a_token_is_in_one_batch_of_one_rank(
    lengths: list[int], options: dict[str, Any], ranks: int, epoch: int
) -> None:
    samplers = by_rank(lengths, ranks, **options)
    epochs = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        promised = len(sampler)
        epochs.append(list(sampler))
        assert len(epochs[-1]) == promised
    assert len({len(batches) for batches in epochs}) == 1
    assert all(batch for batches in epochs for batch in batches)
    rows = flat([batch for batches in epochs for batch in batches])
    expected = [row for row, length in enumerate(lengths) if length]
    samplers[0].set_epoch(epoch)
    repeated = samplers[0].report().repeated
    assert set(rows) == set(expected)
    assert len(rows) == len(expected) + repeated
    if repeated:  # too few rows to give every rank one: no batch could have been split
        assert repeated < ranks
        assert sum(len(batch) > 1 for batches in epochs for batch in batches) == 0


@properties
@given(LENGTHS, SETTINGS, RANKS, st.booleans())
def test_batches_keep_to_their_limits(lengths: list[int], options: dict[str, Any], ranks: int, drop_last: bool) -> None:
    for sampler in by_rank(lengths, ranks, drop_last=drop_last, **options):
        for batch in sampler:
            longest = max(lengths[row] for row in batch)
            assert len(batch) == 1 or len(batch) * longest <= options["max_tokens"]
            assert len(batch) <= (options["batch_size"] or len(batch))


@properties
@given(LENGTHS, SETTINGS, RANKS)
def test_all_ranks_together_are_dealt_step_by_step(lengths: list[int], options: dict[str, Any], ranks: int) -> None:
    together = list(LengthBatchSampler(lengths, num_replicas=ranks, **options))
    each = [list(sampler) for sampler in by_rank(lengths, ranks, **options)]
    assert together == [batch for step in zip(*each, strict=True) for batch in step]


@properties
@given(LENGTHS, SETTINGS, RANKS)
def test_lengths_of_which_every_rank_has_the_same_number_give_all_ranks_the_same_shapes(
    lengths: list[int], options: dict[str, Any], ranks: int
) -> None:
    options["noise"] = 0.0
    shapes = [
        [sorted(lengths[row % len(lengths)] for row in batch) for batch in sampler]
        for sampler in by_rank(lengths * ranks, ranks, **options)
    ]
    assert all(shape == shapes[0] for shape in shapes)


@properties
@given(LENGTHS, SETTINGS, RANKS, st.booleans())
def test_the_same_seed_and_epoch_give_the_same_batches(
    lengths: list[int], options: dict[str, Any], ranks: int, drop_last: bool
) -> None:
    first, second = (
        LengthBatchSampler(array, num_replicas=ranks, rank=0, drop_last=drop_last, **options)
        for array in (lengths, np.array(lengths, np.int32))
    )
    second.set_epoch(3)
    list(second)
    second.set_epoch(0)
    assert list(first) == list(second)


@properties
@given(LENGTHS, SETTINGS, RANKS, st.data())
def test_an_epoch_continues_where_it_was_interrupted(
    lengths: list[int], options: dict[str, Any], ranks: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, ranks - 1))
    sampler = LengthBatchSampler(lengths, num_replicas=ranks, rank=rank, **options)
    sampler.set_epoch(data.draw(st.integers(0, 3)))
    epoch = sampler.epoch
    whole = list(LengthBatchSampler(lengths, num_replicas=ranks, rank=rank, **options)) if epoch == 0 else None
    iterator = iter(sampler)
    taken = data.draw(st.integers(0, len(sampler)))
    before = [next(iterator) for _ in range(taken)]
    state = json.loads(json.dumps(sampler.state_dict()))
    rest = list(iterator)
    assert whole in (None, before + rest)
    other = LengthBatchSampler(lengths, num_replicas=ranks, rank=rank, **options)
    other.load_state_dict(state)
    other.set_epoch(epoch)  # as a training loop does at the beginning of each epoch
    assert list(other) == rest
    assert list(other) == list(sampler)  # the epoch after


@properties
@given(LENGTHS, SETTINGS, RANKS)
def test_drop_last_drops_less_than_a_step_and_keeps_full_batches_only(
    lengths: list[int], options: dict[str, Any], ranks: int
) -> None:
    sampler = LengthBatchSampler(lengths, num_replicas=ranks, drop_last=True, **options)
    batches = list(sampler)
    rows = flat(batches)
    assert len(rows) == len(set(rows))
    dropped = [lengths[row] for row in set(range(len(lengths))) - set(rows) if lengths[row]]
    if dropped:
        assert len(dropped) < ranks * sampler.costs.max_batch_rows(min(dropped))
    if not options["noise"]:
        for start in range(0, len(batches), ranks):
            step = batches[start : start + ranks]
            longest = max(lengths[row] for batch in step for row in batch)
            assert {len(batch) for batch in step} == {sampler.costs.max_batch_rows(longest)}


@properties
@given(SKEWED, st.integers(1, 300), st.integers(0, 5))
def test_a_length_with_enough_rows_is_never_mixed(lengths: list[int], max_tokens: int, seed: int) -> None:
    sampler = LengthBatchSampler(lengths, max_tokens=max_tokens, seed=seed)
    for batch in sampler:
        found = {lengths[row] for row in batch}
        if len(found) > 1:
            assert all(lengths.count(length) < max_tokens // length for length in found)


def test_rows_and_batches_are_in_random_order_anew_in_every_epoch() -> None:
    sampler = LengthBatchSampler([5] * 4_000, max_tokens=100)
    first, second = list(sampler), list(sampler)
    assert first != second
    assert sampler.epoch == 2
    order = np.array(flat(first))
    assert abs(np.corrcoef(order, np.arange(4_000))[0, 1]) < 0.1
    report = sampler.report()
    assert report.travel == pytest.approx(1 / 3, abs=0.03)
    assert report.companions == pytest.approx(19 / 3_999, abs=0.002)


@pytest.mark.parametrize(("ranks", "rank"), [(1, None), (3, None), (3, 1)])
def test_the_mean_of_rows_is_that_of_all_batches(ranks: int, rank: int | None) -> None:
    lengths = [0, *np.random.default_rng(0).integers(1, 20, 500)]
    sampler = LengthBatchSampler(lengths, max_tokens=100, num_replicas=ranks, rank=rank)
    batches = list(LengthBatchSampler(lengths, max_tokens=100, num_replicas=ranks, rank=None))
    assert sampler.mean_rows == pytest.approx(500 / len(batches))
    assert LengthBatchSampler([], max_tokens=1).mean_rows == 0


def test_without_shuffling_long_batches_come_first_and_rows_keep_their_order() -> None:
    lengths = [3, 9, 3, 9, 0, 3, 9, 1]
    sampler = LengthBatchSampler(lengths, max_tokens=18, shuffle=False, costs=PADDED)
    assert list(sampler) == [[1, 3], [6], [0, 2, 5], [7]]
    assert list(sampler) == [[1, 3], [6], [0, 2, 5], [7]]


def test_the_costs_decide_which_lengths_are_mixed() -> None:
    lengths = list(range(10, 42)) * 4
    on_cpu, on_gpu = (LengthBatchSampler(lengths, max_tokens=4_096, costs=costs) for costs in (TRAINING, PACKED_CUDA))
    assert on_cpu.report().equal_share == 1.0
    assert on_gpu.report().equal_share < 0.1
    assert len(on_gpu) < len(on_cpu) / 5


def test_noise_gives_rows_other_companions_for_some_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 6_000)
    reports = [LengthBatchSampler(lengths, max_tokens=4_096, noise=noise).report() for noise in (0.0, 0.1, 0.5)]
    assert [report.equal_share for report in reports] == [1.0, pytest.approx(0, abs=0.05), pytest.approx(0, abs=0.05)]
    assert reports[0].padding == 0.0
    assert 0.02 < reports[1].padding < 0.15 < reports[2].padding < 0.5
    companions = [report.companions or 0 for report in reports]
    assert companions[0] > 2 * companions[1] > 2 * companions[2]


def test_planning_takes_no_python_call_per_row() -> None:
    generator = np.random.default_rng(0)
    for lengths in (generator.poisson(18, 100_000), np.full(100_000, 9), generator.zipf(1.5, 100_000)):
        sampler = LengthBatchSampler(lengths.clip(0, 10**6), max_tokens=4_096)
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            assert len(sampler) > 0
        finally:
            sys.setprofile(None)
        assert calls < len(lengths)


@pytest.mark.parametrize("shuffle", [True, False])
def test_windows_of_a_large_dataset_are_planned_one_by_one(shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "WINDOW_ROWS", 100)
    lengths = np.random.default_rng(0).integers(0, 12, 1_037)
    options: dict[str, Any] = {"max_tokens": 60, "num_replicas": 3, "rank": 1, "shuffle": shuffle}
    samplers = [LengthBatchSampler(lengths, **{**options, "rank": rank}) for rank in range(3)]
    promised = len(samplers[0])
    epochs = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in epochs] == [promised] * 3
    rows = flat([batch for batches in epochs for batch in batches])
    assert sorted(set(rows)) == np.flatnonzero(lengths).tolist()
    samplers[0].set_epoch(0)
    assert len(rows) == np.count_nonzero(lengths) + samplers[0].report().repeated
    if shuffle:
        assert LengthBatchSampler(lengths, **options).report().travel == pytest.approx(1 / 3, abs=0.03)
    for taken in (0, 1, 40, len(epochs[1])):
        sampler, other = (LengthBatchSampler(lengths, **options) for _ in range(2))
        iterator = iter(sampler)
        for _ in range(taken):
            next(iterator)
        other.load_state_dict(sampler.state_dict())
        assert list(other) == epochs[1][taken:]
        skipping = LengthBatchSampler(lengths, **options)
        skipping.skip(taken)
        assert list(skipping) == epochs[1][taken:]
    with pytest.raises(BatchError, match=f"cannot skip {len(epochs[1]) + 1} batches: epoch 0 has {len(epochs[1])}"):
        LengthBatchSampler(lengths, **options).skip(len(epochs[1]) + 1)


def test_a_restarted_epoch_begins_at_its_beginning() -> None:
    sampler = LengthBatchSampler([4] * 50, max_tokens=20)
    iterator = iter(sampler)
    first = [next(iterator) for _ in range(3)]
    again = iter(sampler)
    assert [next(again) for _ in range(3)] == first
    assert sampler.state_dict()["batch"] == 3
    sampler.set_epoch(7)
    assert sampler.state_dict()["batch"] == 0
    assert list(again)[-1]  # an iterator ends the epoch it began with
    assert sampler.epoch == 7


def test_report_names_rows_beyond_the_budget_and_counts_empty_ones() -> None:
    report = LengthBatchSampler([5, 30, 0, 5, 21, 0, 7], max_tokens=20, shuffle=False).report()
    assert (report.over_budget, report.num_over_budget, report.empty, report.batches) == ((1, 4), 2, 2, 4)
    text = str(report)
    assert "over budget    2 rows are longer than max_tokens, alone: 1, 4" in text
    assert "empty          2 rows" in text
    assert "padding        0.00% of the cells" in text
    many = LengthBatchSampler([30] * 9, max_tokens=20).report()
    assert "alone: 0, 1, 2, 3, 4, ..." in str(many)


def test_report_counts_what_a_naive_count_gives() -> None:
    lengths = np.random.default_rng(1).integers(0, 40, 500)
    sampler = LengthBatchSampler(lengths, max_tokens=200, num_replicas=3, noise=0.2)
    report, batches = sampler.report(), list(sampler)
    costs = []
    for batch in batches:
        found = lengths[batch]
        work = int(found.sum()) + 4 * int(found.max())
        costs.append(work * (1.0 if len(set(found.tolist())) == 1 else 2.0))
    steps = np.array(costs).reshape(-1, 3)
    assert report.tokens == lengths[flat(batches)].sum()
    assert report.cells == sum(len(batch) * lengths[batch].max() for batch in batches)
    assert report.equal_tokens == sum(lengths[b].sum() for b in batches if len(set(lengths[b].tolist())) == 1)
    assert report.cost == pytest.approx(sum(costs))
    assert report.imbalance == pytest.approx((steps.max(1) / steps.mean(1)).max())
    assert report.waiting == pytest.approx(1 - steps.mean(1).sum() / steps.max(1).sum())
    following = list(sampler)
    batch_of = {row: number for number, batch in enumerate(following) for row in batch}
    shares = [
        sum(batch_of[other] == batch_of[row] for other in batch if other != row) / (len(batch) - 1)
        for batch in batches
        if len(batch) > 1
        for row in batch
    ]
    assert report.companions == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
def test_the_costs_of_a_step_are_balanced(ranks: int) -> None:
    lengths = np.random.default_rng(0).lognormal(2.8, 0.6, 60_000).astype(int).clip(1, 400)
    report = LengthBatchSampler(lengths, max_tokens=4_096, num_replicas=ranks).report()
    assert report.imbalance <= 1.02
    assert report.waiting <= 0.001
    assert report.padding <= 0.025


def test_data_loader_takes_it_with_and_without_workers() -> None:
    lengths = [3, 5, 3, 5, 3, 9, 5]
    dataset = [torch.full((length,), row) for row, length in enumerate(lengths)]
    sampler = LengthBatchSampler(lengths, max_tokens=15)
    expected = list(LengthBatchSampler(lengths, max_tokens=15))
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers)  # default_collate needs equal lengths
        assert len(loader) == len(expected)
        sampler.set_epoch(0)
        assert [batch[:, 0].tolist() for batch in loader] == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_stateful_data_loader_continues_in_the_middle_of_an_epoch(workers: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    lengths = np.random.default_rng(0).integers(1, 9, 300).tolist()

    def make() -> tuple[LengthBatchSampler, Any]:
        sampler = LengthBatchSampler(lengths, max_tokens=24)
        loader = torchdata.StatefulDataLoader(
            list(range(300)), batch_sampler=sampler, num_workers=workers, collate_fn=list
        )
        return sampler, loader

    _, loader = make()
    epochs = [list(loader), list(loader)]
    assert epochs[0] != epochs[1]
    for epoch, taken in ((0, 0), (0, 1), (0, 17), (1, 29)):
        sampler, loader = make()
        sampler.set_epoch(epoch)
        iterator = iter(loader)
        for _ in range(taken):
            next(iterator)
        state = loader.state_dict()
        _, other = make()
        other.load_state_dict(state)
        assert list(other) == epochs[epoch][taken:]
        if epoch == 0:
            assert list(other) == epochs[1]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, None, 2], "row 1: the length is missing"),
        ([3, float("nan")], "row 1: the length is missing"),
        ([3, 2, -1], "row 2: the length is -1"),
        ([3.5], "row 0: the length is 3.5"),
        (["3"], "row 0: the length is '3'"),
        ([[1, 2]], r"lengths have shape \(1, 2\)"),
    ],
)
def test_bad_lengths_are_refused_by_row(lengths: Any, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        LengthBatchSampler(lengths, max_tokens=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither max_tokens nor batch_size"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"max_tokens": 9, "num_replicas": 0}, "num_replicas is 0"),
        ({"max_tokens": 9, "num_replicas": 2, "rank": 2}, "rank is 2, but num_replicas is 2; ranks are 0 to 1"),
        ({"max_tokens": 9, "rank": 1}, "rank is 1"),
        ({"max_tokens": 9, "seed": -1}, "seed is -1"),
        ({"max_tokens": 9, "noise": 1.0}, "noise is 1.0"),
        ({"max_tokens": 9, "noise": 0.1, "shuffle": False}, "noise is 0.1, but shuffle is False"),
    ],
)
def test_contradicting_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        LengthBatchSampler([1, 2], **options)


def test_lengths_of_any_kind_are_taken() -> None:
    expected = list(LengthBatchSampler([3, 5, 3], max_tokens=10))
    for lengths in ((3, 5, 3), np.array([3, 5, 3], np.uint8), torch.tensor([3, 5, 3]), [3.0, 5.0, 3.0]):
        assert list(LengthBatchSampler(lengths, max_tokens=10)) == expected


def test_a_state_of_another_dataset_or_of_other_settings_is_refused() -> None:
    lengths = list(range(1, 31))
    state = LengthBatchSampler(lengths, max_tokens=60).state_dict()
    for changed, message in (
        ([*lengths[:7], 99, *lengths[8:]], "row 7 has one length here and another in the saved state"),
        (lengths[:-1], "there are 29 lengths here and 30 in the saved state"),
    ):
        with pytest.raises(BatchError, match=message):
            LengthBatchSampler(changed, max_tokens=60).load_state_dict(state)
    with pytest.raises(BatchError, match="max_tokens is 50 here and 60 in the saved state"):
        LengthBatchSampler(lengths, max_tokens=50).load_state_dict(state)
    with pytest.raises(BatchError, match="num_replicas is 2 here and 1 in the saved state"):
        LengthBatchSampler(lengths, max_tokens=60, num_replicas=2, rank=0).load_state_dict(state)
    with pytest.raises(BatchError, match="not the state of a LengthBatchSampler"):
        LengthBatchSampler(lengths, max_tokens=60).load_state_dict({"epoch": 1})
    many = np.arange(1, 10_001)
    changed = many.copy()
    changed[5_000] += 1
    with pytest.raises(BatchError, match="one of rows 5000 to 5155 has one length here"):
        LengthBatchSampler(changed, max_tokens=60).load_state_dict(LengthBatchSampler(many, max_tokens=60).state_dict())


RANKS_PROGRAM = """
import sys, torch.distributed as distributed
from lengthwise.batching.sampler import LengthBatchSampler
rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
for change in ("nothing", "seed", "lengths"):
    lengths = [1, 2, 3 + (rank if change == "lengths" else 0)]
    sampler = LengthBatchSampler(lengths, max_tokens=9, seed=rank if change == "seed" else 0, num_replicas=2, rank=rank)
    try:
        sampler.check_ranks()
        print("agree")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_ranks_that_would_plan_differently_are_found(unused_port: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS_PROGRAM, str(rank), str(unused_port)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        agreed, seed, lengths = output.splitlines()
        assert agreed == "agree"
        assert seed.startswith("BatchError the ranks disagree: seed is 1 on rank 1 and 0 on rank 0")
        assert lengths.startswith("BatchError the ranks disagree: row 2 has one length on rank 1 and another on rank 0")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_planning_needs_no_torch() -> None:
    program = (
        "import sys; from lengthwise.batching.sampler import LengthBatchSampler\n"
        "print(len(LengthBatchSampler([1, 2, 2], max_tokens=4)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
