"""The inputs on which runtimes are compared, and what PyTorch says of them, one row at a time.

A batch can go wrong only through what its rows share: how many there are, how long each is, where the sequence
axis ends, and what stands in the padding. So the grid varies those, with random ids in the padding, and the
oracle computes every row alone, at its own length, where nothing can be shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.model import PackedEncoder
from lengthwise.tokens.ragged import RaggedTokens

EVERY_ID, GOLDEN, TEXTS = "every id of the vocabulary", "golden vectors", "real texts"
GOLDEN_CASE = "golden"
GRID_BATCHES = (1, 2, 5, 17)
_LONGEST = 24
_LONG, _MANY = (600, 1, 333), 100  # longer than where lengths are often cut, more rows than a batch is often split at
_SWEEP_BATCH, _SWEEP_LENGTH = 32, 64
_GOLDEN_LENGTHS = (1, 1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 24, 32, 48, 64)
_TEXT_BATCH = 32


@dataclass(frozen=True)
class Case:
    """One batch.

    Attributes:
        name: as it stands in the report.
        group: what it varies, which other cases do too.
        input_ids: int64[batch, sequence], with random ids in the padding.
        lengths: int64[batch], from 0 to sequence.
    """

    name: str
    group: str
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def attention_mask(self) -> NDArray[np.int64]:
        """int64[batch, sequence], ones up to each row's length."""
        return (np.arange(self.input_ids.shape[1]) < self.lengths[:, None]).astype(np.int64)

    def padded_to(self, sequence: int, vocab_size: int, rng: np.random.Generator) -> Case:
        """The same rows in `sequence` columns, with new random ids in the padding."""
        input_ids = rng.integers(vocab_size, size=(len(self.lengths), sequence))
        columns = min(sequence, self.input_ids.shape[1])
        real = self.attention_mask[:, :columns] == 1
        input_ids[:, :columns][real] = self.input_ids[:, :columns][real]
        return replace(self, input_ids=input_ids)

    def rows(self, order: NDArray[np.integer]) -> Case:
        """The rows of these numbers, in this order."""
        return replace(self, input_ids=self.input_ids[order], lengths=self.lengths[order])


@dataclass(frozen=True)
class Oracle:
    """What is right for a case.

    Attributes:
        vectors: float32[batch, dim], zeros for rows of length 0.
        states: float32[batch, sequence, state_dim], zero beyond a row's length; None where only vectors are known.
    """

    vectors: NDArray[np.float32]
    states: NDArray[np.float32] | None


def grid_cases(vocab_size: int, seed: int = 0) -> Iterator[Case]:
    """Every batch size with every pattern of lengths; then long texts, and many rows."""
    rng = np.random.default_rng(seed)
    for batch in GRID_BATCHES:
        lengths = {
            "equal lengths": np.full(batch, 7),
            "all of one token": np.ones(batch, int),
            "one long, the rest one token": np.where(np.arange(batch) == batch // 2, _LONGEST, 1),
            "unsorted": rng.integers(1, _LONGEST + 1, batch),
            "unsorted, axis longer than any row": rng.integers(1, _LONGEST + 1, batch),
            "some rows without tokens": np.where(np.arange(batch) % 3 == 0, 0, rng.integers(1, _LONGEST + 1, batch)),
        }
        for name, values in lengths.items():
            sequence = max(int(values.max()), 1) + (9 if "axis longer" in name else 0)
            input_ids = rng.integers(vocab_size, size=(batch, sequence))
            yield Case(f"{batch} x {name}", name, input_ids, values.astype(np.int64))
    for name, values in (("long texts", np.array(_LONG)), ("many rows", rng.integers(1, 9, _MANY))):
        yield Case(f"{len(values)} x {name}", name, rng.integers(vocab_size, size=(len(values), values.max())), values)


def vocabulary_cases(vocab_size: int) -> Iterator[Case]:
    """Every id of the vocabulary once, so that no row of an embedding table goes unread."""
    step = _SWEEP_BATCH * _SWEEP_LENGTH
    for start in range(0, vocab_size, step):
        ids = np.arange(start, min(start + step, vocab_size), dtype=np.int64)
        lengths = np.minimum(_SWEEP_LENGTH, len(ids) - np.arange(0, len(ids), _SWEEP_LENGTH))
        input_ids = np.resize(ids, (len(lengths), _SWEEP_LENGTH))
        yield Case(f"ids {start} to {ids[-1]}", EVERY_ID, input_ids, lengths.astype(np.int64))


def golden_case(vocab_size: int) -> Case:
    """Sixteen rows of 1 to 64 tokens, the inputs of an artifact's golden vectors."""
    rng = np.random.default_rng(1)
    lengths = np.array(_GOLDEN_LENGTHS, np.int64)
    return Case(GOLDEN_CASE, GOLDEN, rng.integers(vocab_size, size=(len(lengths), int(lengths.max()))), lengths)


def text_cases(tokens: RaggedTokens, vocab_size: int) -> Iterator[Case]:
    """Real texts in their own order, so in batches of mixed lengths."""
    rng = np.random.default_rng(2)
    for start in range(0, len(tokens), _TEXT_BATCH):
        rows = np.arange(start, min(start + _TEXT_BATCH, len(tokens)), dtype=np.int64)
        input_ids, lengths = tokens.pad_rows(rows, pad_id=0)
        name = f"texts {start} to {start + len(rows) - 1}"
        yield Case(name, TEXTS, input_ids, lengths).padded_to(max(1, input_ids.shape[1]), vocab_size, rng)


def one_row_at_a_time(encoder: PackedEncoder, case: Case) -> Oracle:
    """What the packed encoder says of each row alone, at its own length, without any padding."""
    config = encoder.config
    vectors = np.zeros((len(case.lengths), config.dim), np.float32)
    states = np.zeros((*case.input_ids.shape, config.state_dim), np.float32)
    with torch.inference_mode():
        for row, length in enumerate(case.lengths):
            if length:
                input_ids = torch.from_numpy(case.input_ids[row : row + 1, :length])
                alone = torch.tensor([length])
                vectors[row] = encoder(input_ids, alone).numpy()[0]
                states[row, :length] = encoder.token_states(input_ids, alone)[0].numpy()[0]
    return Oracle(vectors, states)
