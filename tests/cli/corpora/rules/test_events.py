"""Verbs put into the frames of events."""

from __future__ import annotations

from collections import Counter
from random import Random

from lengthwise.cli.corpora.rules.events import event_groups, put_verbs
from lengthwise.cli.corpora.rules.fillings import Filling
from lengthwise.cli.corpora.rules.frames import say

MEANING = {"x": Filling({"": ("Anna",)}), "y": Filling({"": ("Tom",)})}


def test_object_stands_where_the_verb_wants_it() -> None:
    frame = put_verbs("{x} <V> {y}", "who", ["take * to court"], "")
    assert say(frame, MEANING, "past", Random(0), 0.0) == "Anna took Tom to court"
    frame = put_verbs("{y} <-+V> by {x}", "who", ["take * to court"], "")
    assert say(frame, MEANING, "past", Random(0), 0.0) == "Tom was not taken to court by Anna"


def test_phrases_without_a_passive_are_left_out_of_it() -> None:
    assert put_verbs("{y} <+V> by {x}", "who", ["envy", "be jealous of"], "") == "{y} [<+envy>] by {x}"


def test_nouns_are_used_where_there_are_some() -> None:
    groups = {group.name: group for group in event_groups()}
    assert any("the attack on {y} by {x}" in frame for frame in groups["event.attack"].frames)
    assert not any(
        "NOUN" in frame or "WHO" in frame for group in groups.values() for frame in group.frames + group.opposite
    )


def test_each_form_of_a_verb_is_one_group() -> None:
    """A group that stands twice would be drawn twice as often as the others."""
    counts = Counter(group.name for group in event_groups())
    assert counts["event.attack"] == counts["event.attack.denied"] == counts["event.attack.third"] > 0
