"""The batches on which runtimes are compared with the oracle.

A batch can go wrong only through what its rows share: the number of rows, their lengths, the end of the sequence axis
and the contents of the padding. The grid varies those, with random ids in the padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder_config import PaddingSettings
from lengthwise.tokens.ragged import RaggedTokens

EVERY_ID, GOLDEN, TEXTS = "every id of the vocabulary", "golden vectors", "real texts"
GOLDEN_CASE = "golden"
GRID_BATCHES = (1, 2, 5, 17)
SPEED_BATCHES = ((1, 32), (32, 32))  # rows, tokens per row
_LONGEST = 24
_LONG = (600, 1, 333)  # longer than the usual limits of lengths
_MANY = 100  # more rows than batches are usually split at
_SWEEP_BATCH, _SWEEP_LENGTH = 32, 64
_TEXT_BATCH = 32


@dataclass(frozen=True)
class Case:
    """One batch.

    Attributes:
        name: shown in the report.
        group: what the case varies; shared by similar cases.
        input_ids: int64[batch, sequence], with random ids in the padding.
        lengths: int64[batch], from 0 to sequence.
        vocab_size: ids are below it.
    """

    name: str
    group: str
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    vocab_size: int

    @property
    def attention_mask(self) -> NDArray[np.int64]:
        """int64[batch, sequence], ones up to each row's length."""
        return (np.arange(self.input_ids.shape[1]) < self.lengths[:, None]).astype(np.int64)

    def pad_to(self, sequence: int, rng: np.random.Generator) -> Case:
        """The same rows in `sequence` columns, with new random ids in the padding."""
        input_ids = rng.integers(self.vocab_size, size=(len(self.lengths), sequence))
        columns = min(sequence, self.input_ids.shape[1])
        real = self.attention_mask[:, :columns] == 1
        input_ids[:, :columns][real] = self.input_ids[:, :columns][real]
        return replace(self, input_ids=input_ids)

    def select(self, rows: NDArray[np.integer]) -> Case:
        """The rows with these indices, in this order."""
        return replace(self, input_ids=self.input_ids[rows], lengths=self.lengths[rows])


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
            yield Case(f"{batch} x {name}", name, input_ids, values.astype(np.int64), vocab_size)
    for name, values in (("long texts", np.array(_LONG)), ("many rows", rng.integers(1, 9, _MANY))):
        input_ids = rng.integers(vocab_size, size=(len(values), values.max()))
        yield Case(f"{len(values)} x {name}", name, input_ids, values, vocab_size)


def vocabulary_cases(vocab_size: int) -> Iterator[Case]:
    """Every id of the vocabulary once, so every row of the embedding table is read."""
    step = _SWEEP_BATCH * _SWEEP_LENGTH
    for start in range(0, vocab_size, step):
        ids = np.arange(start, min(start + step, vocab_size), dtype=np.int64)
        lengths = np.minimum(_SWEEP_LENGTH, len(ids) - np.arange(0, len(ids), _SWEEP_LENGTH))
        input_ids = np.resize(ids, (len(lengths), _SWEEP_LENGTH))
        yield Case(f"ids {start} to {ids[-1]}", EVERY_ID, input_ids, lengths.astype(np.int64), vocab_size)


def padding_cases(vocab_size: int, padding: PaddingSettings) -> Iterator[Case]:
    """Texts around the length up to which an encoder pads, and from which on it cuts."""
    rng = np.random.default_rng(5)
    lengths = np.array([1, max(1, padding.to - 1), padding.to, padding.to + 1, 2 * padding.to], np.int64)
    rng.shuffle(lengths)
    input_ids = rng.integers(vocab_size, size=(len(lengths), lengths.max()))
    yield Case(f"around {padding.to} tokens", "padding that is read", input_ids, lengths, vocab_size)


def text_cases(tokens: RaggedTokens, vocab_size: int) -> Iterator[Case]:
    """Batches of texts in their own order, so of mixed lengths."""
    rng = np.random.default_rng(2)
    for start in range(0, len(tokens), _TEXT_BATCH):
        rows = np.arange(start, min(start + _TEXT_BATCH, len(tokens)), dtype=np.int64)
        input_ids, lengths = tokens.pad_rows(rows, pad_id=0)
        case = Case(f"texts {start} to {start + len(rows) - 1}", TEXTS, input_ids, lengths, vocab_size)
        yield case.pad_to(max(1, input_ids.shape[1]), rng)


def speed_cases(vocab_size: int) -> Iterator[Case]:
    """Batches of full rows, to measure speed on."""
    for rows, tokens in SPEED_BATCHES:
        input_ids = np.random.default_rng(4).integers(vocab_size, size=(rows, tokens))
        yield Case(f"{rows} x {tokens}", "speed", input_ids, np.full(rows, tokens, np.int64), vocab_size)
