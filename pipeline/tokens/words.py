"""`WordCache`: the ids of words that a tokenizer has met before, so that texts of known words are only looked up.

- A text is cut into words, whose ids one after the other are the text's. `WordCache.of` knows the parts of tokenizers
  for which that holds; a tokenizer with any other part has no cache.
- An ASCII text is cut as the pre-tokenizer would cut it, by a pattern that is written down here, and the model is asked
  for new words. The library itself takes longer to wrap a word in its objects than to find the ids.
- Any other text is cut before its spaces: "ein kühler Tag" into "ein", " kühler" and " Tag". New pieces go through all
  parts of the library. A piece has the ids that it has alone if its normal form is one word, and if it contains no
  added token; a text with another piece is left to the library as a whole.
- New words cost time and known ones save it. Where most are new (hashes, languages without spaces), no text is looked
  up for a while.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from lengthwise.util.compat import is_tokenizers_error

MAX_ENTRIES, MAX_KEPT_CHARACTERS, MAX_CHARACTERS = 2**16, 64, 1_024  # longer words are not kept, or not read
_FIRST_CREDIT, _COST, _RETRY = 2.0**15, 2.5, 0.1  # in known words: at first, of a new one, and of a text left out
# Normalizers that map characters one by one, or compose them within what two spaces enclose. None of them changes
# ASCII, other than its case, whitespace and control characters.
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents"}
_CHANGE_WHITESPACE = {"BertNormalizer", "Nmt"}
_DROP_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_WITHIN_WORDS = {*_DROP_SPACES, "ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"}
_MODELS = {"BPE", "Unigram", "WordLevel", "WordPiece"}
# How pre-tokenizers cut ASCII; ByteLevel's also as it is seen from between the spaces, in any text.
_BYTE_LEVEL = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s", re.ASCII)
_BYTE_LEVEL_PIECES = re.compile(r" ?\S+|\s+(?!\S)|\s")
_PATTERNS = {
    "BertPreTokenizer": re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]", re.ASCII),
    "Whitespace": re.compile(r"\w+|[^\w\s]+", re.ASCII),
}
_BETWEEN_SPACES = re.compile(r"\S+", re.ASCII)
_BYTE_LEVEL_LETTERS = str.maketrans({" ": "\u0120", "\n": "\u010a", "\t": "\u0109", "\r": "\u010d"})
# Whitespace that some normalizers remove, or that Rust or Python do not call so; and in ASCII control characters too.
_ODD_SPACE, _ODD_ASCII = re.compile(r"[^\S \t\n\r]"), re.compile(r"[^ -~\t\n\r]")

Part = dict[str, Any]  # of a tokenizer, as tokenizer.json has it
Cut = Callable[[str], list[str]]


class WordCache:
    """What one tokenizer makes of the words that it has met; several threads may use it at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin empty. Only for tokenizers that `of` accepts."""
        self._tokenizer, self._model, self._normalizer = tokenizer, tokenizer.model, tokenizer.normalizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = _Contents([token.content for token in added])
        normalized = [token.content for token in added if token.normalized and self._normalizer is not None]
        self._added_to_normal = _Contents(list(map(self._normal, normalized)))
        normalizers, pre_tokenizers = _parts(self._normalizer), _parts(tokenizer.pre_tokenizer)
        self._cut = _piece_cutter(normalizers, pre_tokenizers)
        self._cut_ascii = None if self._added_to_normal.contents else _ascii_cutter(normalizers, pre_tokenizers)
        self._is_byte_level = self._cut is _cut_as_byte_level
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
        words, pieces = self._words, self._pieces = self._words.renewed(), self._pieces.renewed()
        missed, count, found = words.missed + pieces.missed, 0, list[bytes | None]()
        for text in texts:
            try:
                if self._cut_ascii is not None and text.isascii() and not self._is_odd_ascii(text):
                    cut, memory = self._cut_ascii(text), words
                else:
                    cut, memory = self._cut(text), pieces
                count += len(cut)
                found.append(b"".join(map(memory.__getitem__, cut)))
            except _NotPlain:
                found.append(None)
        missed = words.missed + pieces.missed - missed
        self._credit = min(_FIRST_CREDIT, self._credit + count - _COST * missed)
        return found

    def _is_odd_ascii(self, text: str) -> bool:
        """Whether an ASCII text has to be cut into pieces."""
        return (not text.isprintable() and _ODD_ASCII.search(text) is not None) or self._added.are_in(text)

    def _read_piece(self, piece: str) -> bytes:
        """The ids of a piece that is not known yet.

        Raises:
            _NotPlain: it may have others within a text.
        """
        word = piece.removeprefix(" ")
        if self._is_byte_level and not piece.strip(" \t\n\r"):
            return self._encode(piece)
        if not word or len(word) > MAX_CHARACTERS or self._added.are_in(word):
            raise _NotPlain
        if self._cut_ascii is not None and piece.isascii() and piece.isprintable():
            return b"".join(map(self._words.__getitem__, self._cut_ascii(piece)))
        normal = self._normal(piece)
        normal_word = normal.removeprefix(" ")
        if _has_space(word) or _has_space(normal_word) or normal.startswith(" ") != piece.startswith(" "):
            raise _NotPlain
        if self._added_to_normal.are_in(normal_word):
            raise _NotPlain
        return self._encode(piece)

    def _encode(self, piece: str) -> bytes:
        return _as_bytes(lambda: self._tokenizer.encode(piece, add_special_tokens=False).ids)

    def _read_word(self, word: str) -> bytes:
        """The ids of what the model gets at a time."""
        if len(word) > MAX_CHARACTERS:
            raise _NotPlain
        read = word.translate(_BYTE_LEVEL_LETTERS) if self._is_byte_level else word
        return _as_bytes(lambda: [token.id for token in self._model.tokenize(read)])

    def _normal(self, text: str) -> str:
        return text if self._normalizer is None else self._normalizer.normalize_str(text)


class _NotPlain(KeyError):
    """The ids of a word are not known, or depend on the text around it."""


class _Contents:
    """The contents of added tokens.

    Attributes:
        contents: of each.
        have_space: whether one has whitespace, or is empty.
    """

    def __init__(self, contents: Sequence[str]) -> None:
        self.contents = contents
        self.have_space = any(map(_has_space, contents))
        self._beginnings = {content[:1] for content in contents}

    def are_in(self, text: str) -> bool:
        """Whether a text holds one."""
        for beginning in self._beginnings:
            if beginning in text and any(content in text for content in self.contents):
                return True
        return False


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


# The parts of tokenizers


def _parts(part: Any) -> list[Part]:
    """The components of a normalizer or pre-tokenizer; those of a sequence one by one."""
    return [] if part is None else _flatten(json.loads(part.__getstate__()))


def _flatten(tree: Part) -> list[Part]:
    if tree["type"] != "Sequence":
        return [tree]
    inner = tree["normalizers" if "normalizers" in tree else "pretokenizers"]
    return [part for each in inner for part in _flatten(each)]


def _cuts_at_spaces(pre_tokenizers: list[Part]) -> bool:
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


def _ascii_cutter(normalizers: list[Part], pre_tokenizers: list[Part]) -> Cut | None:
    """How ASCII texts are cut into what the model gets; None where only the library knows."""
    if len(pre_tokenizers) != 1:
        return None
    kind = pre_tokenizers[0]["type"]
    if kind in _DROP_SPACES:
        find = _PATTERNS.get(kind, _BETWEEN_SPACES).findall
    elif _piece_cutter(normalizers, pre_tokenizers) is _cut_as_byte_level:
        find = _BYTE_LEVEL.findall
    else:
        return None
    is_lower = any(part["type"] == "Lowercase" or part.get("lowercase") for part in normalizers)
    return (lambda text: find(text.lower())) if is_lower else find


def _piece_cutter(normalizers: list[Part], pre_tokenizers: list[Part]) -> Cut:
    """How other texts are cut into pieces."""
    first = pre_tokenizers[0]
    if first["type"] in _DROP_SPACES:
        return _cut_between_whitespace
    keeps_whitespace = not any(part["type"] in _CHANGE_WHITESPACE for part in normalizers)
    if first["type"] == "ByteLevel" and keeps_whitespace and not first["add_prefix_space"]:
        return _cut_as_byte_level
    return _cut_before_spaces


def _cut_between_whitespace(text: str) -> list[str]:
    _refuse_odd_spaces(text)
    return text.split()


def _cut_as_byte_level(text: str) -> list[str]:
    """A run of whitespace is one word for the pre-tokenizer, less its last character where a word follows."""
    _refuse_odd_spaces(text)
    return _BYTE_LEVEL_PIECES.findall(text)


def _cut_before_spaces(text: str) -> list[str]:
    if "\n" in text:
        raise _NotPlain
    return text.replace(" ", "\n ").split("\n")


def _refuse_odd_spaces(text: str) -> None:
    if not text.isprintable() and _ODD_SPACE.search(text):
        raise _NotPlain
