"""Fillings of slots: typed words in all forms that frames ask for."""

from __future__ import annotations

import re
from random import Random

import pytest

from lengthwise.cli.corpora.rules.events import event_groups
from lengthwise.cli.corpora.rules.fillings import fill
from lengthwise.cli.corpora.rules.frames import load_groups
from lengthwise.cli.corpora.rules.tables import read_sections
from lengthwise.cli.corpora.triples import TABLES

GROUPS = [group for table in TABLES for group in load_groups(f"frames_{table}")] + list(event_groups())


@pytest.mark.parametrize("kind", sorted({kind for group in GROUPS for kind in group.slots.values()}))
def test_each_type_has_the_forms_that_frames_use(kind: str) -> None:
    used = {
        match.group(2) or ""
        for group in GROUPS
        for frame in (*group.frames, *group.opposite)
        for match in re.finditer(r"\{(\w+)(?::([\w']+))?\}", frame)
        if group.slots[match.group(1)] == kind
    }
    for seed in range(30):
        filling = fill(kind, Random(seed))
        for form in used:
            assert all(filling.say(form, Random(seed), other) for other in (False, True))


def test_other_wordings_are_never_the_usual_one() -> None:
    filling = fill("adjective.person", Random(4))
    assert filling.say("", Random(0), True) != filling.say("", Random(0), False) or len(filling.forms[""]) == 1


def test_opposite_adjectives_share_no_word() -> None:
    for name, lines in read_sections("adjectives").items():
        for line in lines:
            one, opposite = (set(side.split(" = ")) for side in line.split(" / "))
            assert not one & opposite, (name, line)


def test_names_have_no_article_and_possessives() -> None:
    filling = fill("name", Random(1))
    assert not str(filling).startswith(("the ", "a "))
    assert filling.forms["'s"][0].endswith(("'s", "s'"))
