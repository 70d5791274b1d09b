"""What is known of single words: tags from the Brown corpus, synonyms and antonyms from WordNet, forms by rule.

A word's usual meaning is taken to be its first in WordNet, if that has most of its tagged uses; words of several common
meanings have neither synonyms nor antonyms here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache, cached_property

from lengthwise.cli.corpora.rules.inflection import Verb, comparative, plural, superlative, verb
from lengthwise.cli.corpora.wordnet import Synset, WordNet

USUAL_SHARE = 0.7
COMMON = 4
_WORD = re.compile(r"[A-Za-z]+")
_KINDS = {  # part of speech and form, by tag
    "nn": ("n", ""),
    "nns": ("n", "s"),
    "jj": ("a", ""),
    "rb": ("r", ""),
    "vb": ("v", ""),
    "vbd": ("v", "ed"),
    "vbn": ("v", "en"),
    "vbg": ("v", "ing"),
    "vbz": ("v", "s"),
    "jjr": ("a", "er"),
    "jjt": ("a", "est"),
}


class Lexicon:
    """Tags, synonyms and antonyms of English words.

    Args:
        wordnet: where meanings come from.
        tagged: sentences of words with their tags of the Brown corpus.
    """

    def __init__(self, wordnet: WordNet, tagged: Iterable[list[tuple[str, str]]]) -> None:
        self._wordnet = wordnet
        tags: dict[str, Counter[str]] = defaultdict(Counter)
        self._uses: Counter[str] = Counter()
        for sentence in tagged:
            for word, tag in sentence:
                tags[word.lower()][re.sub(r"-(?:hl|tl|nc)$", "", tag.lower())] += 1
                self._uses[word.lower()] += 1
        self._tags = {word: max(sorted(counts), key=counts.__getitem__) for word, counts in tags.items()}

    def tag(self, word: str) -> str:
        """The usual tag of a word in the Brown corpus; guessed by its ending if it is not there."""
        lower = word.lower()
        if lower in self._tags:
            return self._tags[lower]
        if not _WORD.fullmatch(word):
            return "cd" if re.fullmatch(r"[\d.,]+", word) else "x"
        if word[0].isupper():
            return "np"
        for ending, tag in (("ly", "rb"), ("ing", "vbg"), ("ed", "vbd"), ("s", "nns"), ("ous", "jj"), ("able", "jj")):
            if lower.endswith(ending):
                return tag
        return "nn"

    @cache  # noqa: B019  # lives as long as the process
    def synonyms(self, word: str, tag: str) -> tuple[str, ...]:
        """Other words for the usual meaning of a word, in its form; none if that meaning is not clear."""
        found = self._usual(word, tag)
        if found is None:
            return ()
        lemma, synset, form = found
        others = [other for other in synset.words if other.lower() != lemma and self._is_usual(other, synset)]
        said = [self._inflected(other, synset.key[0], form) for other in others if other.count(" ") < 2]
        return tuple(each for each in said if lemma not in each.split() and all(map(self.is_common, each.split())))

    @cache  # noqa: B019
    def antonyms(self, word: str, tag: str) -> tuple[str, ...]:
        """Words that mean the opposite of the usual meaning of a word, in its form."""
        found = self._usual(word, tag)
        if found is None:
            return ()
        lemma, synset, form = found
        opposite = []
        for symbol, key, source, target in synset.pointers:
            if symbol == "!" and source and synset.words[source - 1].lower() == lemma:
                other = self._wordnet.synsets[key].words[target - 1]
                if self._uses[other.lower()] >= COMMON:
                    opposite.append(self._inflected(other, synset.key[0], form))
        return tuple(opposite)

    @cache  # noqa: B019
    def base(self, word: str) -> str | None:
        """The base form of a verb in the past tense or its participle."""
        return self._verb_forms.get((word.lower(), "ed")) or self._verb_forms.get((word.lower(), "en"))

    def is_common(self, word: str) -> bool:
        """Whether a word is in the Brown corpus several times."""
        return self._uses[word.lower()] >= COMMON

    def _usual(self, word: str, tag: str) -> tuple[str, Synset, str] | None:
        part, form = _KINDS.get(tag, ("", ""))
        lemma = self._lemma(word.lower(), part, form) if part else None
        synsets = self._wordnet.by_word.get((part, lemma)) if lemma else None
        if not lemma or not synsets or not self._dominates(lemma, synsets):
            return None
        return lemma, synsets[0], form

    def _is_usual(self, word: str, synset: Synset) -> bool:
        synsets = self._wordnet.by_word.get((synset.key[0], word.lower()), [])
        return bool(synsets) and synsets[0].key == synset.key and self._dominates(word.lower(), synsets)

    def _dominates(self, lemma: str, synsets: list[Synset]) -> bool:
        if len(synsets) == 1:
            return True
        counts = [self._wordnet.counts.get((lemma, synset.key), 0) for synset in synsets]
        return counts[0] >= USUAL_SHARE * sum(counts) and counts[0] > 0

    def _lemma(self, word: str, part: str, form: str) -> str | None:
        if part == "v" and form:
            return self._verb_forms.get((word, form))
        if part == "n" and form:
            return self._singulars.get(word)
        if part == "a" and form:
            return self._graded.get((word, form))
        return word

    @staticmethod
    def _inflected(word: str, part: str, form: str) -> str:
        if part == "v":
            forms = verb(word)
            return forms.base if not form else dict(_marked(forms))[form]
        if part == "n":
            return plural(word) if form else word
        return {"er": comparative, "est": superlative}.get(form, str)(word)

    @cached_property
    def _verb_forms(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for part, word in self._wordnet.by_word:
            if part == "v" and word.isalpha():
                forms = verb(word)
                for form, said in _marked(forms):
                    if self._uses[word] >= self._uses[found.get((said, form), "")]:
                        found[said, form] = word
        return found

    @cached_property
    def _singulars(self) -> dict[str, str]:
        return {plural(word): word for part, word in self._wordnet.by_word if part == "n" and word.isalpha()}

    @cached_property
    def _graded(self) -> dict[tuple[str, str], str]:
        words = [word for part, word in self._wordnet.by_word if part == "a" and word.isalpha() and len(word) < 9]
        more, most = [(comparative(word), "er") for word in words], [(superlative(word), "est") for word in words]
        return dict(zip([*more, *most], [*words, *words], strict=True))


def _marked(forms: Verb) -> tuple[tuple[str, str], ...]:
    return (("ed", forms.past), ("en", forms.participle), ("ing", forms.gerund), ("s", forms.third))
