"""Dictionaries in the formats of dictd and of MyThes, as Debian packages them: headwords, definitions and synonyms."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lengthwise.cli.corpora.clean import clean, read_lines

_CROSS_REFERENCE = re.compile(r"[{}]")
_MARK = re.compile(r"\[[^\]]{0,60}\]|--[A-Z][\w .&'()]{1,40}\.?\s*$|\((?:Obs|R|Archaic|Prov\. Eng|Poetic)\.\)")
_ETYMOLOGY = re.compile(
    r"^[\w'. ]{1,30}, (?:n|a|v|adv|imp|p)\. |\b(?:fr|Cf|cf|See)\. (?:L|Gr|F|OF|AS|G|D|Icel)\b"
    r"|\b(?:AS|OF|OE|OHG|Icel|Skr|LL)\. |^See |\(Astron\. |[`^]"
)
_WORD = re.compile(r"[^\W\d_]{2,}(?:['-][^\W\d_]+)*")
_NUMBER = re.compile(r"^\s*(?:\d+\.|\([a-z]\))\s+")
_FIELD = re.compile(r"^\s*(?:\((?:[A-Z][\w.,&; ]{1,28}|Zo[^)]{2,12}|[a-z]\))\)?\s*)+(?=[A-Z(])")


@dataclass(frozen=True)
class Entry:
    """A headword and one of its definitions, both cleaned."""

    word: str
    definition: str


def gcide(folder: Path) -> Iterator[Entry]:
    """Entries of the GNU Collaborative International Dictionary of English, without etymology and quotations."""
    for block in re.split(r"\n(?=\S)", _read(folder, "gcide")):
        head, _, body = block.partition("\n")
        word = re.sub(r"\s*\\.*", "", head).strip()
        if not re.fullmatch(r"[A-Za-z][A-Za-z' -]{1,40}", word) or word.startswith("00-database"):
            continue
        for paragraph in re.split(r"\n\s*\n|\[\d{4} Webster[^\]]*\]|\n(?=\s+\d+\. )|\n(?=\s+\([a-z]\) )", body):
            if "\\" in paragraph or re.match(r"\s+(Syn:|Note:)", paragraph) or re.match(r"\s{8,}", paragraph):
                continue
            phrase = re.match(r"\s*\{([^}]{3,40})\}(?:\s*\([^)]*\))?,\s+(.*)", paragraph, re.DOTALL)
            name, text = (phrase.group(1), phrase.group(2)) if phrase else (word, paragraph)
            definition = _definition(text)
            if definition and not _ETYMOLOGY.search(definition):
                yield Entry(name[0].lower() + name[1:] if name[1:].islower() else name, definition)


def foldoc(folder: Path) -> Iterator[Entry]:
    """Entries of the Free On-line Dictionary of Computing: the first paragraph of each meaning."""
    for block in re.split(r"\n(?=\S)", _read(folder, "foldoc")):
        word, _, body = block.partition("\n")
        for paragraph in re.split(r"\n\s*\n", body):
            text = re.sub(r"\{\([^)]*\)\}|\(\d{4}-\d\d-\d\d\)", " ", paragraph)
            marked = re.search(r"^\s*(?:\d+\.\s*)?(?:<[^>]+>\s*)+", text)
            yield from _entry(word, text[marked.end() if marked else 0 :])


def jargon(folder: Path) -> Iterator[Entry]:
    """Entries of the Jargon File, one for each paragraph."""
    for block in re.split(r"\n(?=\S)", _read(folder, "jargon")):
        word, _, body = block.partition("\n")
        for paragraph in re.split(r"\n\s*\n", body):
            yield from _entry(word, re.sub(r"^\s*(?:n|v|adj|adv|vt|vi|excl)\.\s*$", "", paragraph, flags=re.MULTILINE))


def devil(folder: Path) -> Iterator[Entry]:
    """Entries of The Devil's Dictionary, without its verses."""
    entry = re.compile(r"^([A-Z][A-Z' -]+), (?:n|adj|v|adv|pp|x)[\w.]*\s+(.*?)(?=\n\s*\n)", re.MULTILINE | re.DOTALL)
    for word, definition in entry.findall(_read(folder, "devil")):
        yield from _entry(word.lower(), definition)


def elements(folder: Path) -> Iterator[Entry]:
    """The chemical elements and what is said of each."""
    for block in re.split(r"\n\s*\n", _read(folder, "elements")):
        word, _, body = block.partition("\n")
        yield from _entry(word, re.sub(r"^(?:Symbol|Atomic number|Atomic weight):.*$", "", body, flags=re.MULTILINE))


def thesaurus(folder: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Word, part of speech and plain synonyms of each meaning in the English thesaurus of MyThes."""
    (path,) = (folder / "usr/share/mythes").glob("th_en_*_v2.dat")
    lines = islice(read_lines(path), 1, None)
    for line in lines:
        word, _, count = line.partition("|")
        for _ in range(int(count)):
            part, *words = next(lines).split("|")
            same = tuple(other.strip() for other in words if other.strip() and "(" not in other)
            yield word, part.strip("()"), same


def words(path: Path) -> Iterator[str]:
    """The words of a list with one on each line, as Hunspell and /usr/share/dict have them: without the flags behind a
    slash, without possessives, numbers and comments."""
    for line in read_lines(path):
        word = line.partition("/")[0].strip()
        if _WORD.fullmatch(word) and not word.endswith(("'s", "s'")):
            yield word


def _entry(word: str, text: str) -> Iterator[Entry]:
    definition = _definition(text)
    if definition and not word.startswith("00"):
        yield Entry(clean(word), definition)


def _definition(text: str) -> str:
    text = clean(_CROSS_REFERENCE.sub("", text))
    for _ in range(2):  # a field may come before or after the number
        text = _FIELD.sub("", _NUMBER.sub("", text))
    text = _MARK.sub("", text).replace("__", "")
    return clean(re.sub(r"\[[^\]]*$", "", text))


def _read(folder: Path, name: str) -> str:
    (path,) = (folder / "usr/share/dictd").glob(f"{name}.dict.dz")
    return gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
