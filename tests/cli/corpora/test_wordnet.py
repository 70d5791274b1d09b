"""WordNet's files: words, glosses, examples, relations and how often a meaning was tagged."""

from __future__ import annotations

from pathlib import Path

from helpers.corpora import write_wordnet
from lengthwise.cli.corpora.wordnet import FILES, WordNet


def test_synsets(tmp_path: Path) -> None:
    wordnet = WordNet(write_wordnet(tmp_path))
    big = wordnet.synsets["a00000001"]
    assert big.words == ("big", "large")
    assert big.file == "adj.all"
    assert big.definition == 'above average ("huge" is more)'
    assert big.examples == ("a big dog", "large crowds")
    assert big.linked("!") == ["a00000002"]
    assert wordnet.synsets["n00000010"].words == ("domestic dog", "dog")


def test_words_are_found_with_their_most_frequent_meaning_first(tmp_path: Path) -> None:
    wordnet = WordNet(write_wordnet(tmp_path))
    assert [synset.key for synset in wordnet.by_word["n", "dog"]] == ["n00000010", "n00000011"]
    assert wordnet.counts["dog", "n00000010"] == 42
    assert wordnet.counts["big", "a00000001"] == 9


def test_lexicographer_files_are_numbered_as_wordnet_does() -> None:
    assert (FILES[0], FILES[5], FILES[29], FILES[44]) == ("adj.all", "noun.animal", "verb.body", "adj.ppl")
    assert len(FILES) == 45
