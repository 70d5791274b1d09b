"""Terms of ontologies: of diseases, anatomy, cells, qualities and chemicals, as PyPI packages them for cell biology.

Ontologies of phenotypes and of genes are what encoders are measured by (`evaluation`). A term here that shares a name,
a synonym or its definition with one of theirs is left out.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Container, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lengthwise.errors import DatasetError

NAMES = ("MONDO", "UBERON", "EFO", "CL", "PATO", "CHEBI")
_MAX_NAME_WORDS = 8  # longer ones are mostly systematic names of chemicals
_TAG = re.compile(r"</?[a-z]+>")  # of italics and small capitals, in definitions of chemicals


@dataclass(frozen=True)
class Term:
    """A term of an ontology.

    Attributes:
        name: its name.
        definition: empty where it has none.
        synonyms: other names that mean exactly the same.
    """

    name: str
    definition: str
    synonyms: tuple[str, ...]

    @property
    def keys(self) -> set[str]:
        """Its names and its definition in lower case, by which terms of two ontologies are compared."""
        return {text.lower() for text in (self.name, *self.synonyms, self.definition) if text}


def make_term(name: str, definition: str, synonyms: Iterable[str]) -> Term:
    """A term without synonyms that are its name."""
    others = dict.fromkeys(synonym for synonym in synonyms if synonym.lower() != name.lower())
    return Term(name, definition.strip(), tuple(others))


def read_cell_ontology(folder: Path, name: str) -> Iterator[Term]:
    """The terms of the latest edition of an ontology in the package cellxgene-ontology-guide, without obsolete ones."""
    found = sorted(folder.glob(f"cellxgene_ontology_guide/data/{name}-ontology-*.json.zst"))
    if not found:
        raise DatasetError(f"{folder}: the package has no ontology {name}")
    with pa.input_stream(str(found[-1]), compression="zstd") as file:
        terms = json.loads(file.read())
    for number, term in terms.items():
        if number.startswith(f"{name}:") and not term["deprecated"] and term.get("label"):
            synonyms = (each for each in term.get("synonyms") or () if len(each.split()) <= _MAX_NAME_WORDS)
            yield make_term(term["label"], _TAG.sub("", term.get("description") or ""), synonyms)


def without(terms: Iterable[Term], keys: Container[str]) -> Iterator[Term]:
    """The terms that share no name and no definition with others, whose keys are given."""
    return (term for term in terms if not any(key in keys for key in term.keys))


def read_obo(path: Path) -> Iterator[Term]:
    """The terms of an OBO file, without obsolete ones.

    See https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html.
    """
    for stanza in re.split(r"\n(?=\[)", path.read_text(encoding="utf-8")):
        name = re.search(r"^name: (.*)$", stanza, re.MULTILINE)
        if stanza.startswith("[Term]") and name and "\nis_obsolete: true" not in stanza:
            definition = re.search(r'^def: "((?:[^"\\]|\\.)*)"', stanza, re.MULTILINE)
            synonyms = re.findall(r'^synonym: "((?:[^"\\]|\\.)*)" EXACT', stanza, re.MULTILINE)
            said = _unescape(definition[1]) if definition else ""
            yield make_term(_unescape(name[1]), said, map(_unescape, synonyms))


def read_go(path: Path) -> Iterator[Term]:
    """The terms of the Gene Ontology in GO.db's SQLite file, whose obsolete ones are in a table of their own."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        synonyms: dict[int, list[str]] = {}
        for key, synonym in database.execute("SELECT _id, synonym FROM go_synonym WHERE like_go_id = 0 ORDER BY rowid"):
            synonyms.setdefault(key, []).append(synonym)
        for key, name, definition in database.execute("SELECT _id, term, definition FROM go_term ORDER BY go_id"):
            if name != "all":
                yield make_term(name, definition or "", synonyms.get(key, ()))


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
