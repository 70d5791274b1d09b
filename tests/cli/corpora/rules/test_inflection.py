"""Forms of verbs, adjectives and nouns."""

from __future__ import annotations

import pytest

from lengthwise.cli.corpora.rules.inflection import Verb, comparative, plural, superlative, verb, with_article


@pytest.mark.parametrize(
    "forms",
    [
        Verb("sell", "sells", "sold", "sold", "selling"),
        Verb("chase", "chases", "chased", "chased", "chasing"),
        Verb("stop", "stops", "stopped", "stopped", "stopping"),
        Verb("carry", "carries", "carried", "carried", "carrying"),
        Verb("play", "plays", "played", "played", "playing"),
        Verb("watch", "watches", "watched", "watched", "watching"),
        Verb("begin", "begins", "began", "begun", "beginning"),
        Verb("lie", "lies", "lay", "lain", "lying"),
        Verb("see", "sees", "saw", "seen", "seeing"),
        Verb("fix", "fixes", "fixed", "fixed", "fixing"),
        Verb("visit", "visits", "visited", "visited", "visiting"),
        Verb("mimic", "mimics", "mimicked", "mimicked", "mimicking"),
        Verb("quit", "quits", "quit", "quit", "quitting"),
        Verb("be", "is", "was", "been", "being"),
        Verb("give up smoking", "gives up smoking", "gave up smoking", "given up smoking", "giving up smoking"),
    ],
)
def test_verbs(forms: Verb) -> None:
    assert verb(forms.base) == forms


@pytest.mark.parametrize(
    ("adjective", "more", "most"),
    [
        ("tall", "taller", "tallest"),
        ("big", "bigger", "biggest"),
        ("happy", "happier", "happiest"),
        ("wide", "wider", "widest"),
        ("humble", "humbler", "humblest"),
        ("hostile", "more hostile", "most hostile"),
        ("quiet", "quieter", "quietest"),
        ("careful", "more careful", "most careful"),
        ("good", "better", "best"),
        ("well-known", "more well-known", "most well-known"),
    ],
)
def test_adjectives(adjective: str, more: str, most: str) -> None:
    assert (comparative(adjective), superlative(adjective)) == (more, most)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("dog", "dogs"),
        ("box", "boxes"),
        ("city", "cities"),
        ("policeman", "policemen"),
        ("human", "humans"),
        ("stray sheep", "stray sheep"),
        ("knife", "knives"),
    ],
)
def test_nouns(one: str, many: str) -> None:
    assert plural(one) == many


@pytest.mark.parametrize(
    "noun", ["an apple", "a unit", "a house", "an hour", "an umbrella", "a one-eyed man", "a euro"]
)
def test_articles(noun: str) -> None:
    assert with_article(noun.split(" ", 1)[1]) == noun
