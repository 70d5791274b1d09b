"""Vector stores for tests, their shards, and the locks of other processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lengthwise.config import BadRows
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.parts import Part
from lengthwise.store.records import ShardRecord
from lengthwise.store.remote import RemoteFolder
from lengthwise.store.vectors import VectorStore

IDENTITY_A = {"weights": "aaaa", "max_length": None, "batching": {"max_rows": 128, "min_equal_rows": 16}}
ROWS = 3  # per shard
_open_stores: list[VectorStore] = []


def close_stores() -> None:
    """Release the locks of all stores, as the end of their process does."""
    while _open_stores:
        _open_stores.pop().close()


def open_store(
    folder: Path, *, part: Part | None = None, fresh: bool = False, bad_rows: BadRows = "error", **changes: Any
) -> VectorStore:
    """Open a store as another process would; the store opened before is closed first."""
    close_stores()
    identity = {**IDENTITY_A, **changes}
    store = VectorStore.open(folder, identity, "run: 1\n", part=part, fresh=fresh, bad_rows=bad_rows)
    _open_stores.append(store)
    return store


def table(seed: int = 0, rows: int = ROWS) -> pa.Table:
    """A shard's table, with random vectors of dimension 4."""
    generator = np.random.default_rng(seed)
    kept = pa.table({"id": list(range(rows))})
    vectors = generator.normal(size=(rows, 4)).astype(np.float32)
    return vector_table(kept, vectors, np.arange(rows), np.zeros(rows, np.bool_))


def counts(index: int) -> dict[str, Any]:
    """The counts of a shard's record."""
    return {
        "index": index,
        "first_row": index * ROWS,
        "tokens": 10 + index,
        "empty": 1,
        "null": 0,
        "bad": 0,
        "truncated": index,
        "max_deviation": None,
        "min_cosine": None,
    }


def commit(store: VectorStore, *indices: int) -> list[ShardRecord]:
    """Write and record the shards of these numbers."""
    return [commit_table(store, table(index), counts(index)) for index in indices]


def commit_table(
    store: VectorStore, table: pa.Table, counts: dict[str, Any], quarantine: bytes | None = None
) -> ShardRecord:
    """Write and record a shard, as a run does."""
    record = write_shard(store.folder, store.identity_hash, table, counts, quarantine)
    store.add(record)
    return record


def files_at(url: str) -> dict[str, bytes]:
    """The contents of a remote folder's files, by name."""
    folder = RemoteFolder(url)
    return {name: folder.read(name) or b"" for name in folder.list_files()}


def write_lock(memory: Any, url: str, **changes: Any) -> str:
    """Write the lock of another process into a folder in memory; returns the object's path."""
    path = f"{url.removeprefix('memory:/')}/.lock"
    record = {"pid": 1, "host": "elsewhere", "since": "then", "token": "theirs", "renewed": time.time(), **changes}
    memory.pipe_file(path, json.dumps(record).encode())
    return path
