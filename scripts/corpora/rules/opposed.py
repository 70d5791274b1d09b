"""Verbs with opposites: the same persons and things, and the contrary done."""

from __future__ import annotations

from collections.abc import Iterator

from lengthwise.cli.corpora.rules.events import put_verbs
from lengthwise.cli.corpora.rules.frames import Group
from lengthwise.cli.corpora.rules.tables import read_lines, read_sections


def opposed_groups() -> Iterator[Group]:
    """A group for each line of `tables/opposed_verbs.txt`: what one verb says, and what its opposite says."""
    for heading, lines in read_sections("opposed_verbs").items():
        subject, thing = heading.split()
        slots = {"x": subject, "y": thing}
        frames = [
            line.replace("{y}", "the {y}") if thing == "quality" else line for line in read_lines("frames_opposed")
        ]
        who = "who" if subject in ("person", "agent") else "that"
        for line in lines:
            verbs, opposite = (side.split(" = ") for side in line.split(" / "))
            for one, other in ((verbs, opposite), (opposite, verbs)):
                said, contrary = (tuple(put_verbs(frame, who, each) for frame in frames) for each in (one, other))
                yield Group(f"opposed.{one[0]}", slots, said, contrary)
