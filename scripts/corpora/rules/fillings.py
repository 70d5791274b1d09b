"""What fills the slots of frames: typed noun phrases, deeds, clauses, adjectives and numbers, each with its forms.

A form is asked for by name; `other` asks for the same in other words, where there are some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from lengthwise.cli.corpora.rules.inflection import comparative, plural, superlative, verb, with_article
from lengthwise.cli.corpora.rules.tables import read_lines, read_sections

DETERMINERS = ("the",) * 11 + ("a",) * 4 + ("my", "our", "his", "her", "their", "this", "that")
_RELATIVES_OF = ("my", "his", "her", "our", "your", "Anna's", "Tom's")
_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Filling:
    """One thing, in several forms and wordings.

    Attributes:
        forms: wordings by the form's name; "" is the plain one. The first wording is the usual one.
    """

    forms: dict[str, tuple[str, ...]]

    def say(self, form: str, rng: Random, other: bool) -> str:
        """A wording; with `other` any of the further ones, if there are some."""
        wordings = self.forms[form]
        return rng.choice(wordings[1:]) if other and len(wordings) > 1 else wordings[0]

    def __str__(self) -> str:
        return self.forms[""][0]


def fill(kind: str, rng: Random) -> Filling:
    """A random filling of a type: the name of a list in `tables/words_*.txt`, or one of those below.

    Noun phrases: "person" (a role, relative or name), "being" (person or animal), "agent" (person or organisation).
    Others: "task", "clause", "adjective.person" and so on, "number", "year", "time", "adverb". A kind that ends in "!"
    is a noun phrase without an adjective.
    """
    if kind in _OTHERS:
        return _OTHERS[kind](rng)
    if kind.startswith("adjective."):
        return _adjective(rng, kind.removeprefix("adjective."))
    plain = kind.endswith("!")
    name = kind.rstrip("!")
    if name in _UNIONS:
        name = rng.choice(_UNIONS[name])
    return _noun_phrase(rng, name, plain)


def _noun_phrase(rng: Random, name: str, plain: bool) -> Filling:
    wordings = rng.choice(_lists("words")[name])
    if name in _PLAIN:
        return _with_possessive(wordings)
    adjectives = _lists("words").get(f"{_ADJECTIVES.get(name, '')} adjective")
    adjective = rng.choice(adjectives) if adjectives and not plain and rng.random() < 0.22 else ("",)
    determiner = rng.choice(DETERMINERS) if name != "kin" else rng.choice(_RELATIVES_OF)
    phrases = [f"{extra} {noun}".strip() for noun in wordings for extra in adjective]
    phrases.sort(key=lambda phrase: phrase.endswith(wordings[0]))  # other nouns before other adjectives
    usual = f"{adjective[0]} {wordings[0]}".strip()
    nouns = [usual, *(phrase for phrase in phrases if phrase != usual)]
    said = tuple(with_article(noun) if determiner == "a" else f"{determiner} {noun}" for noun in nouns)
    forms = _with_possessive(said).forms
    return Filling(forms | {"bare": tuple(nouns), "plural": tuple(plural(noun) for noun in nouns)})


def _with_possessive(wordings: tuple[str, ...]) -> Filling:
    return Filling({"": wordings, "'s": tuple(f"{word}'" if word.endswith("s") else f"{word}'s" for word in wordings)})


def _task(rng: Random) -> Filling:
    verbs = [verb(phrase) for phrase in rng.choice(_lists("deeds")["task"])]
    return Filling(
        {
            "": tuple(each.base for each in verbs),
            "s": tuple(each.third for each in verbs),
            "ed": tuple(each.past for each in verbs),
            "en": tuple(each.participle for each in verbs),
            "ing": tuple(each.gerund for each in verbs),
        }
    )


def _clause(rng: Random) -> Filling:
    (*said, last) = rng.choice(_lists("deeds")["clause"])
    last, _, noun = last.partition(" | ")
    parts = [clause.split(" / ") for clause in (*said, last)]
    forms = [(subject, verb(phrase)) for subject, phrase in parts]
    return Filling(
        {
            "": tuple(f"{subject} {each.past}" for subject, each in forms),
            "inf": tuple(f"{subject} {each.base}" for subject, each in forms),
            "perf": tuple(f"{subject} had {each.participle}" for subject, each in forms),
            "ing": tuple(f"{subject} {each.gerund}" for subject, each in forms),
            "not": tuple(f"{subject} did not {each.base}" for subject, each in forms),
            "will": tuple(f"{subject} will {each.base}" for subject, each in forms),
            "nom": (noun,),
        }
    )


def _adjective(rng: Random, of: str) -> Filling:
    one, opposite = (side.split(" = ") for side in rng.choice(read_sections("adjectives")[of]).split(" / "))
    if rng.random() < 0.5:
        one, opposite = opposite, one
    forms = {"": one, "op": opposite}
    for name, words in tuple(forms.items()):
        forms[f"{name}er"] = [comparative(word) for word in words]
        forms[f"{name}est"] = [superlative(word) for word in words]
    return Filling({name: tuple(words) for name, words in forms.items()})


def _kind(rng: Random) -> Filling:
    one, general = rng.choice(read_lines("kinds")).split(" / ")
    forms = {"": with_article(one), "a": with_article(one), "bare": one, "plural": plural(one)}
    forms |= {"of": with_article(general), "ofbare": general, "ofplural": _plural_of(general)}
    return Filling({name: (said,) for name, said in forms.items()})


def _plural_of(noun: str) -> str:
    """The plural of a noun whose first word is inflected, as in "pieces of furniture"."""
    head, of, rest = noun.partition(" of ")
    return plural(head) + of + rest


def _deed_to(rng: Random) -> Filling:
    verbs = [verb(base) for base in rng.choice(_lists("deeds")["deed to a person"])]
    forms = {
        "": [each.past for each in verbs],
        "inf": [each.base for each in verbs],
        "en": [each.participle for each in verbs],
    }
    return Filling({name: tuple(said) for name, said in forms.items()})


def _number(rng: Random) -> Filling:
    number = rng.choice((rng.randint(2, 12), rng.randint(2, 60), rng.randint(1, 30) * 10, rng.randint(1, 20) * 100))
    digits = f"{number:,}"
    spelled = (_UNITS[number],) if number < len(_UNITS) else ()
    return Filling({"": (digits, *spelled)} if rng.random() < 0.5 or not spelled else {"": (spelled[0], digits)})


def _year(rng: Random) -> Filling:
    return Filling({"": (str(rng.randint(1500, 2025)),)})


def _from(section: str) -> Callable[[Random], Filling]:
    return lambda rng: Filling({"": tuple(rng.choice(_lists("context")[section]))})


@cache
def _lists(table: str) -> dict[str, list[tuple[str, ...]]]:
    tables = ("words_beings", "words_things", "words_other") if table == "words" else (table,)
    sections = [section for name in tables for section in read_sections(name).items()]
    return {name: [tuple(line.split(" = ")) for line in lines] for name, lines in sections}


# Types whose words stand in a sentence as they are; the others are nouns that get a determiner.
_PLAIN = frozenset(
    {"name", "place", "country", "firm", "program", "progname", "language", "format", "feature", "remedy", "illness"}
    | {"food", "subject", "liquid", "drink", "activity", "quality", "count", "group", "people", "proposal", "circle"}
    | {"clothes", "kinterm", "material", "helpverb", "animalverb"}
)
_ADJECTIVES = {"role": "person", "animal": "animal", "thing": "thing"}
_UNIONS = {
    "person": ("role", "role", "role", "name", "name", "kin"),
    "being": ("role", "role", "name", "animal", "animal", "kin"),
    "agent": ("role", "name", "organisation"),
    "site": ("building", "venue"),
}
_OTHERS: dict[str, Callable[[Random], Filling]] = {
    "task": _task,
    "clause": _clause,
    "kindpair": _kind,
    "doverb": _deed_to,
    "number": _number,
    "year": _year,
    "time": _from("time"),
    "adverb": _from("adverb"),
    "weekday": _from("weekday"),
    "month": _from("month"),
    "unit": _from("unit"),
    "color": _from("color"),
    "direction": _from("direction"),
}
