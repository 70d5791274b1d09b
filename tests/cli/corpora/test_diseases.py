"""Names of diseases, and which of the terms that a code includes are names of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lengthwise.cli.corpora.diseases import disease_names, diseases
from lengthwise.errors import DatasetError

TABULAR = """<ICD10CM.tabular><chapter><section id="A00-A09"><diag>
  <name>A00</name><desc>Cholera</desc>
  <diag><name>A00.1</name><desc>Cholera due to Vibrio cholerae 01, biovar eltor</desc>
    <inclusionTerm><note>Cholera eltor</note></inclusionTerm></diag>
  <diag><name>B04</name><desc>Monkeypox</desc>
    <inclusionTerm><note>Mpox [2022]</note><note>Monkeypox NOS</note></inclusionTerm></diag>
  <diag><name>P35.8</name><desc>Other congenital viral diseases</desc>
    <inclusionTerm><note>Congenital varicella [chickenpox]</note></inclusionTerm></diag>
</diag></section></chapter></ICD10CM.tabular>"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "simple_icd_10_cm/data").mkdir(parents=True)
    (tmp_path / "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml").write_text(TABULAR)
    return tmp_path


def test_diseases(package: Path) -> None:
    assert list(diseases(package)) == [
        "Cholera",
        "Cholera due to Vibrio cholerae 01, biovar eltor",
        "Monkeypox",
        "Other congenital viral diseases",
    ]


def test_only_terms_that_mean_the_same_are_names(package: Path) -> None:
    assert list(disease_names(package)) == [("Monkeypox", "Mpox")]


def test_another_package(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no tabular list"):
        list(diseases(tmp_path))
