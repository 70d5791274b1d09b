"""Plain English texts of 2 to 60 words out of what packages contain: no markup, no repeats, nothing held out."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

MIN_WORDS, MAX_WORDS = 2, 60
MIN_PASSAGE_WORDS, MAX_PASSAGE_WORDS = 60, 160
HELD_OUT_ONE_IN = 20
_SPACES = re.compile(r"\s+")
_URL = re.compile(r"\(?\b(?:https?|ftp)://\S+|\bwww\.\S+", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Sen|Rep|Gov|Gen|Col|Lt|Sgt|Capt|Rev|Hon|St|Jr|Sr|vs|etc|cf|e\.g|i\.e|No|Vol|Fig|Inc|Co|Corp"
    r"|Ltd|U\.S|U\.K|a\.m|p\.m|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)|\b[A-Z])\.[\"'”’)\]]*$"
)
_FUNCTION_WORD = re.compile(
    r"the|of|and|to|an?|in|is|that|it|for|was|on|are|as|with|be|by|at|this|from|or|not|ha[sd]|have|but|they|s?he|we|you"
    r"|which|his|her|its|their|can|will|would|if|one|all|who|when|there|so|no|more|than|any|other|into|may|some|these",
    re.IGNORECASE,
)


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file, which line feeds end, and not the further separators that `str.splitlines` knows."""
    with open(path, encoding=encoding, errors="replace") as file:
        for line in file:
            yield line.removesuffix("\n")


def clean(text: str) -> str:
    """The text on one line: entities decoded, web addresses left out, spaces joined."""
    text = html.unescape(text)
    return _SPACES.sub(" ", _URL.sub(" ", text)).strip()


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, cleaned; a full stop after an abbreviation or an initial ends none."""
    start = ""
    for part in _SENTENCE_END.split(clean(text)):
        start = f"{start} {part}" if start else part
        if not _ABBREVIATION.search(start):
            yield start.strip()
            start = ""
    if start:
        yield start.strip()


def chunks(text: str, max_words: int = MAX_WORDS) -> Iterator[str]:
    """The text in pieces of whole sentences with at most `max_words` words; a longer sentence is cut off there."""
    taken: list[str] = []
    for sentence in sentences(text):
        words = sentence.split()
        if taken and len(taken) + len(words) > max_words:
            yield " ".join(taken)
            taken = []
        taken += words[: max_words - len(taken)]
    if taken:
        yield " ".join(taken)


def is_english(text: str, min_words: int = MIN_WORDS) -> bool:
    """Whether a text has enough words, is written in Latin letters, and if it is long has English function words."""
    words = _WORD.findall(text)
    if len(words) < min_words:
        return False
    letters = sum(len(word) for word in words)
    if letters < 0.6 * len(text.replace(" ", "")):
        return False
    if len(words) < 12:
        return True
    return sum(bool(_FUNCTION_WORD.fullmatch(word)) for word in words) >= 0.12 * len(words)


def is_held_out(text: str) -> bool:
    """Whether a text is kept for evaluation: one in twenty, by the sha256 of its UTF-8 bytes without outer spaces."""
    return hash_number(text) % HELD_OUT_ONE_IN == 0


def hash_number(text: str) -> int:
    """The sha256 of a text's UTF-8 bytes, without outer spaces, as a number."""
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest(), "big")


def unique(texts: Iterable[str], seen: set[bytes]) -> Iterator[str]:
    """Texts whose letters and digits, without case, were not in `seen`, to which they are added."""
    for text in texts:
        key = hashlib.blake2b(re.sub(r"[\W_]+", " ", text.lower()).strip().encode(), digest_size=12).digest()
        if key not in seen:
            seen.add(key)
            yield text
