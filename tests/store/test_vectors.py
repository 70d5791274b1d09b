"""Folders of vectors: a shard exists in full or not at all, and nothing of another run is touched."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.files import contents, raise_disk_full
from helpers.stores import ROWS, close_stores, commit, commit_table, counts, open_store, table
from lengthwise.config import BadRows
from lengthwise.errors import StoreError
from lengthwise.store.layout import IDENTITY, LOCK, MANIFEST, RECORDS, RUN
from lengthwise.store.local import LocalFolder
from lengthwise.store.records import ShardRecord, Totals
from lengthwise.util.files import HashedFile, file_sha256

# Shards


def test_committed_shard_is_known_to_the_next_run(tmp_path: Path) -> None:
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


def test_changed_or_missing_file_is_not_committed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first, second, third = commit(store, 0, 1, 2)
    (tmp_path / second.file).unlink()
    (tmp_path / third.file).write_bytes((tmp_path / third.file).read_bytes() + b"x")
    assert (store.committed(0), store.committed(1), store.committed(2)) == (first, None, None)
    commit(store, 2)
    assert open_store(tmp_path).committed(2) == third


def test_line_that_a_crash_cut_off_costs_its_own_shard_only(tmp_path: Path) -> None:
    commit(open_store(tmp_path), 0, 1)
    records = tmp_path / RECORDS
    records.write_bytes(records.read_bytes()[:-30])
    store = open_store(tmp_path)
    assert store.committed(0) is not None
    assert store.committed(1) is None
    commit(store, 1, 2)
    again = open_store(tmp_path)
    assert [again.committed(index) == store.records[index] for index in range(3)] == [True] * 3


def test_shard_without_a_record_is_written_again(tmp_path: Path) -> None:
    """A crash came between the file and its record."""
    store = open_store(tmp_path)
    [record] = commit(store, 0)
    (tmp_path / RECORDS).write_bytes(b"")
    again = open_store(tmp_path)
    assert again.committed(0) is None
    assert commit(again, 0) == [record]


def test_finish_removes_drafts_of_dead_workers(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0, 1)
    for name in ("data/.shard-000001.parquet.0a1b2c3d.part", "quarantine/.shard-000001.jsonl.0a1b2c3d.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "data" / "mine.part").write_bytes(b"the user's")
    store.finish(2 * ROWS, ROWS, "card")
    assert [name for name in contents(tmp_path) if name.endswith(".part")] == ["data/mine.part"]


def test_same_shards_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store = open_store(tmp_path / name)
        commit(store, 0, 1)
        store.finish(2 * ROWS, ROWS, "card")
    close_stores()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# The manifest


def test_manifest_is_written_last_and_has_the_totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = LocalFolder.write

    def record(self: LocalFolder, name: str, data: bytes) -> None:
        written.append(name)
        write(self, name, data)

    monkeypatch.setattr(LocalFolder, "write", record)
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


def test_finish_on_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    before = contents(tmp_path)
    monkeypatch.setattr("lengthwise.util.files.os.replace", raise_disk_full)
    with pytest.raises(StoreError, match=r"cannot be written \(.*No space left.*the shards are safe"):
        store.finish(ROWS, ROWS, "card")
    assert contents(tmp_path) == before


def test_file_at_the_folder_path_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="not empty, and not a folder of vectors"):
        open_store(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot be written"):
        open_store(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "precious"


def test_folder_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    with pytest.raises(StoreError, match=r"cannot be written \(.*Permission denied\)"):
        open_store(tmp_path / "out")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "failing", ["pyarrow.parquet.write_table", "lengthwise.util.files.os.replace", "lengthwise.util.files.os.fsync"]
)
def test_full_disk_keeps_earlier_shards_and_leaves_no_draft(
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


def test_half_written_table_on_a_full_disk_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(data: pa.Table, file: HashedFile, **_: Any) -> None:
        file.write(b"PAR1 half")
        raise_disk_full()

    store = open_store(tmp_path)
    monkeypatch.setattr("pyarrow.parquet.write_table", write_half)
    with pytest.raises(StoreError):
        commit(store, 0)
    assert list((tmp_path / "data").iterdir()) == []


# Bad rows


def test_quarantine_file_belongs_to_its_shard(tmp_path: Path) -> None:
    store = open_store(tmp_path, bad_rows="quarantine")
    record = commit_table(store, table(), {**counts(0), "bad": 2}, b'{"row": 1}\n')
    lines = tmp_path / "quarantine/shard-000000.jsonl"
    assert lines.read_bytes() == b'{"row": 1}\n'
    assert record.checksums == {record.file: record.sha256, "quarantine/shard-000000.jsonl": file_sha256(lines)}
    for bad_rows, counts_as in (("quarantine", record), ("error", record), ("zero", None)):
        assert open_store(tmp_path, bad_rows=bad_rows).committed(0) == counts_as
    lines.write_bytes(b"changed")
    assert open_store(tmp_path, bad_rows="quarantine").committed(0) is None
    commit_table(open_store(tmp_path, bad_rows="zero"), table(), {**counts(0), "bad": 2})
    assert not lines.exists()
    assert open_store(tmp_path, bad_rows="quarantine").committed(0) is None


# Completeness


def test_commit_removes_the_manifest_of_a_complete_folder(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    store.finish(ROWS, ROWS, "card")
    before = contents(tmp_path) | {LOCK: b""}  # which says since when
    store = open_store(tmp_path)
    assert (tmp_path / MANIFEST).exists()
    commit(store, 0)
    assert not (tmp_path / MANIFEST).exists()
    store.finish(ROWS, ROWS, "card")
    assert contents(tmp_path) | {LOCK: b""} == before


def test_finish_removes_unrecorded_shards(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    (tmp_path / "data/shard-000001.parquet").write_bytes(b"of a former shard")
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine/shard-000000.jsonl").write_bytes(b"of a former version")
    store.finish(ROWS, ROWS, "card")
    close_stores()
    assert sorted(contents(tmp_path)) == ["README.md", "data/shard-000000.parquet", IDENTITY, MANIFEST, RUN, RECORDS]


@pytest.mark.parametrize("bad_rows", ["zero", "quarantine"])
def test_shard_of_another_policy_removes_the_manifest(tmp_path: Path, bad_rows: BadRows) -> None:
    """Before the shard is written: the manifest has the sha256 of its former version."""
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
