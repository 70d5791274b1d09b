"""`VectorCache`: vectors kept by their texts' hashes, which several runs fill and use.

    4f2a.../identity.json      what the vectors of this subfolder depend on: model, tokenization, versions, processor
    4f2a.../shards.jsonl       log: one record per committed segment
    4f2a.../data/shard-1764450000000123.parquet, hashes/shard-1764450000000123.npy ...   a segment

Notable decisions:
- There is a subfolder per model and machine, which is read as any folder of vectors (`store.previous`); vectors are
  always in float32, and there is no text in it.
- A segment's number is the time and a random number, so runs that write side by side need no lock. One that is not in
  the log does not exist; `prune` removes it a day later.
- Nothing is ever changed. Whatever is damaged gives nothing away. `store.cache_maintenance` removes and joins segments.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.store.fingerprint import describe_changes, identity_hash, read_identity, write_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import IDENTITY, RECORDS
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ShardRecord, log_lines
from lengthwise.store.recovery import read_records
from lengthwise.store.text_hashes import hashes_to_bytes

NAME_CHARS = 16  # of the identity's hash
_REMEDY = "choose another encode.cache, or leave it out"
_SUBFOLDER = re.compile(rf"([0-9a-f]{{{NAME_CHARS}}})/{re.escape(IDENTITY)}")
_UNIT = 1_000  # a segment's number is milliseconds times this, plus a random number


class VectorCache:
    """The vectors of one model in a cache."""

    def __init__(self, url: str | Path, identity: Mapping[str, Any]) -> None:
        """Open it, or make it.

        Args:
            url: the cache, a path or a URL.
            identity: everything that a text's vector depends on, as JSON-ready values.

        Raises:
            StoreError: it cannot be written, or its identity is damaged.
        """
        self._identity = _in_float32(identity)
        self._hash = identity_hash(self._identity)
        self._folder = open_folder(f"{str(url).rstrip('/')}/{self._hash[:NAME_CHARS]}")
        with wrap_os_errors(f"{self._folder}: cannot be written", _REMEDY):
            if read_identity(self._folder) is None:
                write_identity(self._folder, self._identity)

    def __str__(self) -> str:
        return str(self._folder)

    def read(self) -> PreviousFolder:
        """What it holds now.

        Raises:
            StoreError: it cannot be read.
        """
        with wrap_os_errors(f"{self._folder}: cannot be read", _REMEDY):
            return PreviousFolder(self._folder, self._identity, read_records(self._folder))

    def add(
        self,
        hashes: NDArray[np.uint8],
        vectors: NDArray[np.float32],
        lengths: NDArray[np.int64],
        truncated: NDArray[np.bool_],
    ) -> ShardRecord:
        """Keep the vectors of texts, as a new segment, whose record is returned.

        Args:
            hashes: uint8[rows, 16]; lengths: int64[rows], tokens; vectors: float32[rows, dim]; truncated: bool[rows].

        Raises:
            StoreError: it cannot be written.
        """
        no_columns = pa.table({"": np.zeros(len(lengths), np.bool_)}).select([])
        record = write_segment(self._folder, vector_table(no_columns, vectors, lengths, truncated), hashes, self._hash)
        with wrap_os_errors(f"{self._folder.location(RECORDS)}: cannot be written", _REMEDY):
            self._folder.append(RECORDS, log_lines([record]))
        return record


def write_segment(folder: Folder, table: pa.Table, hashes: NDArray[np.uint8], identity: str) -> ShardRecord:
    """Write the files of a new segment, which is in no log yet.

    Args:
        table: embedding, num_tokens and truncated.
        hashes: uint8[rows, 16], of the texts.
        identity: the hash that the subfolder must have.

    Raises:
        StoreError: they cannot be written.
    """
    counts = {
        "index": int(time.time() * 1_000) * _UNIT + secrets.randbelow(_UNIT),
        "first_row": 0,
        "tokens": int(pc.sum(table["num_tokens"]).as_py() or 0),
        "truncated": int(pc.sum(table["truncated"]).as_py() or 0),
        **dict.fromkeys(("empty", "null", "bad"), 0),
        **dict.fromkeys(("max_deviation", "min_cosine")),
    }
    return write_shard(folder, identity, table, counts, None, hashes_to_bytes(hashes))


def find_cached(url: str | Path, identity: Mapping[str, Any]) -> PreviousFolder:
    """The vectors of one model in a cache that exists.

    Args:
        identity: as for `VectorCache`.

    Raises:
        StoreError: there is no cache, it has no vectors of that model, or it cannot be read.
    """
    wanted, others = _in_float32(identity), []
    for name, folder in open_subfolders(url):
        found = read_sound_identity(folder)
        if found == wanted:
            with wrap_os_errors(f"{folder}: cannot be read", "fix that"):
                return PreviousFolder(folder, found, read_records(folder), "lengthwise cache prune removes it")
        changes = "its identity.json is damaged" if found is None else describe_changes(found, wanted)
        others.append(f"{name}: {changes}")
    raise StoreError(
        f"{url}: has no vectors of the run's model, versions and processor ({'. '.join(others)}); give a run that"
        " used it"
    )


def _in_float32(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "vector_dtype": "float32"}


def open_subfolders(url: str | Path) -> Iterator[tuple[str, Folder]]:
    """The subfolders of a cache, with their names.

    Nothing else that is there is one: a folder of vectors beside them has an identity too, and shards that must stay.

    Raises:
        StoreError: there is no cache, or it cannot be read.
    """
    place = open_folder(url)
    with wrap_os_errors(f"{place}: cannot be read", "check the path"):
        files = place.list_files()
    names = sorted(found[1] for file in files if (found := _SUBFOLDER.fullmatch(file)))
    if not names:
        raise StoreError(f"{url}: not a cache of vectors; give the folder of encode.cache")
    for name in names:
        yield name, open_folder(f"{str(url).rstrip('/')}/{name}")


def read_sound_identity(folder: Folder) -> dict[str, Any] | None:
    """A subfolder's identity; None if its file is damaged."""
    try:
        return read_identity(folder)
    except StoreError:
        return None


def written_at(index: int) -> float:
    """When a segment was written, in seconds since 1970."""
    return index / _UNIT / 1_000
