"""A folder of vectors: parquet shards, committed one by one, and the identity that they belong to.

    folder/
      README.md             a dataset card, so that `load_dataset(folder)` finds the shards
      run.yaml              the resolved configuration
      identity.json         what the vectors depend on, and its hash
      shards.jsonl          one record a committed shard, appended
      manifest.json         totals; written last, so its presence means that the run is complete
      data/shard-000000.parquet ...

Notable decisions:
- Shards have a folder to themselves, so that pandas, polars and DuckDB can be pointed at it as it is.
- A shard is written beside its place, flushed to the disk, renamed, and only then recorded: it exists whole or
  not at all. One without a record is written again.
- Vectors are stored plain with zstd: a dictionary would make a column of distinct floats larger
  (github.com/apache/arrow/issues/49715).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.files import file_sha256, flush, write_atomically

DATA, RUN, IDENTITY, RECORDS, MANIFEST = "data", "run.yaml", "identity.json", "shards.jsonl", "manifest.json"
ROW_GROUP_ROWS = 8_192


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a committed shard; counts are of rows unless they say tokens.

    `max_deviation` and `min_cosine` tell how far vectors of a precision below float32 are from those in float32,
    measured on some rows of the shard; they are null for a run in float32.
    """

    index: int
    first_row: int
    rows: int
    tokens: int
    empty: int
    null: int
    truncated: int
    max_deviation: float | None
    min_cosine: float | None
    file: str
    sha256: str


class VectorStore:
    """The shards of one run in one folder.

    Attributes:
        identity: the hash of what the run's vectors depend on.
        records: of the committed shards, by their index.
    """

    def __init__(self, folder: Path, identity: str, records: dict[int, ShardRecord]) -> None:
        self.folder = folder
        self.identity = identity
        self.records = records

    @classmethod
    def open(cls, folder: str | Path, identity: Mapping[str, Any], run_yaml: str) -> VectorStore:
        """Open a folder for a run: an empty or new one, or one that holds shards of the same run.

        Args:
            identity: everything that the bytes of the vectors depend on, as JSON-ready values.
            run_yaml: the resolved configuration, saved beside the vectors.

        Raises:
            StoreError: the folder holds another run's vectors, or something else, or cannot be written.
        """
        folder = Path(folder)
        try:
            _refuse_another_run(folder, identity)
            # First, since a folder that a crash left without an identity would not be known as ours again.
            record: dict[str, Any] = {"sha256": identity_hash(identity), "depends_on": dict(identity)}
            write_atomically(folder / IDENTITY, _json_bytes(record))
            (folder / DATA).mkdir(exist_ok=True)
            for left_over in folder.rglob("*.part"):
                left_over.unlink()
            write_atomically(folder / RUN, run_yaml.encode())
            records = _read_records(folder / RECORDS)
            # Written anew, since appending to a line that a crash cut off would lose the next record too.
            write_atomically(folder / RECORDS, b"".join(map(_record_line, records.values())))
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be written ({error}); mend that, or choose another encode.output"
            ) from error
        return cls(folder, record["sha256"], records)

    def committed(self, index: int) -> ShardRecord | None:
        """The record of a shard whose file is there and unchanged, else None."""
        record = self.records.get(index)
        if record is None:
            return None
        path = self.folder / record.file
        return record if path.is_file() and file_sha256(path) == record.sha256 else None

    def commit(self, table: pa.Table, counts: Mapping[str, Any]) -> ShardRecord:
        """Write a shard's table, then its record.

        Args:
            table: the rows, in the dataset's order.
            counts: the record's fields beside `rows`, `file` and `sha256`.
        """
        file = f"{DATA}/shard-{counts['index']:06d}.parquet"
        path = self.folder / file
        part = path.with_suffix(".part")
        plain = [name for name in table.column_names if name != "embedding"]
        try:
            # Pages end where chunks end, and a stream has others than a file: in one piece, so that bytes are equal.
            whole = table.combine_chunks()
            pq.write_table(whole, part, compression="zstd", use_dictionary=plain, row_group_size=ROW_GROUP_ROWS)
            flush(part)
            sha256 = file_sha256(part)
            os.replace(part, path)
            flush(path.parent)
            record = ShardRecord(rows=table.num_rows, file=file, sha256=sha256, **counts)
            with open(self.folder / RECORDS, "ab") as records:
                records.write(_record_line(record))
                records.flush()
                os.fsync(records.fileno())
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StoreError(
                f"{path}: the shard cannot be written ({error}); the shards before it are safe, and the same command"
                " goes on from there"
            ) from error
        self.records[record.index] = record
        return record

    def finish(self, shards: int, card: str) -> dict[str, Any]:
        """Write the dataset card and, last, the manifest; returns the manifest."""
        records = [self.records[index] for index in range(shards)]
        totals = {
            name: sum(getattr(record, name) for record in records)
            for name in ("rows", "tokens", "empty", "null", "truncated")
        }
        manifest = {
            "identity": self.identity,
            **totals,
            "shards": [asdict(record) for record in records],
        }
        write_atomically(self.folder / "README.md", card.encode())
        write_atomically(self.folder / MANIFEST, _json_bytes(manifest))
        return manifest


def vector_table(
    kept: pa.Table, vectors: NDArray[np.floating], num_tokens: NDArray[np.int64], truncated: NDArray[np.bool_]
) -> pa.Table:
    """A shard's table: the kept columns, then embedding fixed_size_list[dim], num_tokens int32, truncated bool."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    table = kept.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    table = table.append_column("num_tokens", pa.array(num_tokens.astype(np.int32)))
    return table.append_column("truncated", pa.array(truncated))


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _record_line(record: ShardRecord) -> bytes:
    return json.dumps(asdict(record)).encode() + b"\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); the folder is damaged, choose another output") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: not a JSON object; the folder is damaged, choose another output")
    return value


def _read_records(path: Path) -> dict[int, ShardRecord]:
    """Records by shard; a line that was cut off by a crash is the last and is left out."""
    records = {}
    names = {field.name for field in fields(ShardRecord)}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and values.keys() == names:
            records[values["index"]] = ShardRecord(**values)
    return records


def _refuse_another_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise a StoreError where the folder holds something else than shards of this run."""
    if not (folder / IDENTITY).exists():
        unfinished = {IDENTITY + ".part"}
        if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - unfinished):
            raise StoreError(f"{folder}: not empty, and not a folder of vectors; choose another encode.output")
        return
    found = _read_json(folder / IDENTITY)
    if found.get("sha256") != identity_hash(identity):
        changed = _changes(_flat(found.get("depends_on", {})), _flat(identity))
        raise StoreError(
            f"{folder}: holds the vectors of another run ({changed}); choose another encode.output, or remove the"
            " folder if those vectors are no longer wanted"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted paths."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flat(inner, f"{path}.{key}" if path else key).items()
    }


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}" for name in changed)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
