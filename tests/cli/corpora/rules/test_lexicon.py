"""Tags, synonyms and antonyms of words with one usual meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.corpora import tagged_sentences, write_wordnet
from lengthwise.cli.corpora.rules.lexicon import Lexicon
from lengthwise.cli.corpora.wordnet import WordNet


@pytest.fixture
def lexicon(tmp_path: Path) -> Lexicon:
    return Lexicon(WordNet(write_wordnet(tmp_path)), tagged_sentences())


def test_tags(lexicon: Lexicon) -> None:
    words = ("The", "dog", "chased", "Berlin", "1990", "quickly")
    assert [lexicon.tag(word) for word in words] == ["at", "nn", "vbd", "np", "cd", "rb"]


def test_synonyms_have_the_form_of_the_word(lexicon: Lexicon) -> None:
    assert lexicon.synonyms("chased", "vbd") == ("pursued",)
    assert lexicon.synonyms("animals", "nns") == ("beasts",)
    assert lexicon.synonyms("teacher", "nn") == ("instructor",)


def test_words_of_several_meanings_or_uncommon_ones_have_none(lexicon: Lexicon) -> None:
    assert lexicon.synonyms("unknown", "nn") == ()
    assert lexicon.synonyms("dog", "nn") == ()  # "domestic dog" holds the word itself


def test_antonyms(lexicon: Lexicon) -> None:
    assert lexicon.antonyms("big", "jj") == ("small",)
    assert lexicon.antonyms("dog", "nn") == ()


def test_base_forms(lexicon: Lexicon) -> None:
    assert lexicon.base("Praised") == "praise"
    assert lexicon.base("slept") is None
