"""Fillings of slots: typed words in all forms that frames ask for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from random import Random

import pytest

from lengthwise.cli.corpora.rules.events import event_groups
from lengthwise.cli.corpora.rules.fillings import fill
from lengthwise.cli.corpora.rules.frames import Group, load_groups
from lengthwise.cli.corpora.rules.opposed import opposed_groups
from lengthwise.cli.corpora.rules.tables import read_sections
from lengthwise.cli.corpora.triples import TABLES


@cache
def used_forms() -> dict[str, frozenset[str]]:
    """The forms that the frames ask for, by type."""
    used: dict[str, set[str]] = defaultdict(set)
    for group in all_groups():
        for frame in {*group.frames, *group.opposite}:
            for slot, form in re.findall(r"\{(\w+)(?::([\w']+))?\}", frame):
                used[group.slots[slot]].add(form)
    return {kind: frozenset(forms) for kind, forms in used.items()}


def all_groups() -> Iterator[Group]:
    """Groups of frames, and of events and opposites one for each type."""
    yield from (group for table in TABLES for group in load_groups(f"frames_{table}"))
    made: dict[str, Group] = {}
    for group in (*event_groups(), *opposed_groups()):
        made.setdefault(f"{group.name.rpartition('.')[2]} {sorted(group.slots.items())}", group)
    yield from made.values()


@pytest.mark.parametrize("kind", sorted({kind for group in all_groups() for kind in group.slots.values()}))
def test_each_type_has_the_forms_that_frames_use(kind: str) -> None:
    for seed in range(20):
        filling = fill(kind, Random(seed))
        for form in used_forms()[kind]:
            assert all(filling.say(form, Random(seed), other) for other in (False, True))


def test_other_wordings_are_never_the_usual_one() -> None:
    fillings = [fill("adjective.person", Random(seed)) for seed in range(40)]
    several = [filling for filling in fillings if len(filling.forms[""]) > 1]
    assert several
    for filling in several:
        assert all(filling.say("", Random(seed), True) != filling.say("", Random(seed), False) for seed in range(5))


def test_opposite_adjectives_share_no_word() -> None:
    for name, lines in read_sections("adjectives").items():
        for line in lines:
            one, opposite = (set(side.split(" = ")) for side in line.split(" / "))
            assert not one & opposite, (name, line)


def test_names_have_no_article_and_possessives() -> None:
    filling = fill("name", Random(1))
    assert not str(filling).startswith(("the ", "a "))
    assert filling.forms["'s"][0].endswith(("'s", "s'"))
