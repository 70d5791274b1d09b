"""Compares two folders of vectors row by row, by a key: what a vector database has to add, remove and replace.

Notable decisions:
- Rows are compared by hashes of their contents, kept by the rows' place in the old folder: 32 bytes per row in memory,
  beside the index of keys (`store.hash_index`). Each folder is read once, one shard at a time, in any order of rows; of
  the old one, shards with rows to remove are read again.
- Of a shard whose file both folders have, only the keys are read.
- A vector has changed where one bit of it has. Kept columns are compared by their values, those that both folders have.
- Files appear together, when all is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.reuse_folders import vector_identity
from lengthwise.store.fingerprint import describe_changes
from lengthwise.store.folder import open_folder
from lengthwise.store.hash_index import Entries, HashIndex
from lengthwise.store.layout import ADDED, CHANGED, REMOVED, SUMMARY, is_draft
from lengthwise.store.parquet import ROW_GROUP_ROWS, wrap_arrow_errors
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ShardRecord
from lengthwise.store.text_hashes import HASH_BYTES

MARKS = ("vector_changed", "columns_changed")  # columns of changed.parquet
_ENCODED = ("embedding", "num_tokens", "truncated", "predicted_label", "logits", "probabilities")
_REMEDY = "run the command that encodes it again"


@dataclass(frozen=True)
class FolderDiff:
    """How many rows of two folders differ.

    Attributes:
        added, removed: keys that only the new folder has, and only the old one.
        changed, unchanged: keys of both.
        vectors, columns: of the changed ones, those whose vector (or label, or number of tokens) has changed, and those
            with another value in a kept column.
        model: how the models that computed the vectors differ; empty where they do not.
        only_old, only_new: kept columns that only one of them has, which are not compared.
        key: the column by which rows are compared.
        old, new: fingerprints of the two folders, by which changes are known to be theirs; see `store.previous`.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    vectors: int = 0
    columns: int = 0
    model: str = ""
    only_old: Sequence[str] = field(default_factory=tuple)
    only_new: Sequence[str] = field(default_factory=tuple)
    key: str = field(default="", compare=False)
    old: str = field(default="", compare=False)
    new: str = field(default="", compare=False)

    @classmethod
    def read(cls, folder: Folder) -> FolderDiff | None:
        """What `summary.json` in a folder says; None where there is none.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return cls(**json.loads(folder.read(SUMMARY) or b"null"))
        except (ValueError, TypeError, RecursionError):
            return None


def diff_folders(old: str | Path, new: str | Path, key: str, output: str | Path | None = None) -> FolderDiff:
    """Compare two folders of vectors.

    Args:
        old, new: paths or URLs of complete folders.
        key: a kept column of both, whose values are distinct and not null.
        output: a folder for added.parquet, removed.parquet and changed.parquet, with all columns of the folder that a
            row is in (the new one if both have it), and summary.json; none are written if None.

    Raises:
        StoreError: a folder is missing, incomplete or damaged, or `output` holds something else or cannot be written.
        ConfigError: the key is no kept column of both, of different types, or not distinct.
    """
    before, after = _Side(old, key), _Side(new, key)
    _check_schemas(before, after.schema, f"{new}")
    common = [name for name in after.kept if name in before.kept]
    with ExitStack() as stack:
        rows = stack.enter_context(_OldRows(before, common, {record.sha256 for _, record in after.shards()}))
        writer = stack.enter_context(_Writer(output, before.schema, after.schema))
        counts = np.zeros(4, np.int64)  # added, changed, vectors, columns
        after.index(_compare(rows, after, writer, counts)).close()
        for start, record in before.shards():
            removed = ~rows.seen[start : start + record.rows]
            if removed.any():
                writer.remove(before.read(record), removed)
        added, changed, vectors, columns = counts.tolist()
        found = FolderDiff(
            added=added,
            removed=int((~rows.seen).sum()),
            changed=changed,
            unchanged=int(rows.seen.sum()) - changed,
            vectors=vectors,
            columns=columns,
            model=describe_changes(before.model, after.model),
            only_old=tuple(name for name in before.kept if name not in common),
            only_new=tuple(name for name in after.kept if name not in common),
            key=key,
            old=before.folder.fingerprint,
            new=after.folder.fingerprint,
        )
        writer.finish(found)
    return found


def _compare(rows: _OldRows, after: _Side, writer: _Writer, counts: NDArray[np.int64]) -> Entries:
    """Write rows of the new folder that are added or changed, and count them; yields the hashes and places of all keys.

    Args:
        counts: int64[4], added and changed rows, and as `MARKS`.
    """
    for start, record in after.shards():
        twin = rows.twins.get(record.sha256)
        table = after.read(record, None if twin is None else [after.key])
        keys = _keys(table, after.key)
        if twin is not None:
            rows.seen[twin : twin + record.rows] = True
        else:
            is_old, differs = rows.compare(table, keys)
            changed = np.asarray(differs.any(axis=1))
            writer.add(table, ~is_old, changed, differs)
            counts += (~is_old).sum(), changed.sum(), *differs.sum(axis=0)
        yield keys, np.arange(start, start + record.rows)


def check_key(old: str | Path, key: str, schema: pa.Schema, new: str) -> None:
    """Raise what `diff_folders` would because of the columns, before the new folder is written.

    Args:
        schema: the columns that it will have.
        new: what has them, for messages.

    Raises:
        StoreError, ConfigError: as `diff_folders`.
    """
    _check_schemas(_Side(old, key), schema, new)


def _check_schemas(before: _Side, schema: pa.Schema, new: str) -> None:
    old_type, new_type = before.schema.field(before.key).type, schema.field(before.key).type
    if _kind(old_type) != _kind(new_type):
        raise ConfigError(
            f"the key {before.key!r} is {old_type} in {before.url} and {new_type} in {new}; encode both with the same"
            " dataset.types"
        )
    taken = sorted(set(MARKS) & set(schema.names))
    if taken:
        raise ConfigError(f"{new} has the column {taken[0]!r}, which changed.parquet adds; rename it in the input")


class _Side:
    """One of the two folders."""

    def __init__(self, url: str | Path, key: str) -> None:
        folder = PreviousFolder.open(url, _REMEDY)
        if folder is None:
            raise StoreError(f"{url}: not a folder of vectors; encode first, or check the path")
        if not folder.is_complete:
            raise StoreError(f"{url}: incomplete, for its run has not ended; {_REMEDY}")
        self.folder, self.url, self.key = folder, url, key
        self.rows = sum(record.rows for record in folder.records.values())
        self.schema: pa.Schema = folder.shard(min(folder.records))[1].schema_arrow
        self.kept = [name for name in self.schema.names if name not in (*_ENCODED, key)]
        if key not in self.schema.names or key in _ENCODED:
            kept = [name for name in self.schema.names if name not in _ENCODED]
            raise ConfigError(
                f"{url}: has no kept column {key!r}, but {', '.join(kept) or 'none at all'}; name it in"
                " dataset.keep_columns, and encode again"
            )

    @property
    def model(self) -> dict[str, Any]:
        """What its vectors depend on beside the texts."""
        identity = self.folder.identity
        return {**vector_identity(identity), "vector_dtype": identity.get("vector_dtype")}

    def shards(self) -> Iterator[tuple[int, ShardRecord]]:
        """The shards, in their order, each with the number of its first row."""
        start = 0
        for _, record in sorted(self.folder.records.items()):
            yield start, record
            start += record.rows

    def read(self, record: ShardRecord, columns: list[str] | None = None) -> pa.Table:
        """A shard; all columns if None are named."""
        _, file = self.folder.shard(record.index)
        with wrap_arrow_errors(f"{self.url}, shard {record.index}"):
            return file.read(columns)

    def index(self, entries: Entries) -> HashIndex:
        """The rows' numbers by the hashes of their keys, as they come, which have to be distinct."""
        index = HashIndex(entries, self.rows)
        if len(index) < self.rows:
            try:
                self._refuse_key(index)
            finally:
                index.close()
        return index

    def _refuse_key(self, index: HashIndex) -> None:
        for start, record in self.shards():
            table = self.read(record, [self.key])
            wrong = np.flatnonzero(index.find(_keys(table, self.key)) != np.arange(start, start + len(table)))
            if len(wrong):
                value = table[self.key][int(wrong[0])].as_py()
                problem = "is null" if value is None else f"is {value!r}, as in an earlier row"
                raise ConfigError(
                    f"{self.url}: the key {self.key!r} of row {start + wrong[0]} {problem}; choose a column whose"
                    " values are distinct"
                )


class _OldRows:
    """The rows of the old folder: where each key is, and what each row has; a context manager, as `HashIndex` is.

    Attributes:
        seen: bool[rows], whether the new folder has a row's key.
        twins: the first row of each shard whose file the new folder has too, by its sha256. Its rows are the same, and
            nothing is known of them but their keys.
    """

    def __init__(self, side: _Side, common: Sequence[str], new_files: Set[str]) -> None:
        self._side, self._common = side, common
        self.seen = np.zeros(side.rows, np.bool_)
        self.twins = {record.sha256: start for start, record in side.shards() if record.sha256 in new_files}
        self._contents = np.zeros((side.rows, 2, HASH_BYTES), np.uint8)
        self._index = side.index(self._entries())

    def __enter__(self) -> _OldRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._index.close()

    def compare(self, table: pa.Table, keys: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the old folder has each row's key, bool[rows], and what differs then, bool[rows, 2], as `MARKS`."""
        places = self._index.find(keys)
        is_old = places >= 0
        self.seen[places[is_old]] = True
        differs = np.zeros((len(table), 2), np.bool_)
        contents = _contents(table.filter(pa.array(is_old)), self._common)
        differs[is_old] = (contents != self._contents[places[is_old]]).any(axis=2)
        return is_old, differs

    def _entries(self) -> Entries:
        for start, record in self._side.shards():
            is_twin = record.sha256 in self.twins
            table = self._side.read(record, [self._side.key] if is_twin else None)
            if not is_twin:
                self._contents[start : start + record.rows] = _contents(table, self._common)
            yield _keys(table, self._side.key), np.arange(start, start + record.rows)


class _Writer:
    """Writes the rows that differ, in three files that appear together; nothing without a folder."""

    def __init__(self, output: str | Path | None, old: pa.Schema, new: pa.Schema) -> None:
        self._place = None if output is None else open_folder(output)
        marked = new
        for name in MARKS:
            marked = marked.append(pa.field(name, pa.bool_()))
        self._schemas = {ADDED: new, REMOVED: old, CHANGED: marked}
        self._files: dict[str, pq.ParquetWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Writer:
        if self._place is None:
            return self
        with ExitStack() as stack, self._wrap_errors():
            others = set(self._place.list_files()) - {*self._schemas, SUMMARY}
            drafts = {name for name in others if is_draft(name)}
            if others - drafts:
                raise StoreError(f"{self._place}: holds other files ({min(others - drafts)}); choose another output")
            for name in (SUMMARY, *drafts):  # the summary first: the other files are another comparison's
                self._place.remove(name)
            for name, schema in self._schemas.items():
                draft = stack.enter_context(self._place.draft(name))
                plain = [column.name for column in schema if not pa.types.is_fixed_size_list(column.type)]
                writer = pq.ParquetWriter(
                    draft, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
                )
                self._files[name] = stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        with self._wrap_errors():
            self._stack.__exit__(*error)

    def add(
        self, table: pa.Table, added: NDArray[np.bool_], changed: NDArray[np.bool_], differs: NDArray[np.bool_]
    ) -> None:
        """Write rows of the new folder; `differs` is bool[rows, 2], as `MARKS`."""
        self._write(ADDED, table, added)
        for column, name in enumerate(MARKS):
            table = table.append_column(name, pa.array(differs[:, column]))
        self._write(CHANGED, table, changed)

    def remove(self, table: pa.Table, removed: NDArray[np.bool_]) -> None:
        """Write rows of the old folder."""
        self._write(REMOVED, table, removed)

    def finish(self, found: FolderDiff) -> None:
        """Let the files appear, the summary last."""
        if self._place is not None:
            with self._wrap_errors():
                self._stack.close()
                self._place.write(SUMMARY, json.dumps(asdict(found), indent=2).encode() + b"\n")

    def _write(self, name: str, table: pa.Table, rows: NDArray[np.bool_]) -> None:
        if self._place is not None and rows.any():
            with self._wrap_errors():
                chosen = table.filter(pa.array(rows)).cast(self._schemas[name])
                self._files[name].write_table(chosen, row_group_size=ROW_GROUP_ROWS)

    def _wrap_errors(self) -> Any:
        return wrap_os_errors(f"{self._place}: cannot be written", "fix that, or choose another output")


def _kind(kind: pa.DataType) -> str:
    """A type, as keys are compared: integers of any width are alike, and so are strings."""
    if pa.types.is_integer(kind):
        return "integer"
    return "string" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def _keys(table: pa.Table, key: str) -> NDArray[np.uint8]:
    """Hashes of the keys, uint8[rows, 16]; zeros where one is null."""
    values = table[key].to_pylist()
    empty = bytes(HASH_BYTES)
    return _to_array([empty if value is None else _digest(repr(value).encode()) for value in values])


def _contents(table: pa.Table, columns: Sequence[str]) -> NDArray[np.uint8]:
    """Hashes of what encoding has written and of the kept columns, uint8[rows, 2, 16]."""
    names = [name for name in _ENCODED if name in table.column_names and name != "embedding"]
    encoded = _row_bytes(table, names)
    if "embedding" in table.column_names:
        encoded = [rest + vector for rest, vector in zip(encoded, _vector_bytes(table["embedding"]), strict=True)]
    of_vectors, of_columns = (_to_array([*map(_digest, rows)]) for rows in (encoded, _row_bytes(table, columns)))
    return np.stack([of_vectors, of_columns], axis=1)


def _row_bytes(table: pa.Table, names: Sequence[str]) -> list[bytes]:
    """The values of some columns, row by row."""
    if not names:
        return [b""] * len(table)
    return [repr(row).encode() for row in zip(*(table[name].to_pylist() for name in names), strict=True)]


def _vector_bytes(column: pa.ChunkedArray) -> Iterator[bytes]:
    """The bytes of each vector; none where it is null."""
    for chunk in column.chunks:
        valid = iter(chunk.flatten().to_numpy().reshape(-1, chunk.type.list_size))
        for is_valid in chunk.is_valid().to_pylist():
            yield next(valid).tobytes() if is_valid else b""


def _digest(contents: bytes) -> bytes:
    return blake2b(contents, digest_size=HASH_BYTES).digest()


def _to_array(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, HASH_BYTES)
