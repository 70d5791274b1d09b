"""Real sentences: a positive in other words or another order, a negative that says something else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.corpora import tagged_sentences, write_wordnet
from lengthwise.cli.corpora.rules.lexicon import Lexicon
from lengthwise.cli.corpora.rules.real import RealSentences, noun_phrases
from lengthwise.cli.corpora.wordnet import WordNet

WORDS = [
    "The",
    "dog",
    "chased",
    "a",
    "big",
    "cat",
    "in",
    "school",
    "and",
    "not",
    "are",
    "because",
    "12",
    "40",
    ",",
    ".",
]


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> RealSentences:
    folder: Path = tmp_path_factory.mktemp("wordnet")
    return RealSentences(Lexicon(WordNet(write_wordnet(folder)), tagged_sentences()))


def test_plain_sentences_become_passive_and_their_nouns_change_places(maker: RealSentences) -> None:
    made = {maker.triple("The dog chased the cat.", Random(seed)) for seed in range(40)}
    assert any(triple and triple.positive == "The cat was chased by the dog." for triple in made)
    assert {triple.negative for triple in made if triple} == {"The cat chased the dog."}


def test_a_not_is_added_or_taken_away(maker: RealSentences) -> None:
    made = [maker.triple("Large animals are not little.", Random(seed)) for seed in range(40)]
    assert any(triple and triple.negative == "Large animals are little." for triple in made)


def test_clauses_move(maker: RealSentences) -> None:
    made = [maker.triple("The dog was small because it was in school.", Random(seed)) for seed in range(40)]
    assert any(triple and triple.positive.startswith("Because it was in school, the dog was") for triple in made)


def test_sentences_that_no_rule_fits_give_none(maker: RealSentences) -> None:
    assert maker.triple("Well, well.", Random(0)) is None
    assert maker.triple('He said: "The dog chased the cat."', Random(0)) is None


@given(st.lists(st.sampled_from(WORDS), min_size=4, max_size=12), st.integers(0, 99))
def test_three_texts_always_differ(maker: RealSentences, words: list[str], seed: int) -> None:
    triple = maker.triple(" ".join(words), Random(seed))
    assert triple == maker.triple(" ".join(words), Random(seed))
    assert triple is None or len(set(triple)) == 3


def test_noun_phrases() -> None:
    words = ["the", "big", "dog", "saw", "him", "near", "Anna"]
    assert noun_phrases(words, ["at", "jj", "nn", "vbd", "ppo", "in", "np"]) == [(0, 3), (4, 5), (6, 7)]
