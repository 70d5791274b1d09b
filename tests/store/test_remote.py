"""Folders at URLs: the lease that stands for a lock, and a whole run."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import encode, run_config, source_of
from helpers.stores import IDENTITY_A, ROWS, commit, table
from helpers.texts import TEXTS
from lengthwise.errors import StoreError
from lengthwise.store.lease import pid_namespace
from lengthwise.store.parts import Part
from lengthwise.store.remote import RemoteFolder
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.SETTLE_SECONDS", 0.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place of its own in memory."""
    return f"memory://{tmp_path.parent.name}-{tmp_path.name}"


@pytest.fixture
def memory() -> Any:
    return fsspec.filesystem("memory")


def files_at(url: str) -> dict[str, bytes]:
    folder = RemoteFolder(url)
    return {name: folder.read(name) or b"" for name in folder.list_files()}


def lock_of(memory: Any, url: str, **changes: Any) -> str:
    """Another process's lock."""
    path = f"{url.removeprefix('memory:/')}/.lock"
    record = {"pid": 1, "host": "elsewhere", "since": "then", "token": "theirs", "renewed": time.time(), **changes}
    memory.pipe_file(path, json.dumps(record).encode())
    return path


def test_a_whole_run_writes_what_it_writes_on_a_disk(
    tmp_path: Path, url: str, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    texts = [*TEXTS, None]
    for output in (url, tmp_path / "out"):
        run = run_config(output, encode={"bad_rows": "quarantine"})  # type: ignore[arg-type]
        assert encode(run, source_of(texts, run), tokenizer, engine).encoded.shards == 3
        assert encode(run, source_of(texts, run), tokenizer, engine).encoded.shards == 0
    expected = contents(tmp_path / "out")
    found = files_at(url)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"run.yaml"}  # which names the output
    assert pq.read_table(fsspec.open(f"{url}/data/shard-000001.parquet").open()).num_rows == 3


def test_a_run_that_broke_off_goes_on(url: str, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    run = run_config(url)  # type: ignore[arg-type]
    for part in (Part(1, 2), Part(0, 2)):
        encode(run, source_of(TEXTS, run), tokenizer, engine, part=part)
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{url.removeprefix('memory:/')}/data/shard-000001.parquet", b"damaged")
    assert encode(run, source_of(TEXTS, run), tokenizer, engine).encoded.shards == 1
    assert not [name for name in memory.find(url) if ".lines" in name or ".lock" in name or "-of-" in name]


def test_another_holder_is_refused_while_it_renews(url: str, memory: Any) -> None:
    lock_of(memory, url)
    with pytest.raises(StoreError, match="process 1 on elsewhere, since then, is writing to this folder"):
        VectorStore.open(url, IDENTITY_A, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"renewed": time.time() - 1_000},
        {"host": platform.node(), "processes": pid_namespace(), "pid": 2**22 + 1},
        {"renewed": "nonsense"},
    ],
    ids=["silent", "dead", "damaged"],
)
def test_a_stale_lock_is_taken_over(url: str, memory: Any, changes: dict[str, Any]) -> None:
    path = lock_of(memory, url, **changes)
    folder = RemoteFolder(url)
    assert folder.lock_holder(".lock") is None
    with folder.lock(".lock"):
        assert json.loads(memory.cat_file(path))["pid"] == os.getpid()
    assert not memory.exists(path)


def test_locks_of_many_dead_parts_are_removed_at_a_time(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.SETTLE_SECONDS", 0.2)
    VectorStore.open(url, IDENTITY_A, "").close()
    for index in range(30):
        memory.mv(lock_of(memory, url, renewed=0), f"{url.removeprefix('memory:/')}/.lock-{Part(index, 30)}")
    began = time.monotonic()
    with VectorStore.open(url, IDENTITY_A, "") as store:
        assert [name for name in store.folder.list_files() if name.startswith(".lock")] == [".lock"]
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("processes", ["a container's of its own", None])
def test_a_process_of_the_same_host_that_cannot_be_seen_may_be_alive(
    url: str, memory: Any, processes: str | None
) -> None:
    lock_of(memory, url, host=platform.node(), pid=2**22 + 1, processes=processes)
    with pytest.raises(BlockingIOError, match=f"process {2**22 + 1} on"), RemoteFolder(url).lock(".lock"):
        pass


def test_of_two_that_take_it_at_the_same_moment_the_last_one_holds_it(
    url: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.store.lease.time.sleep", lambda _: lock_of(memory, url))
    with pytest.raises(StoreError, match="process 1 on elsewhere, since then, is writing to this folder"):
        VectorStore.open(url, IDENTITY_A, "")
    assert files_at(url).keys() == {".lock"}  # which is theirs


def test_a_holder_that_leaves_at_that_moment(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder(url)
    path = lock_of(memory, url, renewed=0)
    original = type(memory).rm_file

    def gone(self: Any, path: str) -> None:
        original(self, path)
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "rm_file", gone)
        with folder.lock(".lock"):
            assert json.loads(memory.cat_file(path))["pid"] == os.getpid()


def test_an_end_while_it_is_taken_gives_it_back(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: float) -> None:
        assert RemoteFolder(url).lock_holder(".lock") is not None
        raise KeyboardInterrupt

    monkeypatch.setattr("lengthwise.store.lease.time.sleep", end)
    with pytest.raises(KeyboardInterrupt), RemoteFolder(url).lock(".lock"):
        pass
    assert files_at(url) == {}


def test_a_lock_is_renewed(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.RENEW_SECONDS", 0.01)
    folder = RemoteFolder(url)
    with folder.lock(".lock"):
        path = f"{url.removeprefix('memory:/')}/.lock"
        first = json.loads(memory.cat_file(path))["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(memory.cat_file(path))["renewed"] == first:
            assert time.monotonic() < deadline
        folder.check_lock()


def test_a_lock_that_was_lost_stops_the_run(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.RENEW_SECONDS", 0.01)
    with VectorStore.open(url, IDENTITY_A, "") as store:
        commit(store, 0)
        path = lock_of(memory, url)
        deadline = time.monotonic() + 10
        while not store.folder._leases[0].is_lost and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.01)
        with pytest.raises(StoreError, match="another process took over the lock"):
            commit(store, 1)
    assert json.loads(memory.cat_file(path))["token"] == "theirs"  # what is another's is not removed


def test_a_lock_that_cannot_be_renewed_for_too_long(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a machine that slept, or a store that did not answer: it is ours as long as nobody took it."""
    with VectorStore.open(url, IDENTITY_A, "") as store:
        monkeypatch.setattr("lengthwise.store.lease.LEASE_SECONDS", -1.0)
        commit(store, 0)
        path = lock_of(memory, url)
        with pytest.raises(StoreError, match=r"shards\.jsonl.*another process took over the lock"):
            commit(store, 1)
        with pytest.raises(StoreError, match="another process took over the lock"):
            store.finish(ROWS, ROWS, "card")
    assert "manifest.json" not in files_at(url)
    assert memory.exists(path)


@pytest.mark.parametrize("raised", [NotImplementedError, TypeError, ValueError, None])
def test_a_store_that_cannot_create_only_what_is_not_there(
    url: str, monkeypatch: pytest.MonkeyPatch, raised: type[Exception] | None
) -> None:
    """It refuses to, or writes over what is there."""
    folder = RemoteFolder(url)
    original = type(folder._fs).pipe_file

    def pipe_file(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> Any:
        if mode == "create" and raised is not None:
            raise raised("no such mode")
        return original(self, path, value, **options)

    monkeypatch.setattr(type(folder._fs), "pipe_file", pipe_file)
    with folder.lock(".lock"):
        with pytest.raises(BlockingIOError), RemoteFolder(url).lock(".lock"):
            pass
        assert folder.lock_holder(".lock") is not None
    assert folder.list_files() == []


def test_lines_that_their_writer_joins_while_another_reads(
    url: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = RemoteFolder(url), RemoteFolder(url)
    for line in (b"one\n", b"two\n"):
        writer.append("log.jsonl", line)
    original, times = type(memory).cat_ranges, 0

    def cat_ranges(*arguments: Any, **options: Any) -> Any:
        nonlocal times
        times += 1
        if times == 1:
            writer.write("log.jsonl", b"one\ntwo\n")
        return original(*arguments, **options)

    monkeypatch.setattr(type(memory), "cat_ranges", cat_ranges)
    assert reader.read("log.jsonl") == b"one\ntwo\n"
    assert times == 1


def test_a_line_that_cannot_be_read_is_not_left_out(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder(url)
    folder.append("log.jsonl", b"one\n")
    for answer, told in (
        (PermissionError("no"), "no"),
        (FileNotFoundError("gone"), "disappeared during each of 5 attempts"),
    ):
        monkeypatch.setattr(type(memory), "cat_ranges", lambda *_, answer=answer: [answer])
        with pytest.raises(OSError, match=told):
            folder.read("log.jsonl")


def test_a_store_that_fails_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        """Clients of object stores have their own."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ClientError("Access Denied")

    with VectorStore.open(url, IDENTITY_A, "") as store:
        monkeypatch.setattr(type(store.folder._fs), "put_file", refuse)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match=r"shard-000000.*\(ClientError: Access Denied\)"):
            commit(store, 0)


def test_a_protocol_that_nothing_speaks() -> None:
    for path in ("nonsense://a", "gs://a"):
        with pytest.raises(StoreError, match=f"{path}: cannot be opened .*install the package for that protocol"):
            RemoteFolder(path)


def test_the_table_is_what_was_given(url: str) -> None:
    with VectorStore.open(url, IDENTITY_A, "") as store:
        [record] = commit(store, 0)
        assert pq.read_table(store.folder.open(record.file)).equals(table(0))
        assert record.rows == ROWS
