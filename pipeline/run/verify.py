"""Compares vectors that a cache or a folder has with those that the model computes: `lengthwise cache verify --texts`.

Notable decisions:
- The rows are drawn at random from all of the run whose texts are there, in one pass over the dataset, and only their
  texts are kept.
- Every bit of a vector has to be the same, and so do the number of tokens and whether the text was truncated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.config import RunConfig
from lengthwise.data.dataset import Source
from lengthwise.encoder.engine import Engine, PlannedTokens, encode_planned, plan_tokens
from lengthwise.errors import StoreError
from lengthwise.run.identity import run_identity
from lengthwise.run.reuse_folders import open_kept
from lengthwise.store.hash_index import HashIndex
from lengthwise.store.previous import PreviousFolder, StoredRows
from lengthwise.store.text_hashes import hash_texts
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleReport:
    """What was compared.

    Attributes:
        rows: of the run.
        found: of these, how many have their text in the cache or folder.
        compared: of these, how many were encoded again.
        differing: what differs, a sentence for each row.
    """

    rows: int
    found: int
    compared: int
    differing: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Rows that were drawn: int64[rows] in the dataset, their places int64[rows], and their texts."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    texts: list[str | None]


def verify_sample(
    url: str,
    config: RunConfig,
    source: Source,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    sample: int,
    seed: int | None = None,
) -> SampleReport:
    """Encode some of a run's texts that a cache, or a folder of vectors, has, and compare all bits.

    Args:
        url: the cache or the folder, a path or a URL.
        sample: how many rows.
        seed: of the rows that are drawn; others each time if None.

    Raises:
        ConfigError: the vectors of this run cannot be compared, for the reason that is named.
        StoreError: there is no such cache or folder, it has none of the texts, or it cannot be read.
        DatasetError: the input cannot be read.
    """
    identity = run_identity(config, source, tokenizer, engine)
    kept = open_kept(url, config, identity, batch_invariant=engine.batch_invariant)
    places = _Places(kept)
    with HashIndex(places.entries(), places.count) as index:
        rows, found, drawn = _draw(source, index, sample, np.random.default_rng(seed))
    if not found:
        raise StoreError(f"{url}: has none of the {rows:,} texts of {config.dataset.path}; give a run that used it")
    planned = _plan(drawn.texts, config, tokenizer, engine)
    compared, differing = places.compare(drawn, planned.tokens, encode_planned(planned, engine))
    lines = source.locate(sorted(differing))
    named = (f"row {row}{f' ({lines[row]})' if row in lines else ''}: {differing[row]}" for row in sorted(differing))
    return SampleReport(rows, found, compared, tuple(named))


class _Places:
    """The rows of a cache or folder, numbered over all of its segments or shards.

    Attributes:
        count: how many there are.
    """

    def __init__(self, kept: PreviousFolder) -> None:
        self._kept, self._indices = kept, sorted(kept.records)
        self._starts = np.cumsum([0, *(kept.records[index].rows for index in self._indices)])
        self.count = int(self._starts[-1])

    def entries(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """The hashes of their texts, and their numbers; without segments that are damaged."""
        for number, index in enumerate(self._indices):
            try:
                hashes = self._kept.hashes(index)
            except StoreError as error:
                log.warning("%s", error)
            else:
                yield hashes, np.arange(self._starts[number], self._starts[number + 1])

    def compare(self, drawn: _Drawn, tokens: RaggedTokens, vectors: NDArray[np.float32]) -> tuple[int, dict[int, str]]:
        """How many rows were compared, and what differs, by row of the dataset; without segments that are damaged."""
        compared, differing = 0, {}
        numbers = np.searchsorted(self._starts, drawn.places, side="right") - 1
        for number in np.unique(numbers):
            index, among = self._indices[number], np.flatnonzero(numbers == number)
            distinct, which = np.unique(drawn.places[among] - self._starts[number], return_inverse=True)
            try:
                stored = self._kept.rows(index, distinct).take(which)
            except StoreError as error:
                log.warning("%s", error)
                continue
            compared += int(stored.usable.sum())
            is_half = self._kept.identity.get("vector_dtype") == "float16"
            where = self._kept.location(index)
            for row, problem in _differences(stored, tokens.take(among), vectors[among], is_half=is_half):
                differing[int(drawn.rows[among[row]])] = f"{problem} in {where}"
        return compared, differing


def _draw(source: Source, index: HashIndex, sample: int, generator: np.random.Generator) -> tuple[int, int, _Drawn]:
    """The number of the dataset's rows, of those whose text is in the index, and some of these, at random."""
    rows = found = 0
    drawn: list[tuple[float, int, int, bytes]] = []
    for shard in source.shards():
        places = index.find(hash_texts(shard.texts))
        there = np.flatnonzero(places >= 0)
        marks = generator.random(len(there))
        chosen = np.argsort(marks)[:sample]
        texts = shard.texts.take(pa.array(there[chosen])).cast(pa.large_binary()).to_pylist()
        numbers = (shard.first_row + there[chosen]).tolist()
        drawn += zip(marks[chosen].tolist(), numbers, places[there[chosen]].tolist(), texts, strict=True)
        drawn = sorted(drawn)[:sample]  # the smallest marks of all rows
        rows, found = rows + shard.table.num_rows, found + len(there)
    _, numbers, numbers_there, texts = zip(*drawn, strict=True) if drawn else ((),) * 4
    return rows, found, _Drawn(np.array(numbers, np.int64), np.array(numbers_there, np.int64), [*map(_decode, texts)])


def _plan(texts: list[str | None], config: RunConfig, tokenizer: TextTokenizer, engine: Engine) -> PlannedTokens:
    tokenization = config.resolve_tokenization(engine.config.tokenization)
    return plan_tokens(tokenize_texts(texts, tokenizer, tokenization, bad_rows="zero"), engine, config.batching)


def _differences(
    stored: StoredRows, tokens: RaggedTokens, vectors: NDArray[np.float32], *, is_half: bool
) -> Iterator[tuple[int, str]]:
    """What is not the same of each row that has a vector, by its number."""
    if is_half:
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float16).astype(np.float32)
    same = (vectors.view(np.uint32) == stored.vectors.view(np.uint32)).all(axis=1)
    for row in np.flatnonzero(stored.usable).tolist():
        if tokens.lengths[row] != stored.lengths[row]:
            yield row, f"has {tokens.lengths[row]} tokens, but {stored.lengths[row]}"
        elif tokens.truncated[row] != stored.truncated[row]:
            yield row, f"is{'' if tokens.truncated[row] else ' not'} truncated, other than"
        elif not same[row]:
            yield row, f"its vector differs by up to {np.abs(vectors[row] - stored.vectors[row]).max():.1e} from that"


def _decode(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
