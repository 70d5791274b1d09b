"""WordNet 3.0 as Debian packages it: synsets with their words, gloss, examples and relations.

The format is that of wndb(5WN). Words are ordered by their frequency in the tagged texts of `cntlist.rev`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lengthwise.cli.corpora.clean import read_lines

PART_NUMBERS = {"n": 1, "v": 2, "a": 3, "r": 4}
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive"
    " object person phenomenon plant possession process quantity relation shape state substance time"
)
_VERBS = (
    "body change cognition communication competition consumption contact creation emotion motion perception possession"
    " social stative weather"
)
FILES = (
    *("adj.all", "adj.pert", "adv.all"),
    *(f"noun.{name}" for name in _NOUNS.split()),
    *(f"verb.{name}" for name in _VERBS.split()),
    "adj.ppl",
)


@dataclass(frozen=True)
class Synset:
    """One meaning.

    Attributes:
        key: part of speech and offset, such as "n00001740".
        file: the lexicographer's file, such as "noun.animal".
        words: the words that have this meaning, with spaces.
        numbers: a number for each word, part of its sense key.
        pointers: symbol, key of the other synset, and the words' numbers (from 1) that it holds for; 0 is all of them.
        definition: the gloss without its examples.
        examples: sentences or phrases that use one of the words.
    """

    key: str
    file: str
    words: tuple[str, ...]
    numbers: tuple[int, ...]
    pointers: tuple[tuple[str, str, int, int], ...]
    definition: str
    examples: tuple[str, ...]

    def linked(self, symbol: str) -> list[str]:
        """Keys of the synsets that a relation leads to, such as "@" to the more general ones."""
        return [key for name, key, _, _ in self.pointers if name == symbol]


class WordNet:
    """All synsets.

    Args:
        folder: what the package wordnet-base has in /usr/share/wordnet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.synsets: dict[str, Synset] = {}
        for part in PARTS:
            for line in read_lines(folder / f"data.{part}"):
                if not line.startswith("  "):  # which the licence does
                    synset = _parse(line)
                    self.synsets[synset.key] = synset

    @cached_property
    def by_word(self) -> dict[tuple[str, str], list[Synset]]:
        """Synsets by part of speech ("n", "v", "a", "r") and word in lower case, the most frequent meaning first."""
        found = {}
        for part, letter in PARTS.items():
            for line in read_lines(self._folder / f"index.{part}"):
                if not line.startswith("  "):
                    fields = line.split()
                    offsets = fields[-int(fields[2]) :]
                    found[letter, fields[0].replace("_", " ")] = [self.synsets[letter + offset] for offset in offsets]
        return found

    @cached_property
    def counts(self) -> dict[tuple[str, str], int]:
        """How often a word in lower case was tagged with a meaning, by the word and the key of its synset."""
        keys = {
            (word.lower(), PART_NUMBERS[synset.key[0]], FILES.index(synset.file), number): synset.key
            for synset in self.synsets.values()
            for word, number in zip(synset.words, synset.numbers, strict=True)
        }
        counts: dict[tuple[str, str], int] = {}
        for line in read_lines(self._folder / "cntlist.rev"):
            sense, _, count = line.split()
            word, _, rest = sense.partition("%")
            word = word.replace("_", " ")
            part, file, number, *_ = rest.split(":")
            key = keys.get((word, 3 if part == "5" else int(part), int(file), int(number)))
            if key:
                counts[word, key] = counts.get((word, key), 0) + int(count)
        return counts

    def antonyms(self, part: str) -> list[tuple[str, str]]:
        """Pairs of words with opposite meanings, of the part of speech "n", "v", "a" or "r"."""
        pairs = set()
        for synset in self.synsets.values():
            if synset.key[0] == part:
                for symbol, key, source, target in synset.pointers:
                    if symbol == "!" and source and target:
                        pairs.add((synset.words[source - 1], self.synsets[key].words[target - 1]))
        return sorted(pairs)


def _parse(line: str) -> Synset:
    data, _, gloss = line.partition(" | ")
    fields = data.split(" ")
    letter = "a" if fields[2] == "s" else fields[2]
    count = int(fields[3], 16)
    words = tuple(re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
    numbers = tuple(int(number, 16) for number in fields[5 : 5 + 2 * count : 2])
    start = 5 + 2 * count
    pointers = []
    for at in range(start, start + 4 * int(fields[start - 1]), 4):
        symbol, offset, part, ends = fields[at : at + 4]
        pointers.append((symbol, ("a" if part == "s" else part) + offset, int(ends[:2], 16), int(ends[2:], 16)))
    definition, examples = _split_gloss(gloss.strip())
    return Synset(letter + fields[0], FILES[int(fields[1])], words, numbers, tuple(pointers), definition, examples)


def _split_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    definition, _, rest = gloss.partition('; "')
    return definition.strip(), tuple(part.strip() for part in re.findall(r"\"([^\"]+)\"", f'"{rest}'))
