"""`WordCache`: the ids of words that a tokenizer has met before, so that texts of known words are only looked up.

- A text is cut before every space: "the cat sat" into "the", " cat" and " sat". Its ids are those of these pieces, one
  after the other, where no part of the tokenizer looks across such a place. `WordCache.of` knows the parts for which
  that holds; a tokenizer with any other part has no cache. Where a tokenizer drops spaces, all whitespace is like a
  space; where it works on bytes, a run of whitespace is a piece.
- It holds for plain pieces only: one word, whose normal form has no further space, and which contains no added token.
  A text with any other piece (such as spaces in a row that are tokens) is left to the library as a whole.
- The library takes longer to wrap a new word in its objects than to find the ids. So what its usual parts do to
  printable ASCII is written down here (`_ascii_words`), and the model alone is asked. Other new pieces go through all
  of the library.
- New pieces cost time and known ones save it. Where most are new (hashes, languages without spaces), no text is looked
  up for a while.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from lengthwise.util.compat import is_tokenizers_error

MAX_ENTRIES, MAX_KEPT_CHARACTERS, MAX_CHARACTERS = 2**16, 64, 1_024  # longer pieces are not kept, or not read
_FIRST_CREDIT, _COST, _RETRY = 2.0**15, 2.5, 0.1  # in known pieces: at first, of a new one, and of a text left out
# Normalizers that map characters one by one, or compose them within what two spaces enclose. None of them changes
# printable ASCII, other than its case.
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents"}
_DROP_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_WITHIN_WORDS = {*_DROP_SPACES, "ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"}
_MODELS = {"BPE", "Unigram", "WordLevel", "WordPiece"}
# The patterns of pre-tokenizers, for pieces of printable ASCII.
_BYTE_LEVEL = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^ A-Za-z0-9]+")
_WHITESPACE = re.compile(r"[A-Za-z0-9_]+|[^ A-Za-z0-9_]+")
_BERT = re.compile(r"[A-Za-z0-9]+|[^ A-Za-z0-9]")
_BETWEEN_SPACES = re.compile(r"[^ ]+")
_ODD_SPACE = re.compile(r"[^\S \t\n\r]")  # whitespace that some normalizers remove, and Rust or Python do not call so
_BYTE_LEVEL_PIECES = re.compile(r" ?\S+|\s+(?!\S)|\s")  # whitespace as the pattern of the pre-tokenizer has it

AsciiWords = Callable[[str], Iterable[str]]


class WordCache:
    """What one tokenizer makes of the words that it has met; several threads may use it at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin empty. Only for tokenizers that `of` accepts."""
        self._tokenizer, self._model, self._normalizer = tokenizer, tokenizer.model, tokenizer.normalizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = _Contents([token.content for token in added])
        self._added_to_normal = _Contents([self._normal(token.content) for token in added if token.normalized])
        normalizers, pre_tokenizers = _parts(self._normalizer), _parts(tokenizer.pre_tokenizer)
        self._cut, self._ascii_words = _cutter(normalizers, pre_tokenizers), _ascii_words(normalizers, pre_tokenizers)
        self._pieces, self._words = _Memory(self._read_piece), _Memory(self._read_word)
        self._credit = _FIRST_CREDIT

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordCache | None:
        """A cache for a tokenizer without truncation, padding or sampling; None where there can be none."""
        if type(tokenizer.model).__name__ not in _MODELS or not _cuts_at_spaces(_parts(tokenizer.pre_tokenizer)):
            return None
        if not all(part["type"] in _NORMALIZERS for part in _parts(tokenizer.normalizer)):
            return None
        cache = cls(tokenizer)
        return None if cache._added.have_space or cache._added_to_normal.have_space else cache

    def look_up(self, texts: Sequence[str]) -> list[bytes | None]:
        """The ids of texts, int32 as bytes; None where the library has to tokenize the text."""
        if self._credit < 0:
            self._credit += _RETRY * len(texts)
            return [None] * len(texts)
        self._pieces, self._words = self._pieces.renewed(), self._words.renewed()
        pieces, found, count = self._pieces, list[bytes | None](), 0
        cut, ids_of, missed = self._cut, pieces.__getitem__, pieces.missed
        for text in texts:
            try:
                of_text = cut(text)
                count += len(of_text)
                found.append(b"".join(map(ids_of, of_text)))
            except _NotPlain:
                found.append(None)
        self._credit = min(_FIRST_CREDIT, self._credit + count - _COST * (pieces.missed - missed))
        return found

    def _read_piece(self, piece: str) -> bytes:
        """The ids of a piece that is not known yet.

        Raises:
            _NotPlain: it may have others within a text.
        """
        if self._cut is _cut_as_byte_level and not piece.strip(" \t\n\r"):
            return self._encode(piece)
        word = piece.removeprefix(" ")
        if not word or len(word) > MAX_CHARACTERS or self._added.are_in(word):
            raise _NotPlain
        is_simple = piece.isascii() and piece.isprintable()
        if not is_simple or self._added_to_normal.count:
            normal = self._normal(piece)
            normal_word = normal.removeprefix(" ")
            if _has_space(word) or _has_space(normal_word) or normal.startswith(" ") != piece.startswith(" "):
                raise _NotPlain
            if self._added_to_normal.are_in(normal_word):
                raise _NotPlain
        if is_simple and self._ascii_words is not None:
            return b"".join(map(self._words.__getitem__, self._ascii_words(piece)))
        return self._encode(piece)

    def _encode(self, piece: str) -> bytes:
        return _as_bytes(lambda: self._tokenizer.encode(piece, add_special_tokens=False).ids)

    def _read_word(self, word: str) -> bytes:
        """The ids of what the model gets at a time."""
        return _as_bytes(lambda: [token.id for token in self._model.tokenize(word)])

    def _normal(self, text: str) -> str:
        return text if self._normalizer is None else self._normalizer.normalize_str(text)


class _NotPlain(KeyError):
    """The ids of a piece are not known, or depend on the text around it."""


class _Contents:
    """The contents of added tokens.

    Attributes:
        count: how many there are.
        have_space: whether one has whitespace, or is empty.
        are_in: tells whether a word holds one.
    """

    def __init__(self, contents: Sequence[str]) -> None:
        self.count = len(contents)
        self.have_space = any(map(_has_space, contents))
        self.are_in = re.compile("|".join(map(re.escape, contents)) if contents else "(?!)").search


class _Memory(dict[str, bytes]):
    """Ids, int32 as bytes, read when they are first asked for.

    Attributes:
        missed: how many were read.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        super().__init__()
        self._read = read
        self.missed = 0

    def __missing__(self, key: str) -> bytes:
        self.missed += 1
        ids = self._read(key)
        if len(self) < MAX_ENTRIES and len(key) <= MAX_KEPT_CHARACTERS:
            self[key] = ids
        return ids

    def renewed(self) -> _Memory:
        """This, or an empty one if this is full."""
        return self if len(self) < MAX_ENTRIES else _Memory(self._read)


def ids_as_bytes(ids: list[int]) -> bytes:
    """Ids as int32."""
    return array("i", ids).tobytes()


def _as_bytes(read: Callable[[], list[int]]) -> bytes:
    try:
        return ids_as_bytes(read())
    except BaseException as error:  # a word without a token: the text is left to the library, which names it
        if not isinstance(error, Exception) and not is_tokenizers_error(error):
            raise
        raise _NotPlain from None


def _has_space(word: str) -> bool:
    """Whether a word has whitespace, in the sense of Python, which is wider than that of Rust; or is empty."""
    return word.split() != [word]


def _parts(part: Any) -> list[dict[str, Any]]:
    """The components of a normalizer or pre-tokenizer, as tokenizer.json has them; those of a sequence one by one."""
    return [] if part is None else _flatten(json.loads(part.__getstate__()))


def _flatten(tree: dict[str, Any]) -> list[dict[str, Any]]:
    if tree["type"] != "Sequence":
        return [tree]
    inner = tree["normalizers" if "normalizers" in tree else "pretokenizers"]
    return [part for each in inner for part in _flatten(each)]


def _cuts_at_spaces(pre_tokenizers: list[dict[str, Any]]) -> bool:
    """Whether pre-tokenizers cut every text before each single space, and then look at one piece at a time."""
    if not pre_tokenizers:
        return False
    first, *others = pre_tokenizers
    kind = first["type"]
    cuts = (
        kind in _DROP_SPACES
        or (kind == "ByteLevel" and first["use_regex"])
        or (kind == "Metaspace" and first["split"])
        or (kind == "CharDelimiterSplit" and first["delimiter"] == " ")
    )
    return cuts and all(part["type"] in _WITHIN_WORDS for part in others)


def _cutter(normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]]) -> Callable[[str], list[str]]:
    """How texts are cut into pieces."""
    if pre_tokenizers and pre_tokenizers[0]["type"] in _DROP_SPACES:
        return _cut_between_whitespace
    keeps_lines = not any(part["type"] in ("BertNormalizer", "Nmt") for part in normalizers)
    is_byte_level = pre_tokenizers and pre_tokenizers[0]["type"] == "ByteLevel"
    if keeps_lines and is_byte_level and not pre_tokenizers[0]["add_prefix_space"]:
        return _cut_as_byte_level
    return _cut_before_spaces


def _cut_between_whitespace(text: str) -> list[str]:
    _refuse_odd_spaces(text)
    return text.split()


def _cut_as_byte_level(text: str) -> list[str]:
    if text.isprintable() and "  " not in text:  # faster, and the same
        return text.replace(" ", "\n ").split("\n")
    _refuse_odd_spaces(text)
    return _BYTE_LEVEL_PIECES.findall(text)


def _cut_before_spaces(text: str) -> list[str]:
    if "\n" in text:
        raise _NotPlain
    return text.replace(" ", "\n ").split("\n")


def _refuse_odd_spaces(text: str) -> None:
    if not text.isprintable() and _ODD_SPACE.search(text):
        raise _NotPlain


def _ascii_words(normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]]) -> AsciiWords | None:
    """What the model gets of a piece of printable ASCII; None where the library has to say it."""
    if len(pre_tokenizers) != 1:
        return None
    split = _ascii_split(pre_tokenizers[0])
    is_lower = any(part["type"] == "Lowercase" or part.get("lowercase") for part in normalizers)
    return (lambda piece: split(piece.lower())) if is_lower and split is not None else split


def _ascii_split(pre_tokenizer: dict[str, Any]) -> AsciiWords | None:
    kind = pre_tokenizer["type"]
    if kind == "ByteLevel":
        adds_space = pre_tokenizer["add_prefix_space"]

        def byte_level(piece: str) -> Iterable[str]:
            spaced = f" {piece}" if adds_space and not piece.startswith(" ") else piece
            return [word.replace(" ", "\u0120") for word in _BYTE_LEVEL.findall(spaced)]  # which stands for a space

        return byte_level
    if kind == "Metaspace":
        mark = pre_tokenizer["replacement"]
        if mark.isascii():  # which the word itself may hold
            return None
        begin = "" if pre_tokenizer["prepend_scheme"] == "never" else mark
        return lambda piece: [mark + piece[1:] if piece.startswith(" ") else begin + piece]
    patterns = {"BertPreTokenizer": _BERT, "Whitespace": _WHITESPACE}
    return patterns.get(kind, _BETWEEN_SPACES).findall
