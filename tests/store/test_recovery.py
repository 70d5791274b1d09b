"""Opening a folder: refusals, locks between runs and parts, starting over, and what a crash left."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.form import cases
from helpers.files import contents
from helpers.stores import IDENTITY_A, ROWS, close_stores, commit, commit_table, counts, open_store, table
from lengthwise.config import BadRows
from lengthwise.errors import StoreError
from lengthwise.store.layout import IDENTITY, MANIFEST, PRECISION, RECORDS, RUN
from lengthwise.store.local import LocalFolder
from lengthwise.store.parquet import write_shard
from lengthwise.store.parts import Part
from lengthwise.store.records import ShardRecord
from lengthwise.store.vectors import VectorStore


def commit_bad(store: VectorStore, index: int, bad_rows: BadRows) -> ShardRecord:
    """Commit a shard with a row that cannot be encoded, as a policy writes it."""
    lines = b"{}\n" if bad_rows == "quarantine" else None
    return commit_table(store, table(index + 100 * bool(lines)), {**counts(index), "bad": 1}, lines)


def test_second_run_in_a_locked_folder_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match=rf"process {os.getpid()} on .*, since .*, is writing to this folder; wait"):
        VectorStore.open(tmp_path, IDENTITY_A, "run: 1\n")
    commit(store, 0)
    store.close()
    assert not (tmp_path / ".lock").exists()
    assert open_store(tmp_path).committed(0) is not None


def test_parts_write_in_parallel_and_a_whole_run_does_not(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def open_part(part: Part | None) -> VectorStore:
            return stack.enter_context(VectorStore.open(tmp_path, IDENTITY_A, "run: 1\n", part=part))

        parts = [open_part(Part(index, 2)) for index in range(2)]
        commit(parts[0], 0, 2)
        (tmp_path / "data/.shard-000001.parquet.0a1b2c3d.part").write_bytes(b"half, of the other part")
        commit(parts[1], 3)
        for refused in (None, Part(1, 2), Part(0, 3)):
            with pytest.raises(StoreError, match="is writing to this folder"):
                open_part(refused)
    assert (tmp_path / "data/.shard-000001.parquet.0a1b2c3d.part").exists()
    commit(open_store(tmp_path, part=Part(1, 2)), 1)
    store = open_store(tmp_path)
    assert [store.committed(index) is not None for index in range(5)] == [True] * 4 + [False]
    store.finish(4 * ROWS, ROWS, "card")
    close_stores()
    whole = open_store(tmp_path.parent / "whole")
    commit(whole, 0, 1, 2, 3)
    whole.finish(4 * ROWS, ROWS, "card")
    close_stores()
    assert contents(tmp_path) == contents(tmp_path.parent / "whole")


def test_part_is_refused_while_a_whole_run_writes(tmp_path: Path) -> None:
    open_store(tmp_path)
    with pytest.raises(StoreError, match="is writing to this folder"):
        VectorStore.open(tmp_path, IDENTITY_A, "run: 1\n", part=Part(0, 2))


# Starting over


def test_start_over_removes_only_files_of_the_store(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0, 1)
    store.finish(2 * ROWS, ROWS, "card")
    for name in ("notes.txt", "data/mine.parquet", "x.part"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(StoreError, match="another run"):
        open_store(tmp_path, weights="bbbb")
    with pytest.raises(StoreError, match="part 0 cannot start the folder over"):
        open_store(tmp_path, weights="bbbb", part=Part(0, 2), fresh=True)
    store = open_store(tmp_path, weights="bbbb", fresh=True)
    assert store.records == {}
    close_stores()
    assert sorted(contents(tmp_path)) == ["data/mine.parquet", IDENTITY, "notes.txt", RUN, RECORDS, "x.part"]


@pytest.mark.parametrize("grows", [False, True])
def test_folder_where_another_run_committed_nothing_is_taken(tmp_path: Path, grows: bool) -> None:
    """As where a row was refused, and the run is repeated with the setting that its error names."""
    open_store(tmp_path, max_length=8)
    close_stores()
    (tmp_path / PRECISION).write_text("of the run that failed")
    with VectorStore.open(tmp_path, {**IDENTITY_A, "truncate": True}, "run: 2\n", grows=grows) as store:
        assert store.records == {}
    assert not (tmp_path / PRECISION).exists()
    with pytest.raises(StoreError, match="another run"):
        open_store(tmp_path, part=Part(0, 2))  # other parts may be about to commit


@pytest.mark.parametrize("left", ["data/shard-000000.parquet", MANIFEST])
def test_folder_whose_log_is_lost_is_not_taken(tmp_path: Path, left: str) -> None:
    commit(open_store(tmp_path), 0)
    close_stores()
    for name in contents(tmp_path):
        if name not in (IDENTITY, left):
            (tmp_path / name).unlink()
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(StoreError, match="another run"):
        open_store(tmp_path, weights="bbbb")


def test_start_over_in_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(StoreError, match="not a folder of vectors"):
        open_store(tmp_path, fresh=True)


def test_writer_of_a_run_that_was_started_over_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    open_store(tmp_path, weights="bbbb", fresh=True)  # in the background of the first one
    with pytest.raises(StoreError, match="another run has started it over"):
        commit(store, 0)
    assert "data/shard-000000.parquet" not in contents(tmp_path)


class Crash(BaseException):
    """Ends the process."""


@pytest.mark.parametrize("other_file", [None, "notes.txt"])
def test_crash_during_start_over_leaves_a_recognised_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_file: str | None
) -> None:
    """After any change it makes, the folder is still recognised, and lists no shard that is gone."""
    done = 0

    def crash_after(changes: int, patch: pytest.MonkeyPatch) -> None:
        nonlocal done
        done = 0
        for name in ("write", "remove"):
            original = getattr(LocalFolder, name)

            def counted(*arguments: object, original: object = original) -> None:
                nonlocal done
                if arguments[1] == ".lock":
                    return original(*arguments)  # type: ignore[operator]
                done += 1
                if done > changes:
                    raise Crash
                return original(*arguments)  # type: ignore[operator]

            patch.setattr(LocalFolder, name, counted)

    for changes in range(20):
        store = open_store(tmp_path, fresh=changes > 0)
        commit(store, 0, 1)
        store.finish(2 * ROWS, ROWS, "card")
        if other_file:
            (tmp_path / other_file).write_text("precious")
        close_stores()
        with monkeypatch.context() as patch, suppress(Crash):
            crash_after(changes, patch)
            open_store(tmp_path, weights="bbbb", fresh=True)
        close_stores()
        names = contents(tmp_path).keys()
        assert IDENTITY in names
        assert MANIFEST not in names or {"data/shard-000000.parquet", "data/shard-000001.parquet"} <= names
        assert other_file is None or other_file in names
        if done <= changes:
            break
    assert done > 5
    assert open_store(tmp_path, weights="bbbb").records == {}


def test_writer_is_refused_if_the_identity_is_gone_or_damaged(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "out")
    store = open_store(tmp_path / "out")
    for damage, message in (
        (b"[]", "cannot be read"),
        (b"{", "cannot be read"),
        (None, "another run has started it over"),
    ):
        folder.remove(IDENTITY) if damage is None else folder.write(IDENTITY, damage)
        with pytest.raises(StoreError, match=message):
            write_shard(folder, store.identity_hash, table(), counts(0))
    assert not list((tmp_path / "out/data").iterdir())


# Logs of several runs


def test_record_that_matches_the_files_wins(tmp_path: Path) -> None:
    """A part rewrites a shard that a whole run has recorded: the logs do not say which is newer."""
    store = open_store(tmp_path, bad_rows="zero")
    for index in range(2):
        commit_bad(store, index, "zero")
    store.finish(2 * ROWS, ROWS, "card")
    store = open_store(tmp_path, part=Part(1, 2), bad_rows="quarantine")
    assert store.committed(1) is None
    record = commit_bad(store, 1, "quarantine")
    assert open_store(tmp_path, part=Part(1, 2), bad_rows="quarantine").committed(1) == record
    store = open_store(tmp_path, bad_rows="quarantine")
    assert (store.committed(0), store.committed(1)) == (None, record)


POLICIES: tuple[BadRows, ...] = ("zero", "quarantine")
RUNS = st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(POLICIES), st.integers(0, 4), st.booleans())


@settings(max_examples=cases(short=25, whole=1_000), deadline=None)
@given(runs=st.lists(RUNS, max_size=6))
def test_committed_shards_stay_committed_in_any_division(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int, BadRows, int, bool]]
) -> None:
    """Runs in any division, under either policy, of any length: committed shards stay so, with the same result."""
    shards, folder, whole = 4, tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("whole")

    def pending(store: VectorStore, part: Part | None) -> list[int]:
        owned = [index for index in range(shards) if part is None or part.owns(index)]
        return [index for index in owned if store.committed(index) is None]

    def run(place: Path, part: Part | None, bad_rows: BadRows, most: int = shards, cut: bool = False) -> None:
        store = open_store(place, part=part, bad_rows=bad_rows)
        first = pending(store, part)[:most]
        for index in first:
            commit_bad(store, index, bad_rows)
        store = open_store(place, part=part, bad_rows=bad_rows)
        assert not set(first) & set(pending(store, part))
        if part is None and most >= shards:
            store.finish(shards * ROWS, ROWS, "card")
        close_stores()
        for log in place.glob("shards*.jsonl") if cut else ():
            log.write_bytes(log.read_bytes()[:-30])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # the machine does not crash
        for count, index, bad_rows, most, cut in runs:
            run(folder, Part(index % count, count) if count else None, bad_rows, most, cut)
        for place in (folder, whole):
            run(place, None, "quarantine")
    assert contents(folder) == contents(whole)


def test_part_that_starts_with_a_whole_run_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It started after the whole run had checked for other locks: it is refused, and keeps its own lock."""
    open_store(tmp_path)
    close_stores()
    name = f".lock-{Part(0, 2)}"
    (tmp_path / f".lock-{Part(1, 2)}").write_text("of a dead process")
    with LocalFolder(tmp_path).lock(name):
        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "lock_holder", lambda *_: None)
            open_store(tmp_path)
        with pytest.raises(BlockingIOError), LocalFolder(tmp_path).lock(name):
            pass
        close_stores()
        assert [found for found in contents(tmp_path) if found.startswith(".lock")] == [name]
    assert name not in contents(tmp_path)


def test_open_removes_drafts_that_a_crash_left(tmp_path: Path) -> None:
    commit(open_store(tmp_path), 0)
    close_stores()
    (tmp_path / "data/.shard-000001.parquet.0a1b2c3d.part").write_bytes(b"half")
    (tmp_path / ".manifest.json.0a1b2c3d.part").write_bytes(b"half")
    before = {name: data for name, data in contents(tmp_path).items() if not name.endswith(".part")}
    open_store(tmp_path)
    close_stores()
    assert contents(tmp_path) == before


def test_folder_without_identity_after_a_crash_is_usable(tmp_path: Path) -> None:
    draft = f".{IDENTITY}.0a1b2c3d.part"
    (tmp_path / draft).write_bytes(b'{"sha2')
    commit(open_store(tmp_path), 0)
    assert draft not in contents(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "bbbb"}, 'weights was "aaaa", is "bbbb"'),
        ({"max_length": 128}, "max_length was null, is 128"),
        ({"batching": {"max_rows": 128, "min_equal_rows": 8}}, "batching.min_equal_rows was 16, is 8"),
        ({"new": True}, "new was not there, is true"),
        ({"weights": "b", "max_length": 2}, 'max_length was null, is 2; weights was "aaaa", is "b"'),
    ],
)
def test_another_run_is_refused_with_what_changed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    commit(open_store(tmp_path), 0)
    close_stores()
    before = contents(tmp_path)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, **changes)
    assert f"holds the vectors of another run ({message}); choose another encode.output" in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "data/mine.parquet", "x.part", ".git/config"])
def test_folder_of_other_files_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(StoreError, match=r"not empty, and not a folder of vectors; choose another encode\.output"):
        open_store(tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"sha256": "x", "depends_on": [1]}'])
def test_damaged_identity_is_refused(tmp_path: Path, damage: bytes) -> None:
    open_store(tmp_path)
    (tmp_path / IDENTITY).write_bytes(damage)
    with pytest.raises(StoreError, match="the folder is damaged: start over with --fresh, or choose another"):
        open_store(tmp_path)
    commit(open_store(tmp_path, fresh=True), 0)
    assert open_store(tmp_path).committed(0) is not None
