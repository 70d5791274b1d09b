"""All triples together: distinct, reproducible, none held out."""

from __future__ import annotations

from collections import Counter
from random import Random

from lengthwise.cli.corpora.clean import is_held_out
from lengthwise.cli.corpora.rules.frames import Group
from lengthwise.cli.corpora.triples import draw_triples, framed_triples


def test_triples_are_distinct_and_the_same_for_a_seed() -> None:
    made = list(framed_triples(1500, seed=3))
    assert made == list(framed_triples(1500, seed=3))
    assert made[:100] != list(framed_triples(100, seed=4))
    assert len({(triple.anchor, triple.negative) for triple, _ in made}) == 1500
    assert not any(is_held_out(text) for triple, _ in made for text in triple)


def test_many_rules_take_part_and_none_prevails() -> None:
    rules = Counter(name.partition(".")[0] for _, name in framed_triples(3000, seed=0))
    assert len(rules) > 120
    assert 0.25 < rules.pop("event") / 3000 < 0.45
    assert 0.05 < rules.pop("opposed") / 3000 < 0.15
    assert max(rules.values()) < 100


def test_drawing_ends_where_there_are_no_more() -> None:
    frames = ("the sea is calm", "calm is the sea"), ("the sea is rough", "rough is the sea")
    group = Group("sea", {}, *frames, dressed=False)
    made = list(draw_triples([[group]] * 3, 1_000, Random(0)))
    assert 8 <= len(made) < 100
    assert len({(triple.anchor, triple.negative) for triple, _ in made}) == len(made)
