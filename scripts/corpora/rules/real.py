"""Triples from real sentences: other words and another order, against a denial, an opposite or exchanged nouns.

Sentences are tagged word by word (`Lexicon.tag`), so that only plain patterns are changed, and most are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from random import Random

from lengthwise.cli.corpora.rules.frames import Triple, finish, letters
from lengthwise.cli.corpora.rules.inflection import verb
from lengthwise.cli.corpora.rules.lexicon import Lexicon
from lengthwise.cli.corpora.rules.tables import read_lines

_TOKEN = re.compile(r"[$£€]?\d[\d.,]*\d[\w%-]*|[$£€]?\d[\w%-]*|[A-Za-z]+(?:[.'’-][A-Za-z]+)*|[^\w\s]")
_PLAIN = re.compile(r"[\w\s,.?!%$£€'’-]+")
MIN_WORDS, MAX_WORDS = 4, 26
_AUXILIARIES = frozenset(
    {"is", "are", "was", "were", "can", "could", "will", "would", "should", "must", "may", "might", "does", "do", "did"}
)
_PERFECT = frozenset({"has", "have", "had"})
_DETERMINERS = frozenset({"at", "pp$", "dt", "dti", "cd", "ap", "dts", "np$"})
_MODIFIERS = frozenset({"jj", "vbn", "jjt", "jjr", "nn", "np"})
_HEADS = frozenset({"nn", "nns", "np"})
_NO_PASSIVE = frozenset({"be", "have", "become", "remain", "seem", "say", "mean", "cost", "weigh", "last"})
_JOINTS = (
    "because",
    "although",
    "when",
    "while",
    "after",
    "before",
    "if",
    "unless",
    "since",
    "until",
    "despite",
    "during",
)
_OBJECTS = {"he": "him", "she": "her", "they": "them", "we": "us", "i": "me", "who": "whom"}
_SUBJECTS = {objective: subject for subject, objective in _OBJECTS.items()}


class RealSentences:
    """Makes triples of sentences that somebody wrote.

    Args:
        lexicon: tags, synonyms and antonyms.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def triple(self, sentence: str, rng: Random) -> Triple | None:
        """A triple of a sentence; None if no rule applies to it."""
        words = _expanded(_TOKEN.findall(sentence))
        if not _PLAIN.fullmatch(sentence) or "--" in sentence or not MIN_WORDS <= len(words) <= MAX_WORDS:
            return None
        tags = [self._lexicon.tag(word) for word in words]
        negative = self._other_meaning(words, tags, rng)
        positive = self._same_meaning(words, tags, rng)
        if negative is None or positive is None:
            return None
        anchor = _joined(words)
        triple = Triple(*(self._written(text, sentence) for text in (anchor, _joined(positive), _joined(negative))))
        return triple if len({letters(text) for text in triple}) == 3 else None

    @staticmethod
    def _written(text: str, original: str) -> str:
        return finish(text) if original[-1:] in ".?!" else text

    def _other_meaning(self, words: list[str], tags: list[str], rng: Random) -> list[str] | None:
        rules: list[Callable[[list[str], list[str], Random], list[str] | None]] = [
            self._exchanged,
            self._exchanged,
            _denied,
            self._opposite,
            _renumbered,
        ]
        rng.shuffle(rules)
        for rule in rules:
            changed = rule(words, tags, rng)
            if changed is not None and changed != words:
                return changed
        return None

    def _same_meaning(self, words: list[str], tags: list[str], rng: Random) -> list[str] | None:
        passive = self._passive(words, tags)
        if passive is not None and rng.random() < 0.8:
            changed, moved = passive, True
            changed = self._reworded(changed, [self._lexicon.tag(word) for word in changed], rng)
        else:
            changed = self._reworded(words, tags, rng)
            changed, moved = _reordered(changed, rng)
        return changed if moved or changed != words else None

    def _reworded(self, words: list[str], tags: list[str], rng: Random) -> list[str]:
        changed = list(words)
        for at, (word, tag) in enumerate(zip(words, tags, strict=True)):
            others = self._lexicon.synonyms(word, tag) if word.islower() and len(word) > 2 else ()
            if others and rng.random() < 0.75:
                changed[at] = rng.choice(others)
        return changed

    def _exchanged(self, words: list[str], tags: list[str], rng: Random) -> list[str] | None:
        """Two noun phrases of one kind, with each other's place."""
        spans = noun_phrases(words, tags)
        pairs = [
            (one, two)
            for at, one in enumerate(spans)
            for two in spans[at + 1 : at + 3]
            if _kind(tags, one) == _kind(tags, two)
            and words[one[0] : one[1]] != words[two[0] : two[1]]
            and _divides(tags[one[1] : two[0]])
        ]
        if not pairs:
            return None
        (a, b), (c, d) = rng.choice(pairs)
        first = _cased(words[c:d], True) if a == 0 else words[c:d]
        second = _cased(words[a:b], False, tags[a]) if a == 0 else words[a:b]
        if len(first) == 1 == len(second) and tags[a].startswith("pp"):
            first, second = [_SUBJECTS.get(first[0].lower(), first[0])], [_OBJECTS.get(second[0].lower(), second[0])]
            first = _cased(first, a == 0)
        return words[:a] + first + words[b:c] + second + words[d:]

    def _opposite(self, words: list[str], tags: list[str], rng: Random) -> list[str] | None:
        opposites, found = _opposites(), []
        for at, (word, tag) in enumerate(zip(words, tags, strict=True)):
            if word.lower() in opposites:
                found.append((at, opposites[word.lower()]))
            elif word.islower():
                found += [(at, other) for other in self._lexicon.antonyms(word, tag)]
        if not found:
            return None
        at, other = rng.choice(found)
        changed = list(words)
        changed[at] = other.capitalize() if words[at][0].isupper() else other
        return changed

    def _passive(self, words: list[str], tags: list[str]) -> list[str] | None:
        """ "The dog chased the cat in the park" as "The cat was chased by the dog in the park"."""
        spans = noun_phrases(words, tags)
        for (a, b), (c, d) in pairwise(spans):
            ends = d == len(words) or words[d] in (".", ",") or (tags[d] == "in" and words[d] != "of")
            if a == 0 and c == b + 1 and tags[b] in ("vbd", "vbn") and ends:
                base = self._lexicon.base(words[b])
                if base is None or base in _NO_PASSIVE:
                    return None
                plural = tags[d - 1] == "nns" or words[c].lower() in ("them", "us") or "and" in words[c:d]
                subject = [_SUBJECTS.get(words[c], words[c])] if d - c == 1 else words[c:d]
                agent = _cased(words[a:b], False, tags[a])
                agent = [_OBJECTS.get(agent[0].lower(), agent[0])] if b - a == 1 else agent
                done = ["were" if plural else "was", verb(base).participle, "by"]
                return _cased(subject, words[0][0].isupper()) + done + agent + words[d:]
        return None


@cache
def _opposites() -> dict[str, str]:
    return dict(line.split(" / ") for line in read_lines("opposites"))


def noun_phrases(words: list[str], tags: list[str]) -> list[tuple[int, int]]:
    """Start and end of the plain noun phrases of a tagged sentence: determiner or name, adjectives, nouns; pronouns."""
    spans, at = [], 0
    while at < len(words):
        end = at
        if tags[at] in ("pps", "ppss", "ppo") and words[at].lower() in (_OBJECTS.keys() | _SUBJECTS.keys()):
            spans.append((at, at + 1))
            at += 1
            continue
        while end < len(words) and tags[end] in _DETERMINERS and end - at < 2:
            end += 1
        started = end > at
        while end < len(words) and tags[end] in _MODIFIERS | _HEADS:
            end += 1
        while end > at and tags[end - 1] not in _HEADS:
            end -= 1
        if end > at and (started or tags[end - 1] in ("nns", "np")) and end - at < 6:
            spans.append((at, end))
        at = max(end, at + 1)
    return spans


def _kind(tags: list[str], span: tuple[int, int]) -> str:
    head = tags[span[1] - 1]
    return "pronoun" if head.startswith("pp") else head


def _divides(between: list[str]) -> bool:
    """Whether a verb or a preposition stands between two noun phrases, so that their order matters."""
    acts = any(tag.startswith(("vb", "do", "hv")) or tag in ("in", "cs") for tag in between)
    return acts and between != ["ber"] and between != ["bez"]


def _denied(words: list[str], tags: list[str], rng: Random) -> list[str] | None:
    """The sentence with its first auxiliary denied, or without its "not"."""
    if "not" in words:
        at = words.index("not")
        return words[:at] + words[at + 1 :]
    for at, word in enumerate(words[:-1]):
        participle = tags[at + 1] in ("vbn", "ben", "vbd")
        if word in _AUXILIARIES or (word in _PERFECT and participle):
            return [*words[: at + 1], "not", *words[at + 1 :]]
    return None


def _renumbered(words: list[str], tags: list[str], rng: Random) -> list[str] | None:
    """Two numbers, each in the other's place."""
    at = [number for number, word in enumerate(words) if word[0].isdigit()]
    if len(at) < 2 or words[at[0]] == words[at[1]]:
        return None
    changed = list(words)
    changed[at[0]], changed[at[1]] = words[at[1]], words[at[0]]
    return changed


def _reordered(words: list[str], rng: Random) -> tuple[list[str], bool]:
    """The sentence with a clause moved to its front, or from there to its end."""
    if words[-1] == "?":
        return words, False
    end = len(words) - (words[-1] in (".", "!"))
    lower = [word.lower() for word in words]
    for joint in _JOINTS:
        if joint not in lower:
            continue
        at = lower.index(joint)
        if at == 0 and "," in words[3:end] and words.count(",") == 1:
            comma = words.index(",")
            return [*_cased(words[comma + 1 : end], True), *_cased(words[:comma], False, ""), *words[end:]], True
        if at > 3 and end - at > 3 and words.count(",") == 0:
            start = _cased(words[at:end], words[0][0].isupper())
            return [*start, ",", *_cased(words[:at], False, "at"), *words[end:]], True
    return words, False


def _cased(words: list[str], upper: bool, tag: str = "") -> list[str]:
    """The words with a capital at the start, or without one if the first is no name."""
    if upper:
        return [words[0][:1].upper() + words[0][1:], *words[1:]]
    keep = tag == "np" or words[0] == "I" or (words[0].isupper() and len(words[0]) > 1)
    return words if keep else [words[0].lower(), *words[1:]]


def _expanded(words: list[str]) -> list[str]:
    """Words with "isn't" as "is not", so that it can be denied."""
    found = []
    for word in words:
        start, ending = word[:-3], word[-3:]
        if ending in ("n't", "n’t") and word.lower() not in ("won't", "can't", "shan't", "won’t", "can’t"):
            found += [start, "not"]
        elif word.lower() in ("can't", "cannot", "can’t"):
            found += ["can", "not"]
        elif word.lower() in ("won't", "won’t"):
            found += ["will", "not"]
        else:
            found.append(word)
    return found


def _joined(words: list[str]) -> str:
    text = " ".join(words)
    text = re.sub(r"\s+([,.;:?!%)\]])", r"\1", text)
    text = re.sub(r"([(\[$])\s+", r"\1", text)
    text = re.sub(r"\b([Aa]) (?=[aeio][a-z])(?!one\b|once\b|eu)", r"\1n ", text)
    text = re.sub(r"\b([Aa])n (?=[bcdfgjklmnpqrstvwyz][a-z])", r"\1 ", text)
    return re.sub(r"\s*'\s*s\b", "'s", text)
