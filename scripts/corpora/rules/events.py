"""Somebody does something to somebody: active, passive, cleft and nominal forms of many verbs; the roles exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lengthwise.cli.corpora.rules.frames import Group
from lengthwise.cli.corpora.rules.tables import read_sections

TYPES = {
    "being": ("being", "being", "person", "animal"),
    "animal": ("animal",),
    "person": ("person", "person", "name", "role"),
    "organisation": ("organisation", "agent"),
    "country": ("country",),
    "event": ("event!", "cause!"),
    "thing": ("thing",),
}
_NO_PASSIVE = re.compile(
    r"(?:be|have|give|pay|play|put|make an|find fault|say|express|run|send|follow the|look like|bring|come"
    r"|end|win|go|get) "
)
_NO_ONES = frozenset({"animal", "country", "event!", "cause!", "thing", "organisation"})


def event_groups() -> Iterator[Group]:
    """Groups for each verb of `tables/verbs.txt` and each type that it takes: plain, modified, denied and others."""
    frames = read_sections("frames_events")
    for heading, lines in read_sections("verbs").items():
        for kind in TYPES[heading]:
            who = "that" if kind in _NO_ONES else "who"
            for line in lines:
                verbs, _, noun = line.partition(" | ")
                yield from _groups(frames, f"event.{verbs.split(' = ')[0]}", kind, who, verbs.split(" = "), noun)


def _groups(
    frames: dict[str, tuple[str, ...]], name: str, kind: str, who: str, verbs: list[str], noun: str
) -> Iterator[Group]:
    slots = {"x": kind, "y": kind}

    def made(section: str, nominal: bool = False) -> tuple[str, ...]:
        lines = frames[section] + (frames["noun"] if nominal and noun else ())
        return tuple(put_verbs(line, who, verbs, noun) for line in lines)

    plain = made("plain", nominal=True)
    yield Group(name, slots, plain, swapped=("x", "y"))
    yield Group(f"{name}.denied", slots, made("plain"), made("denied"))
    if kind not in ("event!", "cause!", "thing"):
        yield Group(f"{name}.modified", slots | {"m": "adverb"}, made("modified"), swapped=("x", "y"))
        described = slots | {"a": f"adjective.{_described(kind)}"}
        yield Group(f"{name}.attribute", described, made("attribute"), swapped=("x", "y"))
        yield Group(f"{name}.third", slots | {"z": kind}, made("third"), swapped=("y", "z"))
        yield Group(f"{name}.because", slots | {"p": "clause"}, made("because"), swapped=("x", "y"), tenses=("past",))


def _described(kind: str) -> str:
    return {"animal": "animal", "country": "place"}.get(kind, "person")


def put_verbs(line: str, who: str, verbs: list[str], noun: str = "") -> str:
    """A frame with its verb put in: `V` is any of the verbs, whose object stands at a star if it does not come last."""
    line = line.replace("WHO", who).replace("NOUN", noun)

    def choice(mark: re.Match[str]) -> str:
        marks, after = mark.group(1), mark.group(2) or ""
        said = []
        for verb in verbs:
            if "+" in marks and _NO_PASSIVE.match(verb):
                continue
            start, star, rest = verb.partition(" * ")
            if star and after:
                said.append(f"<{marks}{start}>{after} {rest}")
            else:
                said.append(f"<{marks}{start}{' ' if star else ''}{rest}>{after}")
        return "[" + "|".join(said) + "]"

    return re.sub(r"<([-+]*)V>( \{[yz]\})?", choice, line)
