"""Folders of vectors: a shard is there whole or not at all, whatever happens, and nothing of another run is touched."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.files import contents, raise_disk_full
from helpers.stores import ROWS, close_stores, commit, commit_table, counts, open_store, table
from lengthwise.config import BadRows
from lengthwise.errors import StoreError
from lengthwise.store.layout import IDENTITY, MANIFEST, RECORDS, RUN
from lengthwise.store.local import LocalFolder
from lengthwise.store.parquet import vector_table
from lengthwise.store.records import ShardRecord, Totals
from lengthwise.util.files import HashedFile, file_sha256


@pytest.fixture(autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    close_stores()


# Shards


def test_a_committed_shard_is_known_to_the_next_run(tmp_path: Path) -> None:
    first, second = commit(open_store(tmp_path / "out"), 0, 1)
    again = open_store(tmp_path / "out")
    assert (again.committed(0), again.committed(1), again.committed(2)) == (first, second, None)
    assert second == ShardRecord(
        **counts(1),
        rows=ROWS,
        file="data/shard-000001.parquet",
        sha256=file_sha256(tmp_path / "out" / second.file),
        quarantine=None,
    )
    assert pq.read_table(tmp_path / "out" / second.file).equals(table(1))
    close_stores()
    assert sorted(contents(tmp_path / "out")) == sorted([first.file, second.file, IDENTITY, RECORDS, RUN])


def test_a_changed_or_missing_file_is_not_committed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first, second, third = commit(store, 0, 1, 2)
    (tmp_path / second.file).unlink()
    (tmp_path / third.file).write_bytes((tmp_path / third.file).read_bytes() + b"x")
    assert (store.committed(0), store.committed(1), store.committed(2)) == (first, None, None)
    commit(store, 2)
    assert open_store(tmp_path).committed(2) == third


def test_a_line_that_a_crash_cut_off_costs_its_own_shard_only(tmp_path: Path) -> None:
    commit(open_store(tmp_path), 0, 1)
    records = tmp_path / RECORDS
    records.write_bytes(records.read_bytes()[:-30])
    store = open_store(tmp_path)
    assert store.committed(0) is not None
    assert store.committed(1) is None
    commit(store, 1, 2)
    again = open_store(tmp_path)
    assert [again.committed(index) == store.records[index] for index in range(3)] == [True] * 3


def test_half_written_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    commit(open_store(tmp_path), 0)
    close_stores()
    (tmp_path / "data/.shard-000001.parquet.0a1b2c3d.part").write_bytes(b"half")
    (tmp_path / ".manifest.json.0a1b2c3d.part").write_bytes(b"half")
    before = {name: data for name, data in contents(tmp_path).items() if not name.endswith(".part")}
    open_store(tmp_path)
    close_stores()
    assert contents(tmp_path) == before


def test_a_shard_without_a_record_is_written_again(tmp_path: Path) -> None:
    """A crash between the file and its record."""
    store = open_store(tmp_path)
    [record] = commit(store, 0)
    (tmp_path / RECORDS).write_bytes(b"")
    again = open_store(tmp_path)
    assert again.committed(0) is None
    assert commit(again, 0) == [record]


def test_a_crash_before_the_identity_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    draft = f".{IDENTITY}.0a1b2c3d.part"
    (tmp_path / draft).write_bytes(b'{"sha2')
    commit(open_store(tmp_path), 0)
    assert draft not in contents(tmp_path)


def test_statistics_are_of_the_columns_that_one_looks_for_values_in(tmp_path: Path) -> None:
    (record,) = commit(open_store(tmp_path / "vectors"), 0)
    group = pq.ParquetFile(tmp_path / "vectors" / record.file).metadata.row_group(0)
    columns = (group.column(number) for number in range(group.num_columns))
    has_statistics = {column.path_in_schema.split(".")[0]: column.is_stats_set for column in columns}
    assert has_statistics.pop("embedding") is False
    assert set(has_statistics) >= {"num_tokens", "truncated"}
    assert all(has_statistics.values())


def test_what_a_worker_left_half_written_is_gone_in_the_end(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0, 1)
    for name in ("data/.shard-000001.parquet.0a1b2c3d.part", "quarantine/.shard-000001.jsonl.0a1b2c3d.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "data" / "mine.part").write_bytes(b"somebody's own")
    store.finish(2 * ROWS, ROWS, "card")
    assert [name for name in contents(tmp_path) if name.endswith(".part")] == ["data/mine.part"]


def test_the_same_shards_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store = open_store(tmp_path / name)
        commit(store, 0, 1)
        store.finish(2 * ROWS, ROWS, "card")
    close_stores()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_bytes_do_not_depend_on_how_the_input_was_chunked(tmp_path: Path) -> None:
    """Streams, caches and memory cut the same rows into different chunks."""
    rows = 20_000
    whole = table(rows=rows).append_column("text", pa.array([f"{row:0300d}" for row in range(rows)]))
    cut = pa.concat_tables([whole.slice(start, 777) for start in range(0, rows, 777)])
    assert cut["text"].num_chunks > 1
    shas = [
        commit_table(open_store(tmp_path / name), data, counts(0)).sha256 for name, data in (("a", whole), ("b", cut))
    ]
    assert shas[0] == shas[1]


# The manifest


def test_the_manifest_is_written_last_and_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = LocalFolder.write

    def note(self: LocalFolder, name: str, data: bytes) -> None:
        written.append(name)
        write(self, name, data)

    monkeypatch.setattr(LocalFolder, "write", note)
    store = open_store(tmp_path)
    records = commit(store, 1, 0)
    assert not (tmp_path / MANIFEST).exists()
    manifest = store.finish(2 * ROWS, ROWS, "# A card\n")
    assert written[-2:] == ["README.md", MANIFEST]
    assert json.loads((tmp_path / MANIFEST).read_text()) == manifest
    assert (
        asdict(store.totals())
        == {name: manifest[name] for name in asdict(Totals())}
        == {
            "rows": 2 * ROWS,
            "tokens": 21,
            "empty": 2,
            "null": 0,
            "bad": 0,
            "truncated": 1,
        }
    )
    assert [shard["sha256"] for shard in manifest["shards"]] == [records[1].sha256, records[0].sha256]
    assert manifest["identity"] == json.loads((tmp_path / IDENTITY).read_text())["sha256"]
    assert (tmp_path / "README.md").read_text() == "# A card\n"


def test_a_full_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    before = contents(tmp_path)
    monkeypatch.setattr("lengthwise.util.files.os.replace", raise_disk_full)
    with pytest.raises(StoreError, match=r"cannot be written \(.*No space left.*the shards are safe"):
        store.finish(ROWS, ROWS, "card")
    assert contents(tmp_path) == before


# Refusals


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": "bbbb"}, 'weights was "aaaa", is "bbbb"'),
        ({"max_length": 128}, "max_length was null, is 128"),
        ({"batching": {"max_rows": 128, "min_equal_rows": 8}}, "batching.min_equal_rows was 16, is 8"),
        ({"new": True}, "new was not there, is true"),
        ({"weights": "b", "max_length": 2}, 'max_length was null, is 2; weights was "aaaa", is "b"'),
    ],
)
def test_another_run_is_refused_and_told_what_changed(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    commit(open_store(tmp_path), 0)
    close_stores()
    before = contents(tmp_path)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, **changes)
    assert f"holds the vectors of another run ({told}); choose another encode.output" in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "data/mine.parquet", "x.part", ".git/config"])
def test_a_folder_that_is_not_ours_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(StoreError, match=r"not empty, and not a folder of vectors; choose another encode\.output"):
        open_store(tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="not empty, and not a folder of vectors"):
        open_store(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot be written"):
        open_store(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"sha256": "x", "depends_on": [1]}'])
def test_a_damaged_identity_is_refused(tmp_path: Path, damage: bytes) -> None:
    open_store(tmp_path)
    (tmp_path / IDENTITY).write_bytes(damage)
    with pytest.raises(StoreError, match="the folder is damaged: start over with --fresh, or choose another"):
        open_store(tmp_path)
    commit(open_store(tmp_path, fresh=True), 0)
    assert open_store(tmp_path).committed(0) is not None


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    with pytest.raises(StoreError, match=r"cannot be written \(.*Permission denied\)"):
        open_store(tmp_path / "out")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "failing", ["pyarrow.parquet.write_table", "lengthwise.util.files.os.replace", "lengthwise.util.files.os.fsync"]
)
def test_a_full_disk_leaves_the_earlier_shards_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    store = open_store(tmp_path)
    [first] = commit(store, 0)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(failing, raise_disk_full)
        with pytest.raises(StoreError, match=r"shard-000001\.parquet: the shard cannot be written \(.*No space left"):
            commit(store, 1)
    assert contents(tmp_path) == before
    again = open_store(tmp_path)
    assert (again.committed(0), again.committed(1)) == (first, None)
    commit(again, 1)
    assert open_store(tmp_path).committed(1) is not None


def test_a_table_that_is_half_written_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(data: pa.Table, file: HashedFile, **_: Any) -> None:
        file.write(b"PAR1 half")
        raise_disk_full()

    store = open_store(tmp_path)
    monkeypatch.setattr("pyarrow.parquet.write_table", half)
    with pytest.raises(StoreError):
        commit(store, 0)
    assert list((tmp_path / "data").iterdir()) == []


# Bad rows


def test_rows_that_were_set_aside_belong_to_the_shard(tmp_path: Path) -> None:
    store = open_store(tmp_path, bad_rows="quarantine")
    record = commit_table(store, table(), {**counts(0), "bad": 2}, b'{"row": 1}\n')
    aside = tmp_path / "quarantine/shard-000000.jsonl"
    assert aside.read_bytes() == b'{"row": 1}\n'
    assert record.checksums == {record.file: record.sha256, "quarantine/shard-000000.jsonl": file_sha256(aside)}
    for bad_rows, counts_as in (("quarantine", record), ("error", record), ("zero", None)):
        assert open_store(tmp_path, bad_rows=bad_rows).committed(0) == counts_as
    aside.write_bytes(b"changed")
    assert open_store(tmp_path, bad_rows="quarantine").committed(0) is None
    commit_table(open_store(tmp_path, bad_rows="zero"), table(), {**counts(0), "bad": 2})
    assert not aside.exists()
    assert open_store(tmp_path, bad_rows="quarantine").committed(0) is None


# The end


def test_a_finished_folder_that_changes_is_not_finished(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    store.finish(ROWS, ROWS, "card")
    before = contents(tmp_path)
    store = open_store(tmp_path)
    assert (tmp_path / MANIFEST).exists()
    commit(store, 0)
    assert not (tmp_path / MANIFEST).exists()
    store.finish(ROWS, ROWS, "card")
    assert contents(tmp_path) == before


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0, 1, 3, 7)
    (tmp_path / "data/shard-000001.parquet").unlink()
    with pytest.raises(StoreError, match=r"6 of 9 shards are missing \(numbers 1-2, 4-6, 8\); run the command"):
        store.finish(9 * ROWS, ROWS, "card")
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_an_input_of_another_number_of_rows(tmp_path: Path, rows: int) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    with pytest.raises(StoreError, match=r"the input has|shards are missing"):
        store.finish(rows, ROWS, "card")


def test_a_shard_of_other_columns(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    commit_table(store, table(1).rename_columns(["number", "embedding", "num_tokens", "truncated"]), counts(1))
    with pytest.raises(StoreError, match=r"shard-000001.*its columns are number int64, .* first shard id int64"):
        store.finish(2 * ROWS, ROWS, "card")


def test_strays_are_removed_at_the_end(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    (tmp_path / "data/shard-000001.parquet").write_bytes(b"of a shard that is no more")
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine/shard-000000.jsonl").write_bytes(b"of a version that is no more")
    store.finish(ROWS, ROWS, "card")
    close_stores()
    assert sorted(contents(tmp_path)) == ["README.md", "data/shard-000000.parquet", IDENTITY, MANIFEST, RUN, RECORDS]


@pytest.mark.parametrize("bad_rows", ["zero", "quarantine"])
def test_a_shard_that_has_to_be_written_again_takes_the_manifest_away(tmp_path: Path, bad_rows: BadRows) -> None:
    """Before it is written: the manifest has its last version's sha256."""
    store = open_store(tmp_path, bad_rows=bad_rows)
    commit_table(store, table(), {**counts(0), "bad": 1}, b"{}\n" if bad_rows == "quarantine" else None)
    store.finish(ROWS, ROWS, "card")
    store = open_store(tmp_path, bad_rows=bad_rows)
    assert store.committed(0) is not None
    assert store.committed(1) is None
    assert (tmp_path / MANIFEST).exists()
    store = open_store(tmp_path, bad_rows="zero" if bad_rows == "quarantine" else "quarantine")
    assert store.committed(0) is None
    assert not (tmp_path / MANIFEST).exists()


def test_rows_that_were_set_aside_are_part_of_a_whole_folder(tmp_path: Path) -> None:
    store = open_store(tmp_path, bad_rows="quarantine")
    commit_table(store, table(), {**counts(0), "bad": 1}, b"{}\n")
    (tmp_path / "quarantine/shard-000000.jsonl").unlink()
    with pytest.raises(StoreError, match=r"1 of 1 shards are missing \(numbers 0\)"):
        store.finish(ROWS, ROWS, "card")


# Tables


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_schema_on_disk(tmp_path: Path, dtype: str) -> None:
    vectors = np.arange(6, dtype=dtype).reshape(2, 3)
    built = vector_table(pa.table({"id": ["a", "b"]}), vectors, np.array([3, 0]), np.array([True, False]))
    record = commit_table(open_store(tmp_path), built, counts(0))
    found = pq.read_table(tmp_path / record.file)
    value = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    assert found.schema.names == ["id", "embedding", "num_tokens", "truncated"]
    assert found.schema.types == [pa.string(), pa.list_(value, 3), pa.int32(), pa.bool_()]
    assert found["embedding"].to_pylist() == vectors.tolist()
    assert found["num_tokens"].to_pylist() == [3, 0]
    assert found["truncated"].to_pylist() == [True, False]


def test_no_kept_column(tmp_path: Path) -> None:
    kept = pa.table({"text": ["a", "b"]}).select([])
    built = vector_table(kept, np.ones((2, 3), np.float32), np.array([1, 1]), np.array([False, False]))
    record = commit_table(open_store(tmp_path), built, counts(0))
    found = pq.read_table(tmp_path / record.file)
    assert found.column_names == ["embedding", "num_tokens", "truncated"]
    assert record.rows == found.num_rows == 2


def test_vectors_that_are_a_view_keep_their_order() -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2).T
    built = vector_table(pa.table({"id": [0, 1]}), vectors, np.array([1, 1]), np.array([False, False]))
    assert built["embedding"].to_pylist() == vectors.tolist()
