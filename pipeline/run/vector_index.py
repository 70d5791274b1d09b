"""An approximate index of a folder of vectors: lists of neighbouring rows, of which a search compares a few.

Decisions:
- It is an IVF index of faiss: k-means on a sample cuts the vectors into lists, and a query is compared with the rows
  of the nearest lists. How many lists that takes is measured when the index is built, on rows of the folder, so that
  recall holds for any data. A graph (HNSW) answers faster, but building it takes some fifty times as long.
- Conditions are applied inside the lists, so they cost no results. Where few rows satisfy them, all are compared.
- Rows are added in one pass, a segment of bounded size at a time, so memory does not grow with the folder. A segment is
  a file that a search memory-maps. A build that was interrupted continues after the segments that are complete.
- The record names the run and each shard's checksum. An index of other vectors is refused, never used.
- Vectors are scaled to length 1 and stored in half precision: similarities differ from exact ones by less than 0.001.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.best import BestRows
from lengthwise.store.layout import INDEX, INDEX_CENTROIDS, INDEX_LOCK, INDEX_RECORD, index_segment, is_draft
from lengthwise.store.local import LocalFolder
from lengthwise.store.protocol import Folder, wrap_os_errors

RECALL_TOP = 10
_FORMAT = 1
log = logging.getLogger(__name__)
_AIMED_RECALL = 0.97  # on the sample, since other queries may do worse
_SAMPLE_QUERIES = 256
_TIE = 5e-4  # a row that is as similar as an exact one, up to rounding, is as good
_SEGMENT_BYTES = 2**28
_LISTS_PER_ROOT, _MAX_LISTS = 2, 8_192  # lists = 2 sqrt(rows); more would take long to find, and much memory
_ROWS_PER_LIST = 40  # for k-means
_SPREAD = 4  # the sample comes from this many times the row groups that would hold it
_GROWTH = 1.25  # of the number of lists that are tried


class Rows(Protocol):
    """The rows of a folder of vectors, as an index reads them."""

    def group_rows(self) -> list[int]:
        """The number of rows of each row group, in their order."""

    def unit_vectors(self, group: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """int64[n], the rows of a row group that have a vector, and float32[n, dim], these scaled to length 1."""


@dataclass(frozen=True)
class Origin:
    """The vectors of a folder: the hash of the run's identity, and the sha256 (hex) of each shard's file by name."""

    identity: str
    shards: Mapping[str, str]


@dataclass(frozen=True)
class IndexRecord:
    """What an index was built from, and what it finds.

    Attributes:
        format: of its files.
        origin: the vectors that are in it.
        segment_groups: how many row groups a segment has, but for the last one.
        lists: how many lists the rows are in.
        rows: how many rows it has; rows without a vector, or of zeros, are left out.
        probed: how many lists a query for ten rows is compared with.
        recall: the share of the ten most similar rows that it finds, measured.
        queries: on how many rows of the folder that was measured.
        segments: the size in bytes of each segment's file, by name; None while the index is being built.
    """

    format: int
    origin: Origin
    segment_groups: int
    lists: int
    rows: int = 0
    probed: int = 0
    recall: float = 0.0
    queries: int = 0
    segments: Mapping[str, int] | None = None

    def __str__(self) -> str:
        size = sum((self.segments or {}).values()) / 1e6
        return (
            f"index of {self.rows:,} rows in {self.lists:,} lists, {size:,.1f} MB: recall at {RECALL_TOP} is"
            f" {self.recall:.3f} with {self.probed:,} lists per query, measured on {self.queries:,} of the rows"
        )


class VectorIndex:
    """A complete index, opened for search.

    Attributes:
        record: what it was built from, and what it finds.
    """

    def __init__(self, folder: Folder, record: IndexRecord) -> None:
        self.record = record
        self._segments = [_read(folder, name, mapped=True) for name in record.segments or {}]

    def search(self, queries: NDArray[np.float32], top: int, mask: NDArray[np.bool_] | None = None) -> BestRows:
        """The rows with the largest cosine; -1 where a query finds fewer rows.

        More lists are compared for more than ten rows, and where fewer rows may be found: in proportion to the square
        root, which was measured to keep the recall (at 1 of 10 rows allowed, and at 100 rows wanted). If so few rows
        are allowed that these lists hold more, all of those rows are compared.

        Args:
            queries: float32[queries, dim], of length 1.
            top: how many rows per query.
            mask: bool[rows of the folder], the rows that may be found; all where it is None.
        """
        allowed = self.record.rows if mask is None else int(np.count_nonzero(mask))
        share = 1.0 if mask is None else max(1, allowed) / len(mask)
        lists, wanted = self.record.lists, self.record.probed * (max(1, top / RECALL_TOP) / share) ** 0.5
        if allowed * lists <= wanted * self.record.rows:
            wanted = lists
        best = self._compare(queries, top, min(lists, int(np.ceil(wanted))), mask)
        too_few = np.flatnonzero(np.count_nonzero(best.rows >= 0, axis=1) < min(top, allowed))
        if wanted < lists and len(too_few):
            log.warning("%d queries found too few rows in the index's nearest lists: compared with all", len(too_few))
            everywhere = self._compare(queries[too_few], top, lists, mask)
            best.scores[too_few], best.rows[too_few] = everywhere.scores, everywhere.rows
        return best

    def measured(self, queries: NDArray[np.float32], exact: BestRows) -> IndexRecord:
        """The record with the fewest lists that reach the recall aimed at, and that recall.

        Args:
            queries: float32[queries, dim], of length 1, of rows of the folder.
            exact: what comparing all rows finds: each query's own row, and the ten after it.
        """
        probed = 1
        while True:
            recall = _recall(self._compare(queries, RECALL_TOP + 1, probed), exact)
            if recall >= _AIMED_RECALL or probed >= self.record.lists:
                return replace(self.record, probed=probed, recall=recall, queries=len(queries))
            probed = min(self.record.lists, int(probed * _GROWTH) + 1)

    def _compare(
        self, queries: NDArray[np.float32], top: int, probed: int, mask: NDArray[np.bool_] | None = None
    ) -> BestRows:
        faiss = _import_faiss()
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        parameters = faiss.SearchParametersIVF(nprobe=probed, sel=selector)
        best = BestRows(len(queries), top)
        for segment in self._segments:
            scores, rows = segment.search(np.ascontiguousarray(queries), top, params=parameters)
            scores[rows < 0] = -np.inf
            best.add(scores, rows)
        return best


def open_index(folder: Folder, origin: Origin) -> VectorIndex | None:
    """The index of a folder; None where there is none, or one that is not complete.

    Raises:
        StoreError: it is of other vectors, damaged, or cannot be read.
        ConfigError: faiss is not installed, or the folder is not on a local disk.
    """
    _check_possible(folder)
    with wrap_os_errors(f"{folder.location(INDEX_RECORD)}: cannot be read", "fix that, or search without an index"):
        record = _read_record(folder)
    if record is None:
        return None
    _check_origin(folder, record, origin)
    return None if record.segments is None else VectorIndex(folder, record)


def build_index(folder: Folder, rows: Rows, origin: Origin, *, show_progress: bool = False) -> VectorIndex:
    """Build the index of a folder beside its vectors, or go on with one whose build was interrupted.

    Raises:
        StoreError: another process builds it, it is of other vectors, or it cannot be written.
        ConfigError: faiss is not installed, or the folder is not on a local disk.
    """
    _check_possible(folder)
    with wrap_os_errors(f"{folder.location(INDEX)}: cannot be written", "fix that, or search without an index"):
        try:
            with folder.lock(INDEX_LOCK):
                built = open_index(folder, origin)  # by another process, while this one waited
                return built or _Builder(folder, rows, origin).build(show_progress)
        except BlockingIOError as error:
            raise StoreError(f"{folder}: {error}, builds an index; wait until it has ended, or stop it") from None


class _Builder:
    """Writes the files of an index, while its lock is held."""

    def __init__(self, folder: Folder, rows: Rows, origin: Origin) -> None:
        self._folder, self._rows, self._origin = folder, rows, origin
        self._groups = rows.group_rows()

    def build(self, show_progress: bool) -> VectorIndex:
        """Add all rows, measure the recall, and write the record."""
        sample = self._sample_vectors()
        record = _read_record(self._folder) or self._begin(sample)
        for name in self._folder.list_files():
            if name.startswith(f"{INDEX}/") and is_draft(name):
                self._folder.remove(name)
        queries = sample[:_SAMPLE_QUERIES]
        exact, sizes, count = BestRows(len(queries), RECALL_TOP + 1), {}, 0
        with tqdm(total=sum(self._groups), unit=" rows", desc="index", disable=not show_progress) as bar:
            for number, first in enumerate(range(0, len(self._groups), record.segment_groups)):
                name, segment = index_segment(number), None
                if not Path(self._folder.location(name)).exists():
                    segment = _read(self._folder, INDEX_CENTROIDS)
                for group in range(len(self._groups))[first : first + record.segment_groups]:
                    rows, vectors = self._rows.unit_vectors(group)
                    exact.add(queries @ vectors.T, rows)
                    if segment is not None:
                        segment.add_with_ids(vectors, rows)
                    count += len(rows)
                    bar.update(self._groups[group])
                if segment is not None:
                    _write(self._folder, name, segment)
                sizes[name] = Path(self._folder.location(name)).stat().st_size
        index = VectorIndex(self._folder, replace(record, rows=count, segments=sizes))
        index.record = index.measured(queries, exact)
        self._folder.write(INDEX_RECORD, _to_json(index.record))
        return index

    def _begin(self, sample: NDArray[np.float32]) -> IndexRecord:
        """Remove what is there, find the centers of the lists, and write a record without segments."""
        faiss = _import_faiss()
        for name in self._folder.list_files():
            if name.startswith(f"{INDEX}/"):
                self._folder.remove(name)
        dim = sample.shape[1]
        lists = max(1, len(sample) // _ROWS_PER_LIST)
        index = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # with fewer than its default, faiss prints a warning
        index.train(sample)
        _write(self._folder, INDEX_CENTROIDS, index)
        groups = max(1, _SEGMENT_BYTES // (2 * dim * max(self._groups)))
        record = IndexRecord(_FORMAT, self._origin, groups, lists)
        self._folder.write(INDEX_RECORD, _to_json(record))
        return record

    def _sample_vectors(self) -> NDArray[np.float32]:
        """float32[n, dim], vectors in random order from row groups all over the folder; the same at each call."""
        random, largest = np.random.default_rng(0), max(self._groups)
        wanted = min(_MAX_LISTS, max(1, int(_LISTS_PER_ROOT * sum(self._groups) ** 0.5))) * _ROWS_PER_LIST
        chosen = np.sort(random.permutation(len(self._groups))[: -(-_SPREAD * wanted // largest)])
        share = wanted / sum(self._groups[group] for group in chosen)
        taken = []
        for group in chosen:
            _, vectors = self._rows.unit_vectors(int(group))
            taken.append(vectors[random.random(len(vectors)) < share])
        sample = np.concatenate(taken)
        if not len(sample):  # rows without vectors, which no query finds, need a list all the same
            return np.eye(1, sample.shape[1], dtype=np.float32)
        return sample[random.permutation(len(sample))]


def _recall(found: BestRows, exact: BestRows) -> float:
    """The share of the rows after the query's own that are found; one as similar as the last of them counts."""
    others = exact.scores.shape[1] - 1
    if others < 1:
        return 1.0
    return float((found.scores[:, 1 : others + 1] >= exact.scores[:, others, None] - _TIE).mean())


def _check_possible(folder: Folder) -> None:
    _import_faiss()
    if not isinstance(folder, LocalFolder):
        raise ConfigError(f"{folder}: an index is memory-mapped; copy the folder to a disk, or search without an index")


def _check_origin(folder: Folder, record: IndexRecord, origin: Origin) -> None:
    """Raise a StoreError where an index is of other vectors, or its files are not those that were recorded."""
    problem = ""
    if record.origin != origin and record.origin.shards.items() <= origin.shards.items():
        problem = "older than the shards beside it"
    elif record.origin.identity != origin.identity:
        problem = "an index of another run's vectors"
    elif record.origin != origin:
        problem = "older than the shards beside it"
    for name, size in (record.segments or {}).items():
        path = Path(folder.location(name))
        if not problem and (not path.exists() or path.stat().st_size != size):
            problem = f"damaged: {name} is missing or was changed"
    if problem:
        raise _unusable(folder, problem)


def _read_record(folder: Folder) -> IndexRecord | None:
    contents = folder.read(INDEX_RECORD)
    if contents is None:
        return None
    try:
        values = json.loads(contents)
        if values["format"] != _FORMAT:
            raise _unusable(folder, "written by another version of lengthwise")
        return IndexRecord(**{**values, "origin": Origin(**values["origin"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unusable(folder, f"damaged ({type(error).__name__}: {error})") from None


def _to_json(record: IndexRecord) -> bytes:
    return json.dumps(asdict(record), indent=2).encode() + b"\n"


def _unusable(folder: Folder, problem: str) -> StoreError:
    location = folder.location(INDEX)
    return StoreError(f"{location}: {problem}; remove this folder, and search with an index builds it again")


def _read(folder: Folder, name: str, *, mapped: bool = False) -> Any:
    faiss = _import_faiss()
    try:
        return faiss.read_index(folder.location(name), faiss.IO_FLAG_MMAP if mapped else 0)
    except RuntimeError as error:  # what faiss raises for any reason
        raise _unusable(folder, f"{name} cannot be read ({error})") from None


def _write(folder: Folder, name: str, index: Any) -> None:
    with folder.draft(name) as part:
        try:
            _import_faiss().write_index(index, str(part))
        except RuntimeError as error:
            raise OSError(str(error)) from None


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "an index needs faiss, which is not installed: install lengthwise[index], or search without an index"
        ) from None
    return faiss
