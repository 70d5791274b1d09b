"""The commands of docs/incremental.md and what they print, and its code, which brings databases up to date."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.pages import ROWS, UserFolder, code_blocks, read_page, runnable_commands
from helpers.texts import TEXTS
from lengthwise.encoder.kernel import has_kernel

PAGE = read_page("docs/incremental.md")
FIRST, SECOND, *CACHED, WITH_KEY, DIFF, APPEND, PLAN, PART_0, PART_1, FINALIZE, FOLLOW = runnable_commands(PAGE)
BLOCKS = code_blocks(PAGE, "python")
Held = dict[str, list[float] | None]  # vectors by key


def change_reviews(folder: Path, *, take_a_text: bool) -> None:
    """Remove a row, add one, change the text of one and, if wanted, take the text of another away."""
    lines = (folder / "reviews.csv").read_text().splitlines()
    keys = [line.partition(",")[0] for line in lines]
    lines[3], lines[5] = "77,something new", f"{keys[5]},another text"
    if take_a_text:
        lines[8] = f'{keys[8]},""'
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_commands_print_what_has_changed(user: UserFolder) -> None:
    user.run(FIRST)
    change_reviews(user.folder, take_a_text=False)
    assert f"{len(ROWS) - 2} rows have their vector from monday" in user.run(SECOND)
    assert user.run(DIFF).splitlines()[:4] == [
        "added       1 rows",
        "removed     1 rows",
        "changed     1 rows: the vector of 1, kept columns of 1",
        f"unchanged   {len(ROWS) - 2} rows",
    ]
    assert len(CACHED) == 6
    for command in CACHED:
        user.run(command)
    assert "thursday/changes: 0 rows added, 0 changed, 0 removed since tuesday" in user.run(WITH_KEY)


def test_reason_is_printed_as_the_page_says(user: UserFolder) -> None:
    user.run(FIRST)
    printed = user.run(f"{SECOND} --set tokenizer.max_length=128")
    assert "nothing of monday: max_length was null, is 128" in printed
    assert "`nothing of monday: max_length was null, is 128`" in PAGE


def test_folder_that_grows_is_appended_to_and_followed(user: UserFolder) -> None:
    user.run(APPEND)
    before = (user.folder / "growing/data/shard-000000.parquet").read_bytes()
    for name, command in (("before", APPEND), ("again", FOLLOW)):
        table = pa.table({"id": [100, 101], "body": ["moon", f"rain {name}"]})
        pq.write_table(table, user.folder / f"corpus/{name}.parquet")
        printed = user.run(command)
    assert printed.startswith("added       again.parquet: 2 rows in ")
    assert f"{len(ROWS) + 4} rows in all" in printed
    assert "speed " in printed
    assert (user.folder / "growing/data/shard-000000.parquet").read_bytes() == before
    assert len(user.vectors("growing")) == len(ROWS) + 4


def test_rows_that_are_new_are_planned_and_encoded_in_parts(user: UserFolder) -> None:
    assert "the parts have to encode" in user.run(PLAN)
    for command in (PART_0, PART_1):
        user.run(command)
    assert "complete    all " in user.run(FINALIZE)
    assert len(user.vectors("by_jobs")) == len(ROWS)


@pytest.fixture
def changed(user: UserFolder, request: pytest.FixtureRequest) -> UserFolder:
    """A user who has `monday`, `tuesday` and their `changes`."""
    bad_rows = f"--set encode.bad_rows={request.param}"
    user.run(f"{FIRST} {bad_rows}")
    change_reviews(user.folder, take_a_text=True)
    user.run(f"{SECOND} {bad_rows}")
    user.run(DIFF)
    return user


def held_by_duckdb(folder: Path) -> Held:
    import duckdb

    with duckdb.connect(folder / "vectors.duckdb") as database:
        return dict(database.execute("SELECT id, embedding FROM vectors").fetchall())


def test_columns_of_a_table_are_found_by_their_names(user: UserFolder) -> None:
    """Columns may be kept in another order than by the run before."""
    pytest.importorskip("duckdb", reason="the page's code for duckdb was not run: it is not installed")
    rows = [f"{number},{place},{text}" for number, (place, text) in enumerate(zip("abcdefg", TEXTS, strict=True))]
    for name, kept, count in (("monday", "id,place", 5), ("tuesday", "place,id", 7)):
        (user.folder / "reviews.csv").write_text("\n".join(["id,place,body", *rows[:count]]) + "\n")
        types = "--set dataset.types.id=string"
        user.run(f"{FIRST} {types} --set dataset.keep_columns=[{kept}] --set encode.output={name}")
    user.run(DIFF)
    [code] = (block for block in BLOCKS if block.startswith("import duckdb"))
    user.run_python(f"{code}\ndatabase.close()")
    import duckdb

    with duckdb.connect(user.folder / "vectors.duckdb") as database:
        found = database.execute("SELECT id, place FROM vectors ORDER BY id").fetchall()
    assert found == [(str(number), place) for number, place in enumerate("abcdefg")]


def held_by_lance(folder: Path) -> Held:
    import lance

    rows = lance.dataset(folder / "vectors.lance").to_table(columns=["id", "embedding"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["embedding"] for row in rows}


def held_by_qdrant(folder: Path) -> Held:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(folder / "vectors.qdrant"))
    points, _ = client.scroll("reviews", limit=1_000, with_vectors=True)
    client.close()
    return {point.payload["id"]: at_length_1(point.vector) for point in points}  # type: ignore[index,misc]


def at_length_1(vector: Any) -> list[float]:
    return list(np.array(vector) / np.linalg.norm(vector))


def expected_of(folder: Path, *, only_points: bool) -> Held:
    """The vectors of `tuesday`; of points, at length 1, as a collection for cosines gives some of them."""
    rows = pq.read_table(folder / "tuesday/data").to_pylist()
    if only_points:
        return {row["id"]: at_length_1(row["embedding"]) for row in rows if row["num_tokens"]}
    return {row["id"]: row["embedding"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "close", "held", "changed"),
    [
        ("duckdb", "database", held_by_duckdb, "quarantine"),
        ("duckdb", "database", held_by_duckdb, "zero"),
        ("lance", "", held_by_lance, "quarantine"),
        ("lance", "", held_by_lance, "zero"),
        ("qdrant_client", "client", held_by_qdrant, "quarantine"),
        ("qdrant_client", "client", held_by_qdrant, "zero"),
    ],
    indirect=["changed"],
)
def test_code_brings_databases_up_to_date(
    package: str, close: str, held: Callable[[Path], Held], changed: UserFolder
) -> None:
    """Also where it runs again."""
    pytest.importorskip(package, reason=f"the page's code for {package} was not run: it is not installed")
    (code,) = (block for block in BLOCKS if re.search(rf"^(import|from) {package}\b", block, re.MULTILINE))
    expected = expected_of(changed.folder, only_points=package == "qdrant_client")
    for _ in range(2):
        changed.run_python(f"{code}\n{f'{close}.close()' if close else ''}")
        found: Any = held(changed.folder)
        assert found.keys() == expected.keys()
        for key, vector in expected.items():
            if package == "qdrant_client":
                np.testing.assert_allclose(found[key], vector, rtol=1e-5)  # divided by their lengths
            else:
                assert (found[key] is None) == (vector is None)
                assert vector is None or list(found[key]) == vector
