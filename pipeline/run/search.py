"""Search in a folder of vectors: the rows most similar to queries, in one pass over its shards or through an index.

Decisions:
- A row group is read, compared and dropped, so memory depends on the number of queries and not on the number of rows,
  but for a byte per row where there are conditions.
- The columns of conditions are read first, and vectors only of row groups with a row that satisfies them; other columns
  are read for the rows that were found.
- Rows without tokens have a vector of zeros, which is similar to nothing; they are never found.
- Equal scores keep the order of the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.best import BestRows
from lengthwise.run.vector_index import IndexRecord, Origin, VectorIndex, build_index, open_index
from lengthwise.store.fingerprint import read_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import MANIFEST, RUN
from lengthwise.store.parquet import wrap_arrow_errors
from lengthwise.store.protocol import Folder, wrap_os_errors

Metric = Literal["cosine", "dot"]
EMBEDDING = "embedding"
_QUERIES = 1_024  # that are compared at a time, so that their scores are few
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


class _RowGroup(NamedTuple):
    """A row group: the file it is in, its number there, and its rows in the folder."""

    file: str
    number: int
    first_row: int
    rows: int


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
        self._origin = Origin(manifest["identity"], {shard["file"]: shard["sha256"] for shard in manifest["shards"]})
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

    def build_index(self, *, show_progress: bool = False) -> IndexRecord:
        """Build the approximate index beside the vectors, unless it is there; returns what it was measured to find.

        Args:
            show_progress: show a bar.

        Raises:
            StoreError: there is an index of other vectors, another process builds one, or it cannot be written.
            ConfigError: faiss is not installed, the folder is not on a local disk, or has no rows.
        """
        return self._index(show_progress).record

    def search(
        self,
        queries: NDArray[np.floating],
        *,
        top: int = 10,
        metric: Metric = "cosine",
        where: Sequence[str | Condition] = (),
        columns: Sequence[str] | None = None,
        index: bool = False,
        show_progress: bool = False,
    ) -> list[list[Hit]]:
        """The rows that are most similar to each query, the most similar first.

        Args:
            queries: float32[queries, dim].
            top: how many rows per query; fewer where fewer satisfy the conditions.
            metric: cosine of the angle, or dot product.
            where: conditions that a row has to satisfy, all of them.
            columns: whose values are wanted; by default all that were kept.
            index: use the approximate index, which is built where there is none, instead of comparing every row.
            show_progress: show a bar while the index is built.

        Raises:
            ConfigError: queries of another width, an unknown column or metric, or a condition that cannot be compared;
                or there can be no index.
            StoreError: a shard is missing or damaged, or the index is of other vectors.
        """
        conditions = [Condition.parse(one) if isinstance(one, str) else one for one in where]
        wanted = [name for name in self.columns if name not in _ADDED] if columns is None else list(columns)
        self._check(queries, top, metric, [*(condition.column for condition in conditions), *wanted])
        if index and metric != "cosine":
            raise ConfigError(f"an index ranks by cosine, and metric is {metric!r}; search without one")
        compared = _unit(queries.astype(np.float32)) if metric == "cosine" else queries.astype(np.float32)
        mask = self._mask(conditions) if conditions else None
        if index:
            best = self._index(show_progress).search(compared, top, mask)
        else:
            best = self._compare_all(compared, top, metric, mask)
        values = self._values(best.rows, wanted)
        return [
            [Hit(float(score), int(row), values[int(row)]) for score, row in zip(scores, rows, strict=True) if row >= 0]
            for scores, rows in zip(best.scores, best.rows, strict=True)
        ]

    def group_rows(self) -> list[int]:
        """The number of rows of each row group, in their order."""
        return [group.rows for group in self._row_groups]

    def unit_vectors(self, group: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """int64[n], the rows of a row group that have a vector, and float32[n, dim], these scaled to length 1."""
        vectors = _vectors(self._read_group(self._row_groups[group], [EMBEDDING])[EMBEDDING])
        rows = np.flatnonzero(np.any(vectors, axis=1))
        return self._row_groups[group].first_row + rows, _unit(vectors[rows])

    def _index(self, show_progress: bool = False) -> VectorIndex:
        if not self.num_rows:
            raise ConfigError(f"{self._folder} has no rows, so there is nothing to index; search without an index")
        found = open_index(self._folder, self._origin)
        return found or build_index(self._folder, self, self._origin, show_progress=show_progress)

    def _mask(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """bool[rows], which rows satisfy all conditions."""
        mask = np.ones(self.num_rows, np.bool_)
        columns = list(dict.fromkeys(condition.column for condition in conditions))
        for group in self._row_groups:
            table = self._read_group(group, columns)
            for condition in conditions:
                mask[group.first_row :][: group.rows] &= condition.mask(table[condition.column])
        return mask

    def _compare_all(
        self, queries: NDArray[np.float32], top: int, metric: Metric, mask: NDArray[np.bool_] | None
    ) -> BestRows:
        """What comparing the queries with every row finds."""
        chunks = [queries[first : first + _QUERIES] for first in range(0, len(queries), _QUERIES)]
        best = [BestRows(len(chunk), top) for chunk in chunks]
        for group in self._row_groups:
            chosen = None if mask is None else mask[group.first_row :][: group.rows]
            if chosen is not None and not chosen.any():
                continue
            vectors = _vectors(self._read_group(group, [EMBEDDING])[EMBEDDING])
            has_vector = np.any(vectors, axis=1)
            rows = np.flatnonzero(has_vector if chosen is None else has_vector & chosen)
            compared = _unit(vectors[rows]) if metric == "cosine" else vectors[rows]
            for chunk, found in zip(chunks, best, strict=True):
                found.add(chunk @ compared.T, group.first_row + rows)
        return BestRows.stack(best, top)

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

    @cached_property
    def _row_groups(self) -> list[_RowGroup]:
        """All row groups, in their order."""
        groups: list[_RowGroup] = []
        first = 0
        for file, rows in self._shards:
            if rows:
                metadata = self._open_shard(file).metadata
                for number in range(metadata.num_row_groups):
                    groups.append(_RowGroup(file, number, first, metadata.row_group(number).num_rows))
                    first += groups[-1].rows
        return groups

    def _read_group(self, group: _RowGroup, columns: Sequence[str]) -> pa.Table:
        """These columns of a row group."""
        shard = self._open_shard(group.file)
        with wrap_arrow_errors(self._folder.location(group.file)):
            return shard.read_row_group(group.number, columns=list(columns))

    def _values(self, rows: NDArray[np.int64], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """The values of columns in these rows, by row."""
        wanted = np.unique(rows[rows >= 0])
        found: dict[int, dict[str, Any]] = {int(row): {} for row in wanted}
        if columns and len(wanted):
            for group in self._row_groups:
                here = wanted[(wanted >= group.first_row) & (wanted < group.first_row + group.rows)]
                if len(here):
                    table = self._read_group(group, columns).take(pa.array(here - group.first_row))
                    found.update(zip(here.tolist(), table.to_pylist(), strict=True))
        return found

    def _open_shard(self, file: str) -> pq.ParquetFile:
        location = self._folder.location(file)
        problem, remedy = f"{location}: cannot be read", "run the command that encodes again"
        with wrap_os_errors(problem, remedy), wrap_arrow_errors(location):
            return pq.ParquetFile(self._folder.open(file))


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
