"""The whitespace tokenizer of sentence-transformers as a tokenizer.json that gives the same ids.

That tokenizer splits at whitespace and looks a token up three times: as it is, without punctuation around it, and then
in lower case. Each time a stop word is dropped and a word of the vocabulary gives its id; what is never found is
dropped. No part of a tokenizer.json looks anything up twice, so which of the three applies is decided by patterns:

- Words with capitals or with punctuation at their ends are found in the text by a pattern, and marked by a character
  of a private use area: one per spelling among those that are equal in lower case.
- Everything is put into lower case, and a mark with the word behind it is what the vocabulary holds.
- The model is a BPE without merges and without an unknown token, which drops what is not in its vocabulary.
- Python's lower case depends on the context of one letter, the Greek final sigma, for which there is a pattern too.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from lengthwise.errors import TokenizerError
from lengthwise.formats.word_patterns import MARKS, any_of, escape
from lengthwise.tokens.tokenizer import TextTokenizer

# What str.split() and str.strip(string.punctuation) take away.
WHITESPACE = "\\t-\\r\\x1c-\\x20\\x{85}\\x{a0}\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
_SPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace())
_PUNCTUATION = "".join(map(escape, string.punctuation))
_FILLER, _PLAIN, _DROPPED, _UNUSED = map(chr, MARKS[:4])
_CHECKED_WORDS = 4_000


class WhitespaceVocabulary:
    """The rule itself, in Python: what the tokenizer.json is compared with.

    Attributes:
        ids: the id of each word.
    """

    def __init__(self, words: Sequence[str], stop_words: Iterable[str], *, lowercase: bool) -> None:
        self.ids = {word: number for number, word in enumerate(words)}
        self.stop_words, self.lowercase, self.size = frozenset(stop_words), lowercase, len(words)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        found = (self._lookup(token) for token in (text.lower() if self.lowercase else text).split())
        return [number for number in found if number is not None]

    def _lookup(self, token: str) -> int | None:
        bare = token.strip(string.punctuation)
        for form in (token, bare, bare.lower()):
            if form in self.stop_words:
                return None
            if form and form in self.ids:
                return self.ids[form]
        return None


def whitespace_tokenizer(vocabulary: WhitespaceVocabulary) -> TextTokenizer:
    """A tokenizer that gives the ids of a vocabulary's rule.

    Raises:
        TokenizerError: a word holds a character that marks words here, too many words differ in capitals alone, or the
            two give different ids for a text that was made of the vocabulary's words.
    """
    _check_words(vocabulary)
    at_ends, in_capitals = _words_to_mark(vocabulary)
    marks = _Marks(at_ends, in_capitals)
    tokenizer = Tokenizer(models.BPE(vocab=_keys(vocabulary, marks), merges=[], ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence(list(_normalizers(vocabulary, marks)))
    exact = "".join(marks.of_words_at_ends) + _DROPPED
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Split(Regex(f"^[{exact}].*$|^.*[^{_PUNCTUATION}]"), "removed", invert=True),
        ]
    )
    wrapped = TextTokenizer(tokenizer)
    _compare(vocabulary, wrapped)
    return wrapped


class _Marks:
    """Which character marks which words.

    Attributes:
        of_words_at_ends: words with punctuation at an end, by mark.
        of_capitals: words with capitals and without such punctuation, by mark.
        by_word: the mark of each of these words.
    """

    def __init__(self, at_ends: Iterable[str], in_capitals: Iterable[str]) -> None:
        self._next = ord(_UNUSED) + 1
        self.by_word: dict[str, str] = {}
        self.of_words_at_ends = self._number(at_ends)
        self.of_capitals = self._number(in_capitals)

    def _number(self, words: Iterable[str]) -> dict[str, list[str]]:
        spellings: dict[str, list[str]] = defaultdict(list)
        for word in words:
            spellings[word.lower()].append(word)
        groups: dict[str, list[str]] = {}
        for number in range(max(map(len, spellings.values()), default=0)):
            mark = chr(self._next)
            self._next += 1
            groups[mark] = [each[number] for each in spellings.values() if number < len(each)]
            self.by_word.update(dict.fromkeys(groups[mark], mark))
        if self._next not in MARKS:
            raise TokenizerError(
                f"the vocabulary has over {len(MARKS)} words that differ in capitals alone; merge them"
            )
        return groups


def _check_words(vocabulary: WhitespaceVocabulary) -> None:
    if "" in vocabulary.ids and "" not in vocabulary.stop_words:
        raise TokenizerError(
            f"the vocabulary's word {vocabulary.ids['']} is empty, and sentence-transformers gives its id to"
            " punctuation that stands alone; rename it, or make '' a stop word"
        )
    reserved = set(map(chr, MARKS))
    for word in (*vocabulary.ids, *vocabulary.stop_words):
        if not reserved.isdisjoint(word):
            raise TokenizerError(f"the word {word!r} holds a character of U+{MARKS[0]:X} to U+{MARKS[-1]:X}; rename it")


def _words_to_mark(vocabulary: WhitespaceVocabulary) -> tuple[list[str], list[str]]:
    """Words of the vocabulary that are found only where they are spelled like this: with punctuation, with capitals."""
    at_ends, in_capitals = [], []
    for word in vocabulary.ids:
        if _is_reachable(word, vocabulary):
            if word != word.strip(string.punctuation):
                at_ends.append(word)
            elif word != word.lower():
                in_capitals.append(word)
    return at_ends, in_capitals


def _is_reachable(word: str, vocabulary: WhitespaceVocabulary) -> bool:
    """Whether any text gives a word's id."""
    if not word or word in vocabulary.stop_words or not set(_SPACE).isdisjoint(word):
        return False
    return not vocabulary.lowercase or word == word.lower()


def _keys(vocabulary: WhitespaceVocabulary, marks: _Marks) -> dict[str, int]:
    """The vocabulary of the model; ids that no text gives have names that no text has."""
    keys = {f"{_UNUSED}{number}": number for number in range(vocabulary.size)}
    names = {number: key for key, number in keys.items()}
    for word, number in vocabulary.ids.items():
        if _is_reachable(word, vocabulary):
            names[number] = marks.by_word.get(word, _PLAIN) + word.lower()
    return {key: number for number, key in names.items()}


def _normalizers(vocabulary: WhitespaceVocabulary, marks: _Marks) -> Iterator[normalizers.Normalizer]:
    yield normalizers.Replace(Regex(f"[{chr(MARKS[0])}-{chr(MARKS[-1])}]"), _FILLER)
    if vocabulary.lowercase:
        yield from lowercase()
    yield normalizers.Replace(Regex(f"[{WHITESPACE}]+"), " ")
    yield normalizers.Prepend(" ")  # each word now has a space before it, with which its mark is written
    dropped = [word for word in sorted(vocabulary.stop_words) if _would_be_found(word, vocabulary)]
    dropped_at_ends = [word for word in dropped if word != word.strip(string.punctuation)]
    dropped_in_capitals = [word for word in dropped if word == word.strip(string.punctuation)]
    for mark, words in {**marks.of_words_at_ends, _DROPPED: dropped_at_ends}.items():
        if words:
            yield normalizers.Replace(Regex(f" (?={any_of(words)}(?: |$))"), f" {mark}")
    yield normalizers.Replace(Regex(f" [{_PUNCTUATION}]+"), " ")
    for mark, words in {**marks.of_capitals, _DROPPED: dropped_in_capitals}.items():
        if words:
            yield normalizers.Replace(Regex(f" (?={any_of(words)}[{_PUNCTUATION}]*(?: |$))"), f" {mark}")
    marked = f"{chr(MARKS[1])}-{chr(MARKS[-1])}"
    yield normalizers.Replace(Regex(f" (?=[^ {marked}])"), f" {_PLAIN}")
    if not vocabulary.lowercase:
        yield from lowercase()


def _would_be_found(stop_word: str, vocabulary: WhitespaceVocabulary) -> bool:
    """Whether a stop word that has punctuation or capitals would give an id if only its other forms were looked up."""
    bare = stop_word.strip(string.punctuation)
    forms = {bare, bare.lower()} - {stop_word}
    return bool(stop_word) and any(form in vocabulary.ids and form not in vocabulary.stop_words for form in forms)


def lowercase() -> Iterator[normalizers.Normalizer]:
    """`str.lower`, which writes a sigma at the end of a word otherwise than the library's Lowercase."""
    cased, ignored = r"\p{Cased}", r"\p{Case_Ignorable}"
    before = "|".join(cased + ignored * count for count in range(4))
    yield normalizers.Replace(Regex(f"(?<={before})\u03a3(?!{ignored}*{cased})"), "\u03c2")
    yield normalizers.Lowercase()


def _compare(vocabulary: WhitespaceVocabulary, tokenizer: TextTokenizer) -> None:
    """Encode texts made of the words by both."""
    step = max(1, len(vocabulary.ids) // _CHECKED_WORDS)
    words = [*islice(vocabulary.ids, 0, None, step), *islice(sorted(vocabulary.stop_words), _CHECKED_WORDS)]
    forms = ("{0} x{0}x", "({0}) {0}.", '"{0}", {0}!?', "--{0}")
    changes = (str, str.lower, str.upper, str.capitalize)
    texts = [change(form.format(word)) for word in words for form in forms for change in changes]
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if (expected := vocabulary.encode(text)) != encoding.ids:
            raise TokenizerError(
                f"the tokenizer of sentence-transformers gives {text!r} the ids {expected}, and the tokenizer.json"
                f" made from it {encoding.ids}; please report this vocabulary"
            )
