"""Writes texts, pairs and triples as parquet files, the same bytes for the same packages and seed.

A source whose package cannot be fetched is left out and named in the report; the others are not changed by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from lengthwise.cli.corpora.clean import (
    MAX_PASSAGE_WORDS,
    MAX_WORDS,
    MIN_PASSAGE_WORDS,
    MIN_WORDS,
    chunks,
    clean,
    hash_number,
    is_english,
    is_held_out,
    unique,
)
from lengthwise.cli.corpora.parquet_files import write_rows
from lengthwise.cli.corpora.rules.lexicon import Lexicon
from lengthwise.cli.corpora.rules.real import RealSentences
from lengthwise.cli.corpora.sources import SAMPLED, SAMPLED_PASSAGES, Pairs, Sources, Texts
from lengthwise.cli.corpora.triples import framed_triples, real_triples
from lengthwise.errors import DatasetError

REAL_SOURCES = ("wordnet.example", "wordnet.gloss", "facts", "brown", "news", "speeches", "addresses")

Progress = Callable[[str, int], None]
Item = TypeVar("Item")


@dataclass
class Report:
    """What was written.

    Attributes:
        rows: number of rows by file and source, such as ("texts", "facts").
        skipped: why a source, or a part of it, was left out, by the same.
    """

    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)


def write_corpora(folder: Path, sources: Sources, seed: int, triples: int, progress: Progress) -> Report:
    """Write `texts.parquet` and `passages.parquet` (text, source), `pairs.parquet` (anchor, positive, source) and
    `triples.parquet` (anchor, positive, negative, rule) into a folder.

    Args:
        seed: of all random choices.
        triples: how many triples are made of frames; those of real sentences come on top.
        progress: called with the name and number of rows of each source that was read.

    Raises:
        DatasetError: no source at all could be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    builder = _Builder(sources, progress)
    texts = builder.texts()
    if not texts:
        reasons = "; ".join(sorted(set(builder.report.skipped.values())))
        raise DatasetError(f"no source of texts can be read: {reasons}")
    write_rows(folder / "texts.parquet", ("text", "source"), texts)
    write_rows(folder / "passages.parquet", ("text", "source"), builder.passages())
    write_rows(folder / "pairs.parquet", ("anchor", "positive", "source"), builder.pairs())
    made = builder.triples(texts, seed, triples)
    write_rows(folder / "triples.parquet", ("anchor", "positive", "negative", "rule"), made)
    return builder.report


class _Builder:
    def __init__(self, sources: Sources, progress: Progress) -> None:
        self._sources, self._progress = sources, progress
        self.report = Report()

    def texts(self) -> list[tuple[str, str]]:
        seen: set[bytes] = set()
        rows: list[tuple[str, str]] = []
        for readers, min_words in ((self._sources.texts(), MIN_WORDS), (self._sources.names(), 1)):
            for name, read in readers.items():
                usable = _usable(read, min_words, seen)
                rows += self._read("texts", name, sample(usable, SAMPLED.get(name)))
        return rows

    def passages(self) -> list[tuple[str, str]]:
        seen: set[bytes] = set()
        rows: list[tuple[str, str]] = []
        for name, read in self._sources.passages().items():
            usable = _usable(read, MIN_PASSAGE_WORDS, seen, MAX_PASSAGE_WORDS)
            rows += self._read("passages", name, sample(usable, SAMPLED_PASSAGES.get(name)))
        return rows

    def pairs(self) -> list[tuple[str, str, str]]:
        seen: set[frozenset[str]] = set()
        rows: list[tuple[str, str, str]] = []
        for name, read in self._sources.pairs().items():
            made = self._read("pairs", name, sample(_distinct(read, seen), SAMPLED.get(name)))
            rows += [(*pair, source) for pair, source in made]
        return rows

    def triples(self, texts: Sequence[tuple[str, str]], seed: int, count: int) -> list[tuple[str, str, str, str]]:
        rows = [(*triple, name) for triple, name in framed_triples(count, seed)]
        self._done("triples", "frames", len(rows))
        if len(rows) < count:
            shortage = f"there are {len(rows):,} different ones, and {count:,} were asked for (--triples)"
            self.report.skipped["triples", "frames"] = shortage
        real = [row for row in texts if row[1] in REAL_SOURCES]

        def made() -> Iterator[tuple[str, str, str, str]]:
            maker = RealSentences(Lexicon(self._sources.wordnet, self._sources.tagged()))
            for triple, source in real_triples(real, maker, seed):
                yield (*triple, f"real.{source}")

        rows += [row for row, _ in self._read("triples", "real sentences", made())]
        Random(seed).shuffle(rows)
        return rows

    def _read(self, file: str, name: str, items: Iterator[Item]) -> list[tuple[Item, str]]:
        try:
            rows = [(item, name) for item in items]
        except DatasetError as error:
            self.report.skipped[file, name] = str(error)
            return []
        self._done(file, name, len(rows))
        return rows

    def _done(self, file: str, name: str, rows: int) -> None:
        self.report.rows[file, name] = rows
        self._progress(f"{file}: {name}", rows)


def sample(items: Iterable[Item], count: int | None) -> Iterator[Item]:
    """At most so many texts, or pairs, chosen by their hashes, in their order; all if None."""
    if count is None:
        yield from items
        return
    every = list(items)
    places = sorted(range(len(every)), key=lambda place: hash_number(str(every[place])))
    yield from (every[place] for place in sorted(places[:count]))


def _usable(read: Texts, min_words: int, seen: set[bytes], max_words: int = MAX_WORDS) -> Iterator[str]:
    pieces = (piece for text in read() for piece in chunks(text, max_words))
    yield from unique((piece for piece in pieces if is_english(piece, min_words) and not is_held_out(piece)), seen)


def _distinct(read: Pairs, seen: set[frozenset[str]]) -> Iterator[tuple[str, str]]:
    for one, two in read():
        anchor, positive = clean(one), " ".join(clean(two).split()[:MAX_WORDS])
        key = frozenset((anchor.lower(), positive.lower()))
        is_new = anchor and positive and len(key) == 2 and key not in seen
        if is_new and not (is_held_out(anchor) or is_held_out(positive)):
            seen.add(key)
            yield anchor, positive
