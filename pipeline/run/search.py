"""Exact search in a folder of vectors: the rows most similar to queries, in one pass over its shards.

Decisions:
- A row group is read, compared and dropped, so memory depends on the number of queries and not on the number of rows.
- Only the columns of vectors and of conditions are read; other columns are read for the rows that were found.
- Rows without tokens have a vector of zeros, which is similar to nothing; they are never found.
- Equal scores keep the order of the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.errors import ConfigError, StoreError
from lengthwise.store.fingerprint import read_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import MANIFEST, RUN
from lengthwise.store.parquet import wrap_arrow_errors
from lengthwise.store.protocol import Folder, wrap_os_errors

Metric = Literal["cosine", "dot"]
EMBEDDING = "embedding"
_ADDED = {"num_tokens", "truncated"}  # by encoding; they are not kept columns
_OPERATORS = {"=": pc.equal, "==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal}
_OPERATORS |= {">": pc.greater, ">=": pc.greater_equal}
_CONDITION = re.compile(r"\s*(.+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*")


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        score: its similarity to the query; larger is more similar.
        row: its number in the folder, counted over all shards from 0.
        columns: its values in the columns that were asked for.
    """

    score: float
    row: int
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Condition:
    """A comparison of a column with a value, such as `year >= 2020`. A null satisfies none."""

    column: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read `COLUMN OPERATOR VALUE`.

        Raises:
            ConfigError: it has no operator.
        """
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ConfigError(f"the condition {text!r} has no operator; write it like 'year>=2020' or 'language=en'")
        return cls(*found.groups())

    def mask(self, column: pa.ChunkedArray) -> NDArray[np.bool_]:
        """bool[rows], which values of the column satisfy it.

        Raises:
            ConfigError: the value is not of the column's type.
        """
        if self.operator not in ("=", "==", "!=") and not _is_ordered(column.type):
            raise ConfigError(
                f"the column {self.column!r} holds {column.type}, which {self.operator} would order as text, 10 before"
                f" 9; compare it with = or !=, or encode it as a number with dataset.types.{self.column}"
            )
        try:
            value = pa.scalar(self.value).cast(column.type)
            found = _OPERATORS[self.operator](column, value)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigError(
                f"the column {self.column!r} holds {column.type}, which cannot be compared with {self.value!r}"
                f" by {self.operator} ({error})"
            ) from None
        return found.fill_null(False).to_numpy()


class VectorFolder:
    """A complete folder of vectors, opened for search.

    Attributes:
        dim: width of the vectors.
        columns: the columns beside the vectors, in their order.
        identity: what the vectors depend on, see `run.identity`.
    """

    def __init__(self, folder: Folder, identity: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        self._folder, self.identity = folder, identity
        self._shards = [(str(shard["file"]), int(shard["rows"])) for shard in manifest["shards"]]
        first = next((file for file, rows in self._shards if rows), None)
        schema = pa.schema([]) if first is None else self._open_shard(first).schema_arrow
        self.columns = [name for name in schema.names if name != EMBEDDING]
        self.dim = int(schema.field(EMBEDDING).type.list_size) if EMBEDDING in schema.names else 0

    @classmethod
    def open(cls, folder: str | Path) -> VectorFolder:
        """Open a folder that `encode` wrote, at a path or a URL.

        Raises:
            StoreError: it is not a folder of vectors, not complete, or cannot be read.
        """
        place = open_folder(folder)
        identity = read_identity(place)
        if identity is None:
            raise StoreError(f"{place}: not a folder of vectors; give one that lengthwise encode wrote")
        with wrap_os_errors(f"{place}: cannot be read", "fix that, or give another folder"):
            manifest = place.read(MANIFEST)
        if manifest is None:
            raise StoreError(f"{place}: not complete; run the command that encodes again, or lengthwise finalize")
        return cls(place, identity, json.loads(manifest))

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(rows for _, rows in self._shards)

    @property
    def model_path(self) -> str:
        """Where the model is that made the vectors, as the run's configuration names it.

        Raises:
            StoreError: there is no model at that place, seen from the current folder.
        """
        config = yaml.safe_load(self._folder.read(RUN) or b"{}")
        section, name = ("export", "output") if config["encode"]["engine"] == "onnx" else ("model", "path")
        path = str(config[section][name])
        if not Path(path).exists():
            raise StoreError(f"{self._folder}: was encoded by {path}, which is not there; name the model with --model")
        return path

    @property
    def tokenization(self) -> TokenizationSettings:
        """How the texts were tokenized."""
        return TokenizationSettings(**{name: self.identity[name] for name in TokenizationSettings.model_fields})

    def search(
        self,
        queries: NDArray[np.floating],
        *,
        top: int = 10,
        metric: Metric = "cosine",
        where: Sequence[str | Condition] = (),
        columns: Sequence[str] | None = None,
    ) -> list[list[Hit]]:
        """The rows that are most similar to each query, the most similar first.

        Args:
            queries: float[queries, dim].
            top: how many rows per query; fewer where fewer satisfy the conditions.
            metric: cosine of the angle, or dot product.
            where: conditions that a row has to satisfy, all of them.
            columns: whose values are wanted; by default all that were kept.

        Raises:
            ConfigError: queries of another width, an unknown column or metric, or a condition that cannot be compared.
            StoreError: a shard is missing or damaged.
        """
        conditions = [Condition.parse(one) if isinstance(one, str) else one for one in where]
        wanted = [name for name in self.columns if name not in _ADDED] if columns is None else list(columns)
        self._check(queries, top, metric, [*(condition.column for condition in conditions), *wanted])
        normalized = _unit(queries.astype(np.float32)) if metric == "cosine" else queries.astype(np.float32)
        best = _Best(len(queries), top)
        for first_row, table in self._row_groups([EMBEDDING, *{one.column: None for one in conditions}]):
            vectors = _vectors(table[EMBEDDING])
            mask = np.any(vectors, axis=1)
            for condition in conditions:
                mask &= condition.mask(table[condition.column])
            rows = np.flatnonzero(mask)
            if len(rows):
                compared = _unit(vectors[rows]) if metric == "cosine" else vectors[rows]
                best.add(normalized @ compared.T, first_row + rows)
        values = self._values(best.rows, wanted)
        return [
            [Hit(float(score), int(row), values[int(row)]) for score, row in zip(scores, rows, strict=True) if row >= 0]
            for scores, rows in zip(best.scores, best.rows, strict=True)
        ]

    def _check(self, queries: NDArray[np.floating], top: int, metric: str, columns: Sequence[str]) -> None:
        if metric not in get_args(Metric):
            raise ConfigError(f"metric is {metric!r}; choose {' or '.join(get_args(Metric))}")
        if top < 1:
            raise ConfigError(f"top is {top}; pass 1 or more")
        if queries.ndim != 2 or (self.dim and queries.shape[1] != self.dim):
            raise ConfigError(f"the queries have shape {queries.shape}, and the vectors are {self.dim} wide")
        for name in columns:
            if self.dim and name not in self.columns:
                raise ConfigError(f"{self._folder} has no column {name!r}; it has {', '.join(self.columns)}")

    def _row_groups(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Each row group's first row and its table of these columns."""
        row = 0
        for file, rows in self._shards:
            if not rows:
                continue
            shard = self._open_shard(file)
            for group in range(shard.num_row_groups):
                with wrap_arrow_errors(self._folder.location(file)):
                    table = shard.read_row_group(group, columns=list(columns))
                yield row, table
                row += table.num_rows

    def _values(self, rows: NDArray[np.int64], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """The values of columns in these rows, by row."""
        wanted = np.unique(rows[rows >= 0])
        found: dict[int, dict[str, Any]] = {int(row): {} for row in wanted}
        first = 0
        for file, count in self._shards:
            here = wanted[(wanted >= first) & (wanted < first + count)]
            if len(here) and columns:
                self._read_values(file, first, here, columns, found)
            first += count
        return found

    def _read_values(
        self,
        file: str,
        first: int,
        rows: NDArray[np.int64],
        columns: Sequence[str],
        found: dict[int, dict[str, Any]],
    ) -> None:
        shard = self._open_shard(file)
        for group in range(shard.num_row_groups):
            count = shard.metadata.row_group(group).num_rows
            here = rows[(rows >= first) & (rows < first + count)]
            if len(here):
                with wrap_arrow_errors(self._folder.location(file)):
                    table = shard.read_row_group(group, columns=list(columns)).take(pa.array(here - first))
                found.update(zip(here.tolist(), table.to_pylist(), strict=True))
            first += count

    def _open_shard(self, file: str) -> pq.ParquetFile:
        location = self._folder.location(file)
        problem, remedy = f"{location}: cannot be read", "run the command that encodes again"
        with wrap_os_errors(problem, remedy), wrap_arrow_errors(location):
            return pq.ParquetFile(self._folder.open(file))


class _Best:
    """The largest scores of each query so far, descending, and their rows; -1 where there is no row yet."""

    def __init__(self, queries: int, top: int) -> None:
        self._top = top
        self.scores = np.empty((queries, 0), np.float32)
        self.rows = np.empty((queries, 0), np.int64)

    def add(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Take in float32[queries, rows], of rows that are after all others."""
        scores = np.concatenate([self.scores, scores], axis=1)
        numbers = np.concatenate([self.rows, np.broadcast_to(rows, (len(scores), len(rows)))], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._top]
        self.scores, self.rows = (np.take_along_axis(array, order, axis=1) for array in (scores, numbers))


def _is_ordered(kind: pa.DataType) -> bool:
    """Whether values of a type have an order that a user expects: numbers and times, and not text."""
    return pa.types.is_primitive(kind) or pa.types.is_decimal(kind)


def _vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """float32[rows, dim]; zeros for a null."""
    array = column.combine_chunks()
    dim = array.type.list_size
    vectors = np.zeros((len(array), dim), np.float32)
    vectors[array.is_valid().to_numpy(zero_copy_only=False)] = array.flatten().to_numpy().reshape(-1, dim)
    return vectors


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors scaled to length 1; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    return vectors / norms
