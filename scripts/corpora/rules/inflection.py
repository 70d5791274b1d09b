"""Forms of English verbs, adjectives and nouns: irregular ones from a table, the others by rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from lengthwise.cli.corpora.rules.tables import read_lines

_VOWEL_SOUND = re.compile(r"[aeio]|u(?!ni|s[eu]|k|r[aeio])|hour|honest|heir")
_DOUBLING = re.compile(
    r"admit|begin|commit|compel|control|defer|equip|expel|forbid|forget|occur|omit|permit|prefer|propel|rebel|refer|regret"
    r"|submit|transfer|upset|outrun|quit"
)


@dataclass(frozen=True)
class Verb:
    """Forms of a verb; words after the first one are an object or particle that stays as it is."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


@cache
def verb(phrase: str) -> Verb:
    """Forms of a verb or verb phrase given by its base form, such as "sell" or "open the window"."""
    base, space, rest = phrase.partition(" ")
    past, participle = _irregular_verbs().get(base, (_regular_past(base), _regular_past(base)))
    forms = (base, _third(base), past, participle, _gerund(base))
    return Verb(*(form + space + rest for form in forms))


def comparative(adjective: str) -> str:
    """ "taller" of "tall", "more careful" of "careful"."""
    return _graded(adjective, "er", "more", {"good": "better", "bad": "worse", "far": "farther", "little": "smaller"})


def superlative(adjective: str) -> str:
    """ "tallest" of "tall", "most careful" of "careful"."""
    return _graded(adjective, "est", "most", {"good": "best", "bad": "worst", "far": "farthest", "little": "smallest"})


def plural(noun: str) -> str:
    """The plural of a noun; the last word of several is inflected."""
    start, space, last = noun.rpartition(" ")
    for single, many in _irregular_nouns().items():
        if last == single or (single in ("man", "woman", "child") and last.endswith(single) and last != "human"):
            return start + space + last[: -len(single)] + many
    return start + space + _third(last)


def with_article(noun: str) -> str:
    """The noun after "a" or "an", as it is spoken."""
    lower = noun.lower()
    vowel = _VOWEL_SOUND.match(lower) and not lower.startswith(("one", "eu"))
    return f"{'an' if vowel else 'a'} {noun}"


def _third(base: str) -> str:
    if base in ("be", "have", "do", "go"):
        return {"be": "is", "have": "has", "do": "does", "go": "goes"}[base]
    if re.search(r"(?:s|x|z|ch|sh)$", base):
        return base + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", base) + "s"


def _regular_past(base: str) -> str:
    if base.endswith("e"):
        return base + "d"
    if re.search(r"[^aeiou]y$", base):
        return base[:-1] + "ied"
    return (base + base[-1] if _doubles(base) else base) + "ed"


def _gerund(base: str) -> str:
    if base == "be":
        return "being"
    if base.endswith("ic"):
        return base + "king"
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith(("ee", "oe", "ye")):
        return base[:-1] + "ing"
    return (base + base[-1] if _doubles(base) else base) + "ing"


def _doubles(base: str) -> bool:
    one_syllable = re.fullmatch(r"(?:qu|[^aeiou])*[aeiou][^aeiouwxy]", base)
    return bool(_DOUBLING.fullmatch(base) or one_syllable)


def _graded(adjective: str, ending: str, word: str, irregular: dict[str, str]) -> str:
    if adjective in irregular:
        return irregular[adjective]
    syllables = len(re.findall(r"[aeiouy]+", re.sub(r"e$", "", adjective)))
    if syllables > 2 or (syllables == 2 and not re.search(r"(?:y|ow|er|[bdpt]le)$", adjective)) or " " in adjective:
        return f"{word} {adjective}"
    if adjective.endswith("e"):
        return adjective + ending[1:]
    if re.search(r"[^aeiou]y$", adjective):
        return adjective[:-1] + "i" + ending
    return (adjective + adjective[-1] if _doubles(adjective) else adjective) + ending


@cache
def _irregular_nouns() -> dict[str, str]:
    return dict(line.split() for line in read_lines("irregular_nouns"))


@cache
def _irregular_verbs() -> dict[str, tuple[str, str]]:
    found = {}
    for line in read_lines("irregular_verbs"):
        base, past, *participle = line.split()
        found[base] = (past, participle[0] if participle else past)
    return found
