"""Verbs and their opposites in the same frames."""

from __future__ import annotations

from random import Random

from lengthwise.cli.corpora.rules.frames import make_triple
from lengthwise.cli.corpora.rules.opposed import opposed_groups


def test_each_line_gives_two_groups_that_mirror_each_other() -> None:
    groups = list(opposed_groups())
    opens, closes = (next(group for group in groups if group.name == f"opposed.{verb}") for verb in ("open", "close"))
    assert (opens.frames, opens.opposite) == (closes.opposite, closes.frames)
    assert opens.frames[0] == "{x} [<open> {y}|<unlock> {y}]"


def test_no_verb_is_its_own_opposite() -> None:
    for group in opposed_groups():
        assert not set(group.frames) & set(group.opposite), group.name


def test_triples_say_the_contrary() -> None:
    made = [make_triple(group, Random(5)) for group in opposed_groups()]
    assert sum(triple is not None for triple in made) > 0.9 * len(made)
