"""collate and unpack: against PyTorch's own packing and padding, and errors that name the row."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.utils.data import DataLoader

from lengthwise.batching.collate import Batch, collate, unpack
from lengthwise.errors import BatchError

ROWS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=12)
KINDS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "int32": partial(np.array, dtype=np.int32),
    "tensor": torch.tensor,
}
properties = settings(max_examples=80, deadline=None)


@properties
@given(ROWS, st.sampled_from(sorted(KINDS)))
def test_packed_ids_are_those_of_pack_sequence(rows: list[list[int]], kind: str) -> None:
    batch = collate([{"input_ids": KINDS[kind](row)} for row in rows])
    ours, theirs = batch["input_ids"], pack_sequence([torch.tensor(row) for row in rows], enforce_sorted=False)
    assert isinstance(ours, PackedSequence)
    assert ours.data.dtype == torch.int64
    assert ours.data.tolist() == theirs.data.tolist()
    assert ours.batch_sizes.tolist() == theirs.batch_sizes.tolist()
    order = list(range(len(rows))) if ours.sorted_indices is None else ours.sorted_indices.tolist()
    assert order == theirs.sorted_indices.tolist()
    assert batch["lengths"].tolist() == [len(row) for row in rows]
    assert [row.tolist() for row in unpack(ours)] == rows


@properties
@given(ROWS | st.just([[], [1, 2], []]), st.integers(0, 7))
def test_padded_ids_are_those_of_pad_sequence(rows: list[list[int]], pad_id: int) -> None:
    batch = collate([{"input_ids": row} for row in rows], packed=False, pad_id=pad_id)
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    assert torch.equal(batch["input_ids"], pad_sequence(tensors, batch_first=True, padding_value=pad_id))
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    assert torch.equal(batch["attention_mask"], mask)
    assert [row.tolist() for row in unpack(batch["input_ids"], batch["lengths"])] == rows


@properties
@given(ROWS, st.booleans())
def test_columns_come_along(rows: list[list[int]], packed: bool) -> None:
    samples = [
        {
            "input_ids": row,
            "tags": [token % 3 for token in row],
            "weights": [token / 2 for token in row],
            "label": number,
            "score": number / 2,
            "good": number % 2 == 0,
            "pair": [number, -number],
            "name": str(number),
            "absent": None,
        }
        for number, row in enumerate(rows)
    ]
    batch = collate(samples, packed=packed, per_token=("tags", "weights"))
    numbers = torch.arange(len(rows))
    assert torch.equal(batch["label"], numbers)
    assert torch.equal(batch["score"], numbers / 2)
    assert torch.equal(batch["good"], numbers % 2 == 0)
    assert torch.equal(batch["pair"], torch.stack([numbers, -numbers], 1))
    assert batch["name"] == [str(number) for number in range(len(rows))]
    assert batch["absent"] == [None] * len(rows)
    assert (batch["label"].dtype, batch["score"].dtype, batch["good"].dtype) == (torch.int64, torch.float32, torch.bool)
    lengths = None if packed else batch["lengths"]
    assert [row.tolist() for row in unpack(batch["tags"], lengths)] == [sample["tags"] for sample in samples]
    assert [row.tolist() for row in unpack(batch["weights"], lengths)] == [sample["weights"] for sample in samples]
    if packed:
        assert torch.equal(batch["tags"].data, batch["input_ids"].data % 3)  # token beside token
    else:
        padding = batch["attention_mask"] == 0
        assert (batch["tags"][padding] == -100).all()
        assert (batch["weights"][padding] == 0).all()


def test_feature_vectors_are_packed_and_padded() -> None:
    frames = [np.random.default_rng(row).normal(size=(length, 5)) for row, length in enumerate((3, 7, 1, 7))]
    packed = collate([{"frames": row} for row in frames], sequence="frames")
    theirs = pack_sequence([torch.tensor(row, dtype=torch.float32) for row in frames], enforce_sorted=False)
    assert packed["frames"].data.dtype == torch.float32
    assert torch.equal(packed["frames"].data, theirs.data)
    output, (last, _) = nn.LSTM(5, 4)(packed["frames"])
    rows = unpack(output)
    assert [len(row) for row in rows] == [3, 7, 1, 7]
    assert torch.equal(torch.stack([row[-1] for row in rows]), last[0])
    padded = collate([{"frames": row.tolist()} for row in frames], sequence="frames", packed=False)
    assert padded["frames"].shape == (4, 7, 5)
    assert padded["frames"].sum() == pytest.approx(sum(row.sum() for row in frames), abs=1e-4)


def test_samples_may_be_pairs_or_bare_sequences() -> None:
    pairs = collate([(torch.tensor([1, 2]), 0), (torch.tensor([3]), 1)], packed=False)
    assert pairs["input_ids"].tolist() == [[1, 2], [3, 0]]
    assert pairs["labels"].tolist() == [0, 1]
    assert collate([[1, 2], [3]])["input_ids"].data.tolist() == [1, 3, 2]


def test_gradients_flow_through_packing_and_unpacking() -> None:
    torch.manual_seed(0)
    embedding, lstm = nn.Embedding(50, 6), nn.LSTM(6, 5, bidirectional=True)
    rows = [[1, 2, 3], [4], [5, 6], [7, 8, 9]]
    ids = collate(rows)["input_ids"]
    packed_loss = sum(row.sin().sum() for row in unpack(lstm(ids._replace(data=embedding(ids.data)))[0]))
    packed_loss.backward()
    packed = [parameter.grad.clone() for parameter in (*lstm.parameters(), *embedding.parameters())]
    for parameter in (*lstm.parameters(), *embedding.parameters()):
        parameter.grad = None
    alone = sum(lstm(embedding(torch.tensor(row))[:, None])[0].sin().sum() for row in rows)
    alone.backward()
    for ours, parameter in zip(packed, (*lstm.parameters(), *embedding.parameters()), strict=True):
        torch.testing.assert_close(ours, parameter.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_moves_as_a_whole(packed: bool) -> None:
    samples = [{"input_ids": [1, 2], "labels": 3, "name": "a"}, {"input_ids": [1], "labels": 4, "name": "b"}]
    batch = collate(samples, packed=packed)
    batch.rows = np.array([5, 6])
    moved = batch.to("meta", non_blocking=True)
    assert isinstance(moved, Batch)
    assert moved.keys() == batch.keys()
    ids = moved["input_ids"].data if packed else moved["input_ids"]
    assert ids.device.type == moved["labels"].device.type == moved["lengths"].device.type == "meta"
    assert moved["name"] == ["a", "b"]
    assert moved.rows is not None
    assert moved.rows.tolist() == [5, 6]
    assert batch["labels"].device.type == "cpu"
    copied = pickle.loads(pickle.dumps(batch))
    assert (copied["labels"].tolist(), copied.rows.tolist()) == ([3, 4], [5, 6])


@pytest.mark.parametrize("packed", [True, False])
def test_every_tensor_is_pinned(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    samples = [{"input_ids": [1], "tags": [0], "labels": 3}, {"input_ids": [1, 2], "tags": [0, 1], "labels": 4}]
    batch = collate(samples, packed=packed, per_token=("tags",)).pin_memory()
    assert isinstance(batch, Batch)
    assert len(pinned) == (2 * 3 + 2 if packed else 5)  # data and two orders of each packed column; the rest once
    assert isinstance(batch["input_ids"], PackedSequence) == packed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("packed", [True, False])
def test_a_pinned_batch_goes_to_the_gpu(packed: bool) -> None:
    rows = [[1, 2], [1], [5, 6, 7]]
    loader = DataLoader(rows, batch_size=3, collate_fn=partial(collate, packed=packed), pin_memory=True)
    (batch,) = loader
    assert batch["lengths"].is_pinned()
    moved = batch.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    lengths = None if packed else moved["lengths"].cpu()
    assert [row.tolist() for row in unpack(moved["input_ids"], lengths)] == rows


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "the batch has no samples"),
        ([[1], []], {}, "row 1 of the batch has no tokens"),
        ([[1], [2, -3]], {}, "row 1 of the batch, token 1: the id is -3"),
        ([[1, 2], [], [9]], {"vocab_size": 9, "packed": False}, "row 2 .*, token 0: the id is 9, .* ids are 0 to 8"),
        ([[1.5]], {}, "'input_ids' holds float32 where ids are integers"),
        ([["a"]], {}, "'input_ids' holds what is no number"),
        ([{"text": "a"}], {}, "no column 'input_ids'; they have text"),
        ([{"input_ids": [1], "a": 1}, {"input_ids": [1]}], {}, "row 1 of the batch has the columns input_ids, but"),
        ([{"input_ids": [1], "t": [1, 2]}], {"per_token": ["t"]}, "row 0 .* has 1 tokens, but 2 values of 't'"),
        ([{"input_ids": [1], "t": [1]}, {"input_ids": [1, 2], "t": [1, 2]}], {}, "row 1 .* name it in per_token"),
        ([{"input_ids": 3}], {}, "row 0 of the batch: 'input_ids' is 3, not a sequence"),
        ([np.ones((2, 3)), np.ones((2, 4))], {}, "row 1 .* has shape .2, 4., but other rows have .'length', 3."),
        ([(1, 2, 3)], {}, "a sample is a tuple of 3"),
    ],
)
def test_bad_rows_are_named(samples: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        collate(samples, **options)


def test_a_padded_batch_is_unpacked_with_its_lengths() -> None:
    with pytest.raises(BatchError, match=r"pass unpack\(padded, batch\['lengths'\]\)"):
        unpack(torch.zeros(2, 3))
