"""Every group of frames gives triples whose three texts differ, the same ones for the same seed."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.cli.corpora.rules import frames
from lengthwise.cli.corpora.rules.events import event_groups
from lengthwise.cli.corpora.rules.fillings import Filling
from lengthwise.cli.corpora.rules.frames import Group, conjugate, contract, finish, load_groups, make_triple, say
from lengthwise.cli.corpora.triples import TABLES

GROUPS = [group for table in TABLES for group in load_groups(f"frames_{table}")]
EVENTS = list(event_groups())


def plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_each_group_makes_triples(group: Group) -> None:
    rng = Random(group.name)
    made = [triple for triple in (make_triple(group, rng) for _ in range(8)) if triple]
    assert len(made) >= 3
    for triple in made:
        assert len({plain(text) for text in triple}) == 3
        assert not re.search(r"[{}<>\[\]|]|\s\s|\b(the|a|an|my|her) (the|a|an|my|her|his|our)\b| ,", " ".join(triple))


@given(st.sampled_from(GROUPS + EVENTS), st.integers(0, 10**6))
def test_triples_differ_and_depend_on_the_seed_alone(group: Group, seed: int) -> None:
    triple = make_triple(group, Random(seed))
    assert make_triple(group, Random(seed)) == triple
    if triple:
        assert len({plain(text) for text in triple}) == 3
        assert not re.search(r"[{}<>\[\]|]", " ".join(triple))
        assert min(len(text.split()) for text in triple) > 1


def test_swapped_roles_use_the_same_words() -> None:
    group = Group("bite", {"x": "animal!", "y": "animal!"}, ("{x} <bite> {y}",), swapped=("x", "y"), tenses=("past",))
    made = [triple for seed in range(60) if (triple := make_triple(group, Random(seed)))]
    assert any(sorted(plain(each.anchor).split()) == sorted(plain(each.negative).split()) for each in made)


@pytest.mark.parametrize(
    ("base", "tense", "negated", "passive", "said"),
    [
        ("sell", "past", False, False, "sold"),
        ("sell", "past", True, False, "did not sell"),
        ("sell", "present", True, True, "is not sold"),
        ("sell", "perfect", False, True, "has been sold"),
        ("sell", "future", True, False, "will not sell"),
        ("be", "past", True, False, "was not"),
        ("be afraid of", "present", False, False, "is afraid of"),
        ("look after", "modal", False, True, "may be looked after"),
    ],
)
def test_verbs_in_their_tenses(base: str, tense: str, negated: bool, passive: bool, said: str) -> None:
    assert conjugate(base, tense, negated, passive) == said


def test_slots_choices_and_articles() -> None:
    meaning = {"x": Filling({"": ("the dog", "the hound"), "bare": ("dog",)})}
    said = say("{x} <be> a [old|aged] {x:bare}", meaning, "past", Random(1), 0.0)
    assert said in ("the dog was an old dog", "the dog was an aged dog")
    assert say("{x}", meaning, "past", Random(1), 1.0) == "the hound"


def test_contractions_and_sentences() -> None:
    assert contract("he did not go and will not stay") == "he didn't go and won't stay"
    assert finish("is it?") == "Is it?"
    assert finish("it is") == "It is."


def test_header_without_an_opposite_is_refused() -> None:
    with pytest.raises(ValueError, match="the group lonely needs two slots after ~, or frames after --"):
        frames._group("lonely x:person", ["{x} sings"])
