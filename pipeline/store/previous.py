"""`PreviousFolder`: the vectors that another run has written, to be read and never changed.

Nothing in it is trusted before its sha256 was compared: a shard is read once, whole, and what was compared is what is
used. Whatever is missing, damaged or not committed is a StoreError that names the file; a run encodes such rows again.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.store.fingerprint import identity_hash, read_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import MANIFEST, hashes_file
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ShardRecord
from lengthwise.store.recovery import read_records
from lengthwise.store.text_hashes import hash_texts, hashes_from_bytes

_OPEN_SHARDS = 2  # a shard of this run rarely reads from more than two
_COLUMNS = ("embedding", "num_tokens", "truncated")
REMEDY = "its rows are encoded again"


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Some rows of a shard.

    Attributes:
        usable: bool[rows], whether a row has tokens and a vector that is neither null nor zero.
        vectors: float32[rows, dim].
        lengths: int64[rows], tokens.
        truncated: bool[rows].
    """

    usable: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> StoredRows:
        """Some of them, by their numbers."""
        return StoredRows(self.usable[rows], self.vectors[rows], self.lengths[rows], self.truncated[rows])


class PreviousFolder:
    """A folder of vectors.

    Attributes:
        identity: what its vectors depend on.
        records: of its committed shards, by index.
    """

    def __init__(
        self, folder: Folder, identity: dict[str, Any], records: dict[int, ShardRecord], remedy: str = REMEDY
    ) -> None:
        self._folder, self.identity, self.records, self._remedy = folder, identity, records, remedy
        self._shards: OrderedDict[int, tuple[bytes, pq.ParquetFile]] = OrderedDict()

    @classmethod
    def open(cls, url: str | Path, remedy: str = REMEDY) -> PreviousFolder | None:
        """The folder at a path or URL; None where there is no folder of vectors.

        Args:
            remedy: what is done, or can be done, about a file that is missing or damaged, for messages.

        Raises:
            StoreError: it is damaged, or cannot be read.
        """
        folder = open_folder(url)
        identity = read_identity(folder)
        if identity is None:
            return None
        with wrap_os_errors(f"{folder}: cannot be read", "fix that, or give another folder"):
            return cls(folder, identity, read_records(folder), remedy)

    def __str__(self) -> str:
        return str(self._folder)

    @property
    def is_complete(self) -> bool:
        """Whether the run that wrote it has ended, and none that adds rows has begun.

        Raises:
            StoreError: it cannot be read.
        """
        with wrap_os_errors(f"{self._folder}: cannot be read", self._remedy):
            manifest = self._folder.read(MANIFEST)
        try:
            return manifest is not None and json.loads(manifest)["identity"] == identity_hash(self.identity)
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what it holds: its identity, and the sha256 of its shards."""
        shards = [[record.file, record.sha256] for _, record in sorted(self.records.items())]
        return hashlib.sha256(json.dumps([identity_hash(self.identity), shards]).encode()).hexdigest()

    @property
    def text_column(self) -> str | None:
        """The name of the column of texts among the kept columns, if it is one."""
        name = self.identity.get("text_column")
        kept = self.identity.get("keep_columns")
        return name if isinstance(name, str) and isinstance(kept, list) and name in kept else None

    def location(self, index: int) -> str:
        """The path or URL of a shard's file, for messages."""
        return self._folder.location(self.records[index].file)

    def has_hashes(self, index: int) -> bool:
        """Whether the texts of a shard can be compared: by their hashes, or by the kept texts themselves."""
        return self.records[index].hashes is not None or self.text_column is not None

    def hashes(self, index: int) -> NDArray[np.uint8]:
        """The hashes of a shard's texts, uint8[rows, 16]; those of the kept texts where there is no file of hashes.

        Raises:
            StoreError: it is damaged, or has neither.
        """
        record = self.records[index]
        if record.hashes is not None:
            name = hashes_file(index)
            try:
                return hashes_from_bytes(self._read(name, record.hashes), record.rows)
            except ValueError as error:
                raise StoreError(f"{self._folder.location(name)}: cannot be read ({error}); {self._remedy}") from error
        if self.text_column is None:
            raise StoreError(
                f"{self._folder.location(record.file)}: has neither texts nor hashes of them; {self._remedy}"
            )
        return hash_texts(self._read_columns(index, [self.text_column])[self.text_column])

    def is_unchanged(self, index: int, hashes: NDArray[np.uint8]) -> bool:
        """Whether a shard has exactly the texts of these hashes, and none that could not be encoded.

        Raises:
            StoreError: its file of hashes is damaged.
        """
        record = self.records[index]
        if record.hashes is None or record.bad or record.null or record.rows != len(hashes):
            return False
        return bool(np.array_equal(self.hashes(index), hashes))

    def shard(self, index: int) -> tuple[bytes, pq.ParquetFile]:
        """The contents of a shard's file, and what they are as a parquet file.

        Raises:
            StoreError: it is missing or damaged.
        """
        if index in self._shards:
            self._shards.move_to_end(index)
            return self._shards[index]
        record = self.records[index]
        contents = self._read(record.file, record.sha256)
        try:
            shard = pq.ParquetFile(pa.BufferReader(contents))
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{self._folder.location(record.file)}: cannot be read ({error}); {self._remedy}"
            ) from error
        if shard.metadata.num_rows != record.rows:
            raise StoreError(
                f"{self._folder.location(record.file)}: has other rows than its record says; {self._remedy}"
            )
        while len(self._shards) >= _OPEN_SHARDS:
            self._shards.popitem(last=False)
        self._shards[index] = contents, shard
        return contents, shard

    def rows(self, index: int, rows: NDArray[np.int64]) -> StoredRows:
        """Some rows of a shard, int64[n] in ascending order.

        Raises:
            StoreError: the shard is missing or damaged.
        """
        _, shard = self.shard(index)
        sizes = [shard.metadata.row_group(number).num_rows for number in range(shard.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        bounds = [0, *np.searchsorted(rows, ends).tolist()]
        parts = []
        for number, (begin, end) in enumerate(pairwise(bounds)):
            if end > begin:
                table = self._read_columns(index, list(_COLUMNS), number)
                if not pa.types.is_fixed_size_list(table.schema.field("embedding").type):
                    location = self._folder.location(self.records[index].file)
                    raise StoreError(f"{location}: its embeddings are no fixed-size lists; {self._remedy}")
                parts.append(_take(table, rows[begin:end] - (ends[number] - sizes[number])))
        return StoredRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _read_columns(self, index: int, columns: list[str], group: int | None = None) -> pa.Table:
        (_, shard), location = self.shard(index), self._folder.location(self.records[index].file)
        try:
            table = shard.read(columns) if group is None else shard.read_row_group(group, columns)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{location}: cannot be read ({error}); {self._remedy}") from error
        if table.column_names != columns:
            raise StoreError(f"{location}: has no columns {', '.join(columns)}; {self._remedy}")
        return table

    def _read(self, name: str, sha256: str) -> bytes:
        location = self._folder.location(name)
        with wrap_os_errors(f"{location}: cannot be read", self._remedy):
            contents = self._folder.read(name)
        if contents is None:
            raise StoreError(f"{location}: is missing; {self._remedy}")
        if hashlib.sha256(contents).hexdigest() != sha256:
            raise StoreError(f"{location}: its sha256 is not the recorded one; {self._remedy}")
        return contents


def _take(table: pa.Table, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """The fields of `StoredRows`, of some rows of a table."""
    embedding = table["embedding"].combine_chunks()
    valid = embedding.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.zeros((len(table), embedding.type.list_size), np.float32)
    vectors[valid] = embedding.flatten().to_numpy().reshape(-1, embedding.type.list_size)
    lengths = table["num_tokens"].to_numpy().astype(np.int64)
    vectors, lengths = vectors[rows], lengths[rows]
    usable = valid[rows] & (lengths > 0) & vectors.any(axis=1)
    return usable, vectors, lengths, table["truncated"].to_numpy()[rows]
