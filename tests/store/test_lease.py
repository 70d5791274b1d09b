"""Locks at URLs: who holds a lease, when it is taken over, and what its loss means."""

from __future__ import annotations

import json
import os
import platform
import time
from typing import Any

import pytest

from helpers.stores import IDENTITY_A, ROWS, commit, files_at, write_lock
from lengthwise.errors import StoreError
from lengthwise.store.lease import pid_namespace
from lengthwise.store.parts import Part
from lengthwise.store.remote import RemoteFolder
from lengthwise.store.vectors import VectorStore


def test_lease_is_refused_while_another_process_renews_it(url: str, memory: Any) -> None:
    write_lock(memory, url)
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
def test_stale_lease_is_taken_over(url: str, memory: Any, changes: dict[str, Any]) -> None:
    path = write_lock(memory, url, **changes)
    folder = RemoteFolder(url)
    assert folder.lock_holder(".lock") is None
    with folder.lock(".lock"):
        assert json.loads(memory.cat_file(path))["pid"] == os.getpid()
    assert not memory.exists(path)


def test_stale_leases_of_many_parts_are_removed_in_parallel(
    url: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.store.lease.SETTLE_SECONDS", 0.2)
    VectorStore.open(url, IDENTITY_A, "").close()
    for index in range(30):
        memory.mv(write_lock(memory, url, renewed=0), f"{url.removeprefix('memory:/')}/.lock-{Part(index, 30)}")
    began = time.monotonic()
    with VectorStore.open(url, IDENTITY_A, "") as store:
        assert [name for name in store.folder.list_files() if name.startswith(".lock")] == [".lock"]
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("processes", ["another container", None])
def test_lease_of_a_process_in_another_pid_namespace_is_respected(url: str, memory: Any, processes: str | None) -> None:
    write_lock(memory, url, host=platform.node(), pid=2**22 + 1, processes=processes)
    with pytest.raises(BlockingIOError, match=f"process {2**22 + 1} on"), RemoteFolder(url).lock(".lock"):
        pass


def test_last_of_two_simultaneous_writers_holds_the_lease(
    url: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.store.lease.time.sleep", lambda _: write_lock(memory, url))
    with pytest.raises(StoreError, match="process 1 on elsewhere, since then, is writing to this folder"):
        VectorStore.open(url, IDENTITY_A, "")
    assert files_at(url).keys() == {".lock"}  # the other process's


def test_lease_is_acquired_if_the_stale_object_disappears_meanwhile(
    url: str, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RemoteFolder(url)
    path = write_lock(memory, url, renewed=0)
    original = type(memory).rm_file

    def gone(self: Any, path: str) -> None:
        original(self, path)
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "rm_file", gone)
        with folder.lock(".lock"):
            assert json.loads(memory.cat_file(path))["pid"] == os.getpid()


def test_interrupted_acquire_releases_the_lease(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: float) -> None:
        assert RemoteFolder(url).lock_holder(".lock") is not None
        raise KeyboardInterrupt

    monkeypatch.setattr("lengthwise.store.lease.time.sleep", end)
    with pytest.raises(KeyboardInterrupt), RemoteFolder(url).lock(".lock"):
        pass
    assert files_at(url) == {}


def test_lease_is_renewed(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.RENEW_SECONDS", 0.01)
    folder = RemoteFolder(url)
    with folder.lock(".lock"):
        path = f"{url.removeprefix('memory:/')}/.lock"
        first = json.loads(memory.cat_file(path))["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(memory.cat_file(path))["renewed"] == first:
            assert time.monotonic() < deadline
        folder.check_lock()


def test_lost_lease_stops_the_run(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.RENEW_SECONDS", 0.01)
    with VectorStore.open(url, IDENTITY_A, "") as store:
        commit(store, 0)
        path = write_lock(memory, url)
        deadline = time.monotonic() + 10
        while not store.folder._leases[0].is_lost and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.01)
        with pytest.raises(StoreError, match="another process took over the lock"):
            commit(store, 1)
    assert json.loads(memory.cat_file(path))["token"] == "theirs"  # another process's object is not removed


def test_lease_that_was_not_renewed_in_time_is_checked(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept, or the store did not answer: the lease is held until another process takes it."""
    with VectorStore.open(url, IDENTITY_A, "") as store:
        monkeypatch.setattr("lengthwise.store.lease.LEASE_SECONDS", -1.0)
        commit(store, 0)
        path = write_lock(memory, url)
        with pytest.raises(StoreError, match=r"shards\.jsonl.*another process took over the lock"):
            commit(store, 1)
        with pytest.raises(StoreError, match="another process took over the lock"):
            store.finish(ROWS, ROWS, "card")
    assert "manifest.json" not in files_at(url)
    assert memory.exists(path)


@pytest.mark.parametrize("raised", [NotImplementedError, TypeError, ValueError, None])
def test_lease_on_a_store_without_exclusive_create(
    url: str, monkeypatch: pytest.MonkeyPatch, raised: type[Exception] | None
) -> None:
    """Such a store refuses the mode, or overwrites the object."""
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
