"""What has to be added, removed and replaced makes the old folder the new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.files import contents
from helpers.vector_folders import write_vectors
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run import diff
from lengthwise.run.diff import FolderDiff, diff_folders

Rows = dict[int, tuple[int, str | None, list[float] | None]]  # by key: what the vector is of, a title and more
some_rows = st.dictionaries(
    st.integers(0, 12),
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", None]), st.sampled_from([None, [0.5], [0.5, 1.0]])),
    max_size=9,
)


def vector(number: int) -> list[float]:
    return [float(number), number / 3, 1.0]


def write(folder: Path, rows: Rows, shard_rows: int = 3, **identity: Any) -> Path:
    """A folder of these rows; a vector of 0 is null."""
    kept = pa.table(
        {
            "id": pa.array(list(rows), pa.int64()),
            "title": pa.array([title for _, title, _ in rows.values()], pa.string()),
            "more": pa.array([more for _, _, more in rows.values()], pa.list_(pa.float64())),
        }
    )
    numbers = [number for number, _, _ in rows.values()]
    vectors = np.array([vector(number) for number in numbers], np.float32).reshape(-1, 3)
    return write_vectors(folder, vectors, kept, shard_rows=shard_rows, is_null=np.array(numbers) == 0, **identity)


def read(path: Path) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(path).to_pylist()}


@settings(max_examples=40, deadline=None)
@given(old=some_rows.filter(bool), new=some_rows.filter(bool), order=st.randoms(), shard_rows=st.integers(1, 4))
def test_changes_make_the_old_folder_the_new_one(
    scratch: Callable[[], Path], old: Rows, new: Rows, order: Any, shard_rows: int
) -> None:
    folder, keys = scratch(), list(new)
    order.shuffle(keys)
    new = {key: new[key] for key in keys}
    write(folder / "old", old)
    write(folder / "new", new, shard_rows)
    found = diff_folders(folder / "old", folder / "new", "id", folder / "diff")

    expected, state = read(folder / "new/data"), read(folder / "old/data")
    removed, added, changed = (read(folder / f"diff/{name}.parquet") for name in ("removed", "added", "changed"))
    assert removed == {key: row for key, row in state.items() if key not in new}
    for key in removed:
        del state[key]
    assert not added.keys() & old.keys()
    assert changed.keys() <= old.keys() & new.keys()
    marks = {key: (row.pop("vector_changed"), row.pop("columns_changed")) for key, row in changed.items()}
    for key, mark in marks.items():
        assert mark == (old[key][0] != new[key][0], old[key][1:] != new[key][1:])
        assert any(mark)
    assert {**state, **added, **changed} == expected
    same = {key for key in old.keys() & new.keys() if old[key] == new[key]}
    summary = json.loads((folder / "diff/summary.json").read_text())
    assert FolderDiff(**summary) == FolderDiff(
        len(added),
        len(removed),
        len(changed),
        len(same),
        sum(vectors for vectors, _ in marks.values()),
        sum(columns for _, columns in marks.values()),
        only_old=[],
        only_new=[],
    )
    assert (found.added, found.changed) == (len(added), len(changed))


ROWS: Rows = {1: (1, "a", None), 2: (2, "b", None), 3: (0, None, [1.0])}


def test_nothing_changed(tmp_path: Path) -> None:
    write(tmp_path / "old", ROWS)
    assert diff_folders(tmp_path / "old", tmp_path / "old", "id", tmp_path / "diff") == FolderDiff(unchanged=3)
    schema = pq.read_schema(tmp_path / "old/data/shard-000000.parquet")
    for name in ("added", "removed", "changed"):
        assert pq.read_table(tmp_path / f"diff/{name}.parquet").num_rows == 0
        assert pq.read_schema(tmp_path / f"diff/{name}.parquet").names[: len(schema)] == schema.names


def test_shards_that_both_folders_have_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are; the rows of others may have moved out of them or into them."""
    rows = {key: (key % 3, str(key), None) for key in range(12)}
    write(tmp_path / "old", rows)
    order = [6, 7, 8, 0, 9, 2, 3, 4, 5, 1, 12, 11]
    write(tmp_path / "new", {key: (key % 3, str(key), None) for key in order})
    compared: list[int] = []
    hash_contents = diff._contents
    monkeypatch.setattr(
        diff, "_contents", lambda table, names: (compared.append(len(table)), hash_contents(table, names))[1]
    )
    found = diff_folders(tmp_path / "old", tmp_path / "new", "id", tmp_path / "diff")
    assert compared == [3, 3, 3, 2]  # the first and last shard of each, but for the row that is added
    assert found == FolderDiff(added=1, removed=1, unchanged=11)
    assert list(read(tmp_path / "diff/removed.parquet")) == [10]
    twice = pa.concat_tables([pq.read_table(tmp_path / "old/data/shard-000001.parquet")] * 2)
    write_vectors(tmp_path / "double", np.ones((6, 3), np.float32), twice.select(["id", "title", "more"]), shard_rows=3)
    with pytest.raises(ConfigError, match="double: the key 'id' of row 3 is 3, as in an earlier row"):
        diff_folders(tmp_path / "double", tmp_path / "double", "id")
    with pytest.raises(ConfigError, match="double: the key 'id' of row 3 is 3, as in an earlier row"):
        diff_folders(tmp_path / "old", tmp_path / "double", "id")


def test_other_model_is_said(tmp_path: Path) -> None:
    write(tmp_path / "old", ROWS)
    write(tmp_path / "new", ROWS, weights="bbbb", vector_dtype="float32")
    found = diff_folders(tmp_path / "old", tmp_path / "new", "id")
    assert found.model == 'vector_dtype was null, is "float32"; weights was "aaaa", is "bbbb"'
    assert found.unchanged == 3


def test_columns_of_one_folder_are_not_compared(tmp_path: Path) -> None:
    vectors = np.ones((2, 3), np.float32)
    write_vectors(tmp_path / "old", vectors, pa.table({"id": ["a", "b"], "old": [1, 2]}))
    write_vectors(tmp_path / "new", vectors, pa.table({"id": ["b", "a"], "new": [3, 4]}))
    found = diff_folders(tmp_path / "old", tmp_path / "new", "id")
    assert found == FolderDiff(unchanged=2, only_old=("old",), only_new=("new",))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"id": [1, 2, 1]}, r"new: the key 'id' of row 2 is 1, as in an earlier row"),
        ({"id": [1, None, 2]}, r"new: the key 'id' of row 1 is null"),
        (
            {"id": ["1", "2", "3"]},
            r"'id' is int64 in .*old and string in .*new; encode both with the same dataset\.types",
        ),
        ({"number": [1, 2, 3]}, r"new: has no kept column 'id', but number"),
        ({"id": [1, 2, 3], "vector_changed": [1, 2, 3]}, r"'vector_changed', which changed\.parquet adds"),
    ],
)
def test_keys_that_say_nothing_are_refused(tmp_path: Path, kept: dict[str, list[Any]], message: str) -> None:
    write(tmp_path / "old", ROWS)
    write_vectors(tmp_path / "new", np.ones((3, 3), np.float32), pa.table(kept), shard_rows=2)
    with pytest.raises(ConfigError, match=message):
        diff_folders(tmp_path / "old", tmp_path / "new", "id", tmp_path / "diff")
    assert not (tmp_path / "diff/added.parquet").exists()


def test_incomplete_damaged_and_missing_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "old", ROWS)
    write(tmp_path / "new", ROWS, 1)
    with pytest.raises(StoreError, match="nowhere: not a folder of vectors"):
        diff_folders(tmp_path / "nowhere", tmp_path / "new", "id")
    path = tmp_path / "new/data/shard-000001.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[50] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"shard-000001\.parquet: its sha256 is not .*; run the command that encodes"):
        diff_folders(tmp_path / "old", tmp_path / "new", "id", tmp_path / "diff")
    assert contents(tmp_path / "diff") == {} if (tmp_path / "diff").exists() else True
    (tmp_path / "new/manifest.json").unlink()
    with pytest.raises(StoreError, match="new: incomplete, for its run has not ended"):
        diff_folders(tmp_path / "old", tmp_path / "new", "id")


def test_output_of_something_else_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "old", ROWS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"mine: holds other files \(notes\.txt\); choose another output"):
        diff_folders(tmp_path / "old", tmp_path / "old", "id", tmp_path / "mine")
    diff_folders(tmp_path / "old", tmp_path / "old", "id", tmp_path / "diff")
    (tmp_path / "diff/.added.parquet.0a1b2c3d.part").write_bytes(b"as a kill leaves it")
    diff_folders(tmp_path / "old", tmp_path / "old", "id", tmp_path / "diff")
    assert set(contents(tmp_path / "diff")) == {"added.parquet", "changed.parquet", "removed.parquet", "summary.json"}
