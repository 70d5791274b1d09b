"""Frames: sentences with slots, in groups that say the same, and how triples come out of two opposed groups.

Notation of a frame:

- `{x}` is what fills slot x, `{x:ing}` a form of it (see `fillings`).
- `<sell>` is the verb in the triple's tense, `<+sell>` its passive, `<-sell>` and `<-+sell>` negated; `<be>` too.
- `[bought|purchased]` is one of these; the first is the usual word, the others are other words for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from lengthwise.cli.corpora.rules.fillings import Filling, fill
from lengthwise.cli.corpora.rules.inflection import verb, with_article
from lengthwise.cli.corpora.rules.tables import read_lines, read_sections

TENSES = ("past",) * 6 + ("present",) * 2 + ("perfect", "future", "future", "modal")
_TOKEN = re.compile(r"\{(\w+)(?::([\w']+))?\}|<(-?)(\+?)([^>]+)>|\[([^\[\]]*)\]")


class Triple(NamedTuple):
    """A text, the same meaning in other words, and another meaning in the same words."""

    anchor: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Group:
    """Two lists of frames; those within a list mean the same.

    Attributes:
        name: for reports.
        slots: types by the slot's name.
        frames: the frames of one meaning.
        opposite: the frames of the other meaning; none if it is made by exchanging two slots.
        swapped: the slots that are exchanged.
        tenses: the tenses that the frames allow.
        dressed: whether the sentences may get an opening or an adverbial.
    """

    name: str
    slots: Mapping[str, str]
    frames: tuple[str, ...]
    opposite: tuple[str, ...] = ()
    swapped: tuple[str, str] | None = None
    tenses: tuple[str, ...] = TENSES
    dressed: bool = True


def load_groups(table: str) -> Iterator[Group]:
    """The groups of a table: `@ name x:type y:type ~ x y`, frames, and `--` before the frames of the opposite.

    A header may also hold `tense=past,present`, and `undressed` for what is no sentence.
    """
    header = ""
    frames: list[str] = []
    for line in (*read_lines(table), "@"):
        if line.startswith("@"):
            if header:
                yield _group(header, frames)
            header, frames = line[1:].strip(), []
        else:
            frames.append(line)


def _group(header: str, lines: list[str]) -> Group:
    name, *words = header.split()
    slots = dict(word.split(":") for word in words if ":" in word)
    tenses = next((word.removeprefix("tense=").split(",") for word in words if word.startswith("tense=")), TENSES)
    exchanged = [word for word in words if word in slots]
    at = lines.index("--") if "--" in lines else len(lines)
    if (len(exchanged) != 2) == (at == len(lines)):
        raise ValueError(f"the group {name} needs two slots after ~, or frames after --, and not both")
    swapped = (exchanged[0], exchanged[1]) if exchanged else None
    return Group(
        name, slots, tuple(lines[:at]), tuple(lines[at + 1 :]), swapped, tuple(tenses), "undressed" not in words
    )


def make_triple(group: Group, rng: Random) -> Triple | None:
    """A random triple of a group; None if the fillings do not differ."""
    filled = fill_slots(group.slots, rng)
    if filled is None:
        return None
    sides = [(group.frames, filled), (group.opposite, filled)]
    if group.swapped:
        one, two = group.swapped
        sides[1] = (group.frames, filled | {one: filled[two], two: filled[one]})
    rng.shuffle(sides)
    (frames, meaning), (other_frames, other_meaning) = sides
    context = Context(rng, rng.choice(group.tenses))
    at = rng.randrange(len(frames))
    others = [number for number in range(len(frames)) if number != at]
    same = rng.choice(others) if others and rng.random() < 0.93 else at
    words = Random(rng.random())
    anchor = say(frames[at], meaning, context.tense, words, 0.15 if rng.random() < 0.4 else 0.0)
    positive = say(frames[same], meaning, context.tense, rng, 0.0 if rng.random() < 0.2 else 0.6 if same != at else 0.9)
    negative = _nearest(anchor, other_frames, other_meaning, context.tense, rng, mirrored=at if group.swapped else None)
    return context.dress(anchor, positive, negative, group.dressed)


def _nearest(
    anchor: str, frames: tuple[str, ...], meaning: Mapping[str, Filling], tense: str, rng: Random, mirrored: int | None
) -> str:
    """A text of the other meaning: mostly the one with the most words of the anchor, sometimes any."""
    if rng.random() < 0.3:
        return say(rng.choice(frames), meaning, tense, rng, 0.2)
    tried = frames if mirrored is None or rng.random() < 0.4 else (frames[mirrored],)
    said = [say(frame, meaning, tense, rng, 0.0) for frame in tried]
    return max(said, key=lambda text: similarity(anchor, text))


def similarity(one: str, two: str) -> float:
    """The share of words that two texts have in common."""
    first, second = set(one.lower().split()), set(two.lower().split())
    return len(first & second) / len(first | second)


def fill_slots(slots: Mapping[str, str], rng: Random) -> dict[str, Filling] | None:
    """A filling for each slot, no two of them alike; None if that was not found in a few tries."""
    for _ in range(8):
        filled = {name: fill(kind, rng) for name, kind in slots.items()}
        nouns = [frozenset(filling.forms.get("bare", filling.forms[""])) for filling in filled.values()]
        if all(one.isdisjoint(two) for at, one in enumerate(nouns) for two in nouns[:at]):
            return filled
    return None


def say(frame: str, meaning: Mapping[str, Filling], tense: str, rng: Random, other: float) -> str:
    """A frame with its slots filled.

    Args:
        other: how probable other words are, for each slot and choice.
    """

    def word(match: re.Match[str]) -> str:
        slot, form, negated, passive, base, choice = match.groups()
        if slot:
            return meaning[slot].say(form or "", rng, rng.random() < other)
        if base:
            return conjugate(base, tense, bool(negated), bool(passive))
        words = choice.split("|")
        return rng.choice(words[1:]) if len(words) > 1 and rng.random() < max(other, 0.25) else words[0]

    text, before = frame, ""
    while before != text:  # choices may hold slots
        before, text = text, _TOKEN.sub(word, text)
    text = re.sub(r"\b[Aa]n? (?=\w)(\w+)", lambda match: match.group(0)[0] + with_article(match.group(1))[1:], text)
    return re.sub(r"\s+([,.;?])", r"\1", re.sub(r"\s+", " ", text)).strip()


def conjugate(base: str, tense: str, negated: bool = False, passive: bool = False) -> str:
    """A verb phrase for a third person singular, such as "did not sell" or "has been sold"."""
    no = " not" if negated else ""
    if passive or base == "be":
        rest = f" {verb(base).participle}" if passive else ""
        copula = {
            "past": "was{}",
            "present": "is{}",
            "perfect": "has{} been",
            "future": "will{} be",
            "modal": "may{} be",
        }
        return copula[tense].format(no) + rest
    forms = verb(base)
    if tense == "past":
        return f"did not {base}" if negated else forms.past
    if tense == "present":
        return f"does not {base}" if negated else forms.third
    return {"perfect": f"has{no} {forms.participle}", "future": f"will{no} {base}", "modal": f"may{no} {base}"}[tense]


class Context:
    """What the three sentences of a triple share: tense, an opening or an adverbial, capitals and a full stop."""

    def __init__(self, rng: Random, tense: str) -> None:
        self.tense, self._rng = tense, rng

    def dress(self, anchor: str, positive: str, negative: str, dressed: bool) -> Triple | None:
        """The triple with that around its sentences; None if two of them are the same text."""
        rng = self._rng
        texts = [anchor, positive, negative]
        chance = rng.random() if dressed else 1.0
        if chance < 0.12:
            texts = self._opened(texts)
        elif chance < 0.30 and self.tense == "past" and not any("?" in text for text in texts):
            texts = self._placed(texts, _said("time"))
        elif chance < 0.36 and not any("?" in text for text in texts):
            texts = self._placed(texts, _said("place"))
        plain = rng.random() < 0.35
        texts = [text if plain != (rng.random() < 0.1) else finish(text) for text in texts]
        if rng.random() < 0.15:
            texts = [contract(text) if rng.random() < 0.7 else text for text in texts]
        if len({letters(text) for text in texts}) < 3:
            return None
        return Triple(*texts)

    def _opened(self, texts: list[str]) -> list[str]:
        wordings = self._rng.choice(_said("opening"))
        chosen = [wordings[0], self._rng.choice(wordings), wordings[0]]
        starts = [start if start.endswith("that") else f"{start}," for start in chosen]
        return [f"{start} {text}" for start, text in zip(starts, texts, strict=True)]

    def _placed(self, texts: list[str], said: tuple[tuple[str, ...], ...]) -> list[str]:
        wordings = self._rng.choice(said)
        chosen = [wordings[0], self._rng.choice(wordings), wordings[0]]
        front = self._rng.random() < 0.5
        fronts = [front, front != (self._rng.random() < 0.5), front]
        return [
            f"{phrase}, {text}" if first or ";" in text or "," in text else f"{text} {phrase}"
            for phrase, text, first in zip(chosen, texts, fronts, strict=True)
        ]


def finish(text: str) -> str:
    """The text as a written sentence: a capital at its start and a full stop, unless it ends with a mark."""
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".?!" else ".")


def letters(text: str) -> str:
    """The text without case and punctuation."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def contract(text: str) -> str:
    """Contractions as they are spoken: "is not" as "isn't"."""
    text = re.sub(r"\b(is|was|are|were|has|have|had|does|do|did|could|should|would) not\b", r"\1n't", text)
    return text.replace("will not", "won't").replace("cannot", "can't").replace("can not", "can't")


@cache
def _said(section: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(line.split(" = ")) for line in read_sections("context")[section])
