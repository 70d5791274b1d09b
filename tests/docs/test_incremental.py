"""The commands of docs/incremental.md, and what they print."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.pages import ROWS, UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.encoder.kernel import has_kernel

PAGE = read_page("docs/incremental.md")


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_commands_and_code_bring_a_table_up_to_date(user: UserFolder) -> None:
    duckdb = pytest.importorskip("duckdb")
    commands = [command for command in runnable_commands(PAGE) if "growing" not in command]
    first, second, *cached, with_key, diff = commands
    assert len(cached) == 6
    user.run(first)
    lines = (user.folder / "reviews.csv").read_text().splitlines()
    lines[3], lines[5] = "77,something new", f"{lines[5].partition(',')[0]},another text"
    (user.folder / "reviews.csv").write_text("\n".join(lines) + "\n")
    assert f"{len(ROWS) - 2} rows have their vector from monday" in user.run(second)
    assert user.run(diff).splitlines()[:4] == [
        "added       1 rows",
        "removed     1 rows",
        "changed     1 rows: the vector of 1, kept columns of 0",
        f"unchanged   {len(ROWS) - 2} rows",
    ]
    for command in cached:
        user.run(command)
    assert "thursday/changes: 0 rows added, 0 changed, 0 removed since tuesday" in user.run(with_key)
    (code,) = code_blocks(PAGE, "python")
    user.run_python(f"{code}\ndatabase.close()")
    with duckdb.connect(user.folder / "vectors.duckdb") as database:
        held = database.execute("SELECT id, embedding FROM vectors ORDER BY id").fetchall()
        expected = database.execute(f"SELECT id, embedding FROM '{user.folder}/tuesday/data/*.parquet' ORDER BY id")
        assert held == expected.fetchall()


def test_reason_is_printed_as_the_page_says(user: UserFolder) -> None:
    first, second, *_ = runnable_commands(PAGE)
    user.run(first)
    printed = user.run(f"{second} --set tokenizer.max_length=128")
    assert "nothing of monday: max_length was null, is 128" in printed
    assert "`nothing of monday: max_length was null, is 128`" in PAGE


def test_folder_that_grows_is_appended_to_and_followed(user: UserFolder) -> None:
    append, follow = (command for command in runnable_commands(PAGE) if "growing" in command)
    user.run(append)
    before = (user.folder / "growing/data/shard-000000.parquet").read_bytes()
    for name, command in (("before", append), ("again", follow)):
        table = pa.table({"id": [100, 101], "body": ["moon", f"rain {name}"]})
        pq.write_table(table, user.folder / f"corpus/{name}.parquet")
        printed = user.run(command)
    assert printed.startswith("added       again.parquet: 2 rows in ")
    assert f"{len(ROWS) + 4} rows in all" in printed
    assert "speed " in printed
    assert (user.folder / "growing/data/shard-000000.parquet").read_bytes() == before
    assert len(user.vectors("growing")) == len(ROWS) + 4
