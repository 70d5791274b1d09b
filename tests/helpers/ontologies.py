"""Small ontologies in the formats of the packages."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

OBO = """format-version: 1.2

[Term]
id: HP:1
name: Long \\"upper\\" lip
def: "Increased width, \\"height\\", of the upper lip." [orcid:1]
synonym: "Tall lip" EXACT []
synonym: "Lip" BROAD []
synonym: "LONG \\"UPPER\\" LIP" EXACT layperson []

[Term]
id: HP:2
name: Old
def: "Gone." []
is_obsolete: true

[Term]
id: HP:3
name: No definition

[Typedef]
id: part_of
name: part of
"""


def write_genes(folder: Path, number: int = 60) -> Path:
    """An SQLite file like that of GO.db, with a name, a definition and a synonym for each term."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "GO.sqlite")) as database:
        database.execute("CREATE TABLE go_term (_id, go_id, term, ontology, definition)")
        database.execute("CREATE TABLE go_synonym (_id, synonym, secondary, like_go_id)")
        database.execute("INSERT INTO go_term VALUES (99, 'all', 'all', 'universal', 'all')")
        for n in range(number):
            database.execute(
                "INSERT INTO go_term VALUES (?, ?, ?, 'BP', ?)", (n, f"GO:{n:03}", f"gene {n}", f"Does {n}.")
            )
            database.execute("INSERT INTO go_synonym VALUES (?, ?, NULL, 0)", (n, f"gene number {n}"))
            database.execute("INSERT INTO go_synonym VALUES (?, 'GO:1', 'GO:1', 1)", (n,))
        database.commit()
    return folder / "GO.sqlite"


def write_cell_ontology(package: Path, name: str, edition: str, terms: dict[str, dict[str, Any]]) -> None:
    """An ontology like those of cellxgene-ontology-guide."""
    folder = package / "cellxgene_ontology_guide/data"
    folder.mkdir(parents=True, exist_ok=True)
    with pa.output_stream(str(folder / f"{name}-ontology-{edition}.json.zst"), compression="zstd") as file:
        file.write(json.dumps({key: {"deprecated": False, **term} for key, term in terms.items()}).encode())
