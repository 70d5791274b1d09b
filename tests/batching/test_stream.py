"""iter_batches: every row once per epoch, from any dataset, over workers, ranks and interruptions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from helpers.texts import TEXTS
from lengthwise.batching.collate import collate, unpack
from lengthwise.batching.sampler import LengthBatchSampler
from lengthwise.batching.stream import BatchStream, iter_batches
from lengthwise.config import TokenizationSettings
from lengthwise.errors import BatchError, TextError
from lengthwise.tokens.tokenizer import TextTokenizer

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(0, 12, 400).tolist()
ROWS = [{"input_ids": [row % 50] * length, "label": row} for row, length in enumerate(LENGTHS)]


class Repeatable:
    """Rows that can be iterated over and nothing else."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


KINDS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "iterable": Repeatable,
    "Dataset": datasets.Dataset.from_list,
    "IterableDataset": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3),
}


def row_numbers(stream: Any) -> list[list[int]]:
    return [batch.rows.tolist() for batch in stream]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_is_in_one_batch_per_epoch(kind: str, shuffle: bool) -> None:
    stream = iter_batches(KINDS[kind](ROWS), max_tokens=60, buffer_rows=100, epochs=3, shuffle=shuffle)
    seen: Counter[int] = Counter()
    orders = set()
    iterator = iter(stream)
    for epoch in range(3):
        order: list[int] = []
        while len(order) < np.count_nonzero(LENGTHS):
            batch = next(iterator)
            assert stream.epoch == epoch
            labels = batch["label"].tolist()
            order += labels
            if not (shuffle and kind == "IterableDataset"):  # which changes the order of its shards
                assert labels == batch.rows.tolist()
            assert [row.tolist() for row in unpack(batch["input_ids"])] == [ROWS[row]["input_ids"] for row in labels]
            assert len(batch.rows) * int(batch["lengths"].max()) <= 60
        seen.update(order)
        orders.add(tuple(order))
    assert next(iterator, None) is None
    assert set(seen) == set(np.flatnonzero(LENGTHS).tolist())
    assert set(seen.values()) == {3}
    assert len(orders) == (3 if shuffle else 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 1, 2, 3, 7, 40]), max_size=90),
    st.integers(1, 60),
    st.integers(1, 50),
    st.integers(1, 7),
    st.integers(0, 99),
    st.data(),
)
def test_ranks_and_interruptions_lose_and_repeat_nothing(
    lengths: list[int], max_tokens: int, buffer_rows: int, ranks: int, seed: int, data: st.DataObject
) -> None:
    rows = [[row % 9] * length for row, length in enumerate(lengths)]
    dataset = Repeatable(rows) if data.draw(st.booleans()) else rows

    def make(rank: int) -> BatchStream:
        limits: dict[str, Any] = {"max_tokens": max_tokens, "buffer_rows": buffer_rows, "seed": seed}
        return iter_batches(dataset, epochs=2, num_replicas=ranks, rank=rank, **limits)

    epochs = [row_numbers(make(rank)) for rank in range(ranks)]
    assert len({len(batches) for batches in epochs}) == 1
    found = Counter(row for batches in epochs for row in flat(batches))
    expected = [row for row, length in enumerate(lengths) if length]
    assert set(found) == set(expected)
    # Where fewer rows than ranks are in the buffer, rows are repeated, as the ranks need a batch each.
    assert found.total() == 2 * len(expected) or ranks > 1
    rank = data.draw(st.integers(0, ranks - 1))
    taken = data.draw(st.integers(0, len(epochs[rank])))
    stream, other = make(rank), make(rank)
    iterator = iter(stream)
    for _ in range(taken):
        next(iterator)
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert row_numbers(other) == epochs[rank][taken:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_workers_divide_the_rows_and_continue(kind: str, workers: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def make() -> Any:
        stream = iter_batches(KINDS[kind](ROWS), max_tokens=60, buffer_rows=70)
        return torchdata.StatefulDataLoader(stream, batch_size=None, num_workers=workers)

    whole = row_numbers(make())
    assert sorted(flat(whole)) == np.flatnonzero(LENGTHS).tolist()
    loader, other = make(), make()
    iterator = iter(loader)
    for _ in range(23):
        next(iterator)
    other.load_state_dict(loader.state_dict())
    assert row_numbers(other) == whole[23:]


def test_ranks_get_batches_of_the_same_steps() -> None:
    rows = [[1] * length for length in GENERATOR.integers(1, 9, 4_000).tolist()]
    options: dict[str, Any] = {"max_tokens": 80, "buffer_rows": 500, "num_replicas": 3}
    ranks = [list(iter_batches(rows, rank=rank, **options)) for rank in range(3)]
    tokens = np.array([[int(batch["lengths"].sum()) for batch in batches] for batches in ranks])
    assert tokens.shape[1] > 60
    assert np.mean(tokens.max(0) / tokens.mean(0) > 1.02) < 0.05


def test_texts_are_tokenized_as_the_settings_say(tokenizer: TextTokenizer) -> None:
    data = datasets.Dataset.from_dict({"text": list(TEXTS), "label": list(range(len(TEXTS)))})
    ids = {text: encoding.ids for text, encoding in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True)}
    for batch in iter_batches(data, tokenizer, batch_size=3, max_tokens=None):
        assert set(batch) == {"input_ids", "lengths", "label"}
        assert [row.tolist() for row in unpack(batch["input_ids"])] == [ids[TEXTS[row]] for row in batch["label"]]
    cut = TokenizationSettings(max_length=3, truncate=True)
    lengths = torch.cat([batch["lengths"] for batch in iter_batches(list(TEXTS), tokenizer, tokenization=cut)])
    assert lengths.max() == 3
    padded = partial(collate, packed=False)
    (batch,) = iter_batches(["moon", "moon"], tokenizer, collate_fn=padded)
    assert batch["attention_mask"].tolist() == [[1], [1]]


def test_the_buffer_bounds_what_is_read_ahead(tokenizer: TextTokenizer) -> None:
    read = 0

    class Endless:
        def __iter__(self) -> Iterator[list[int]]:
            nonlocal read
            while True:
                read += 1
                yield [1] * (1 + read % 7)

    taken = 0
    for number, batch in enumerate(iter_batches(Endless(), max_tokens=28, buffer_rows=300)):
        taken += len(batch.rows)
        assert read - taken <= 300
        if number == 500:
            break


def test_a_small_buffer_costs_little_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(2.7, 0.6, 30_000).astype(int).clip(1, 120)
    batches = list(iter_batches([[1] * length for length in lengths], buffer_rows=5_000, max_tokens=1_024))
    cells = sum(len(batch.rows) * int(batch["lengths"].max()) for batch in batches)
    assert sum(int(batch["lengths"].sum()) for batch in batches) == lengths.sum()
    planned = LengthBatchSampler(lengths, max_tokens=1_024).report()
    assert 1 - lengths.sum() / cells <= planned.padding + 0.02
    equal = sum(len(batch.rows) for batch in batches if len(set(batch["lengths"].tolist())) == 1)
    assert equal / len(lengths) > 0.95


def test_feature_vectors_are_streamed() -> None:
    frames = [np.full((length, 3), row, np.float32) for row, length in enumerate(LENGTHS)]
    pack = partial(collate, sequence="frames")
    stream = iter_batches([{"frames": frame} for frame in frames], column="frames", collate_fn=pack, max_tokens=50)
    found = [int(row[0, 0]) for batch in stream for row in unpack(batch["frames"])]
    assert sorted(found) == np.flatnonzero(LENGTHS).tolist()


def test_epochs_go_on_for_ever_or_start_where_they_are_set() -> None:
    rows = [[1], [2], [3]]
    endless = iter(iter_batches(rows, epochs=None))
    assert sum(len(next(endless).rows) for _ in range(20)) == 60
    stream = iter_batches([[number] for number in range(50)], batch_size=4)
    first, second = row_numbers(stream), row_numbers(stream)
    assert first != second
    stream.set_epoch(0)
    assert row_numbers(stream) == first
    fresh = iter_batches([[number] for number in range(50)], batch_size=4)
    fresh.set_epoch(1)
    assert row_numbers(DataLoader(fresh, batch_size=None, num_workers=1)) == second


def test_bad_rows_are_named(tokenizer: TextTokenizer) -> None:
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        ([{"input_ids": [1]}, {"ids": [1]}], None, BatchError, "row 1 has no column 'input_ids'; it has ids"),
        ([[1], None], None, BatchError, "row 1: 'input_ids' is None, not a sequence"),
        (["some text"], None, BatchError, "row 0: .* not a sequence; pass a tokenizer for texts"),
        (["moon", None], tokenizer, TextError, "row 1: null"),
        ([[1], [1, -2]], None, BatchError, "row 1, token 1: the id is -2"),
        (iter([[1]]), None, BatchError, "an iterator, which can be read once only"),
    ]
    for dataset, tokens, kind, message in cases:
        with pytest.raises(kind, match=message):
            list(iter_batches(dataset, tokens, shuffle=False))
    with pytest.raises(BatchError, match=r"row 2, token 0: the id is 9, but the vocabulary has 9"):
        list(iter_batches([[1], [2], [9]], collate_fn=partial(collate, vocab_size=9)))
    for options, message in (({"epochs": 0}, "epochs is 0"), ({"buffer_rows": 0}, "buffer_rows is 0")):
        with pytest.raises(BatchError, match=message):
            iter_batches([[1]], **options)


def test_a_state_of_other_rows_is_refused() -> None:
    rows = [[1] * (1 + row % 5) for row in range(60)]
    stream = iter_batches(rows, max_tokens=20, buffer_rows=30, shuffle=False)
    iterator = iter(stream)
    for _ in range(2):
        next(iterator)
    state = stream.state_dict()
    changed = [*rows[:3], [1] * 9, *rows[4:]]
    other = iter_batches(changed, max_tokens=20, buffer_rows=30, shuffle=False)
    other.load_state_dict(state)
    with pytest.raises(BatchError, match="row 3 has 9 tokens, and had 4 when the state was saved"):
        list(other)
    with pytest.raises(BatchError, match="rows in the dataset: 59 here, 60 in the saved state"):
        iter_batches(rows[1:], max_tokens=20, buffer_rows=30, shuffle=False).load_state_dict(state)
    with pytest.raises(BatchError, match="not the state of a stream"):
        stream.load_state_dict({})
