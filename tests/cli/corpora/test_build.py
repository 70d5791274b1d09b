"""Files that are written: the same bytes again, no repeats, and sources that cannot be fetched are named."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from helpers.corpora import tagged_sentences, write_wordnet
from lengthwise.cli.corpora.build import Report, sample, write_corpora
from lengthwise.cli.corpora.clean import is_held_out
from lengthwise.cli.corpora.dictionaries import Entry
from lengthwise.cli.corpora.packages import Packages
from lengthwise.cli.corpora.sources import Sources, _first_of_each, _synonyms
from lengthwise.cli.corpora.wordnet import WordNet
from lengthwise.errors import DatasetError

FACTS = ["The dog chased the cat.", "the dog chased the cat", *(f"A fact of number {number}." for number in range(60))]

PAIRS = [("dog", "a tame  animal"), ("a tame animal", "Dog"), ("cat", "cat")]
PROBLEM = "the package x cannot be fetched"


def missing() -> Iterator[Any]:
    raise DatasetError(PROBLEM)
    yield


def sources_in(folder: Path) -> Any:
    return SimpleNamespace(
        texts=lambda: {"facts": lambda: FACTS, "x": missing},
        names=lambda: {"names": lambda: ["heart", "heart", "heart attack"]},
        passages=lambda: {"news": lambda: [" ".join(FACTS), "too short"], "x": missing},
        pairs=lambda: {
            "glosses": lambda: PAIRS,
            "x": missing,
        },
        wordnet=WordNet(write_wordnet(folder)),
        tagged=tagged_sentences,
    )


def write(folder: Path, seed: int = 0) -> Report:
    return write_corpora(folder / "out", sources_in(folder), seed, 40, lambda name, rows: None)


def test_files_and_report(tmp_path: Path) -> None:
    report = write(tmp_path)
    texts = pq.read_table(tmp_path / "out/texts.parquet").to_pylist()
    kept = [row["text"] for row in texts if row["source"] == "facts"]
    assert "the dog chased the cat" not in kept
    assert len(kept) == sum(not is_held_out(fact) for fact in FACTS) - 1
    assert [row["text"] for row in texts if row["source"] == "names"] == ["heart", "heart attack"]
    assert pq.read_table(tmp_path / "out/pairs.parquet").to_pylist() == [
        {"anchor": "dog", "positive": "a tame animal", "source": "glosses"}
    ]
    passages = pq.read_table(tmp_path / "out/passages.parquet")["text"].to_pylist()
    assert passages
    assert all(60 <= len(passage.split()) <= 160 for passage in passages)
    triples = pq.read_table(tmp_path / "out/triples.parquet").to_pylist()
    assert sum(row["rule"] == "real.facts" for row in triples) >= 1
    assert len(triples) == 40 + report.rows["triples", "real sentences"]
    assert report.skipped == {
        ("texts", "x"): PROBLEM,
        ("passages", "x"): PROBLEM,
        ("pairs", "x"): PROBLEM,
    }


def test_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    files = ("texts", "passages", "pairs", "triples")
    write(tmp_path)
    first = [(tmp_path / f"out/{name}.parquet").read_bytes() for name in files]
    write(tmp_path)
    assert [(tmp_path / f"out/{name}.parquet").read_bytes() for name in files] == first
    write(tmp_path, seed=1)
    assert (tmp_path / "out/triples.parquet").read_bytes() != first[3]


def test_a_sample_does_not_depend_on_what_else_there_is() -> None:
    texts = [f"text {number}" for number in range(50)]
    chosen = list(sample(texts, 10))
    assert len(chosen) == 10
    assert chosen == [text for text in texts if text in chosen]
    assert set(sample(texts[:25], 10)) >= {text for text in chosen if text in texts[:25]}
    assert list(sample(texts[:5], 10)) == texts[:5]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    sources: Any = SimpleNamespace(texts=lambda: {"x": missing}, names=dict)
    with pytest.raises(DatasetError, match="no source of texts can be read: the package x cannot be fetched"):
        write_corpora(tmp_path, sources, 0, 10, lambda name, rows: None)


def test_command_without_any_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.cli.corpora.__main__ import main

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    result = CliRunner().invoke(main, [str(tmp_path / "out")])
    assert result.exit_code == 2
    assert re.search(r"no source of texts can be read: .*the command apt-get is not installed", result.output)


def test_every_source_is_named_once(tmp_path: Path) -> None:
    sources = Sources(Packages(tmp_path))
    assert not sources.texts().keys() & sources.names().keys()
    assert {"wordnet.definition", "gcide", "debian"} <= sources.pairs().keys()


def test_dictionaries_give_definitions_words_and_pairs(tmp_path: Path) -> None:
    dictionary = tmp_path / "debian-dict-gcide/usr/share/dictd/gcide.dict.dz"
    dictionary.parent.mkdir(parents=True)
    dictionary.write_bytes(gzip.compress(b"Hound \\Hound\\, n.\n   A dog that hunts. --Milton.\n"))
    sources = Sources(Packages(tmp_path))
    assert list(sources.texts()["gcide"]()) == ["A dog that hunts."]
    dictionary.unlink()  # it is read once
    assert list(sources.names()["gcide.name"]()) == ["hound"]
    assert list(sources.pairs()["gcide"]()) == [("hound", "A dog that hunts.")]


def test_pairs_of_synonyms_and_first_definitions() -> None:
    assert list(_synonyms(("a", "b", "c"))) == [("a", "b"), ("b", "c"), ("a", "c")]
    assert list(_synonyms(("a", "b"))) == [("a", "b")]
    entries = [Entry("a", "one"), Entry("a", "two"), Entry("b", "three")]
    assert [entry.definition for entry in _first_of_each(entries)] == ["one", "three"]
