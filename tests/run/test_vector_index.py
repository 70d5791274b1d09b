"""The approximate index: what it finds, what it keeps of an interrupted build, and what it refuses."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.stores import IDENTITY_A
from helpers.vector_folders import write_vectors
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run import vector_index
from lengthwise.run.search import Hit, VectorFolder
from lengthwise.store import parquet
from lengthwise.store.layout import INDEX_LOCK
from lengthwise.store.local import LocalFolder
from lengthwise.store.recovery import start_over
from lengthwise.store.vectors import VectorStore

pytest.importorskip("faiss", reason="faiss is not installed: pip install lengthwise[index]")

ROWS, DIM = 4_000, 24
ZERO, NULL = 17, 2_100  # rows of zeros, and without a vector


def clustered(rows: int, seed: int) -> NDArray[np.float32]:
    """Vectors around 60 centers, of lengths from 0.1 to 10."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(60, DIM))
    vectors = centers[random.integers(0, len(centers), rows)] + 0.6 * random.normal(size=(rows, DIM))
    return (vectors * random.uniform(0.1, 10, (rows, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, to be read only."""
    vectors = clustered(ROWS, 1)
    vectors[ZERO] = 0
    is_null = np.arange(ROWS) == NULL
    kept = pa.table({"number": np.arange(ROWS), "letter": [f"{row % 3}" for row in range(ROWS)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROW_GROUP_ROWS", 400)
        folder = write_vectors(
            tmp_path_factory.mktemp("vectors") / "vectors", vectors, kept, shard_rows=1_500, is_null=is_null
        )
    VectorFolder.open(folder).build_index()
    return folder


@pytest.fixture
def indexed(built: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged at will, of a folder with an index."""
    return Path(shutil.copytree(built, tmp_path / "indexed"))


@pytest.fixture
def bare(indexed: Path) -> Path:
    """The same without an index."""
    shutil.rmtree(indexed / "index")
    return indexed


def rows_of(hits: list[list[Hit]]) -> list[list[int]]:
    return [[hit.row for hit in found] for found in hits]


def index_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "index").iterdir()}


def test_nearly_all_that_exact_search_finds_is_found(built: Path) -> None:
    opened = VectorFolder.open(built)
    queries = clustered(300, 2)
    exact, found = opened.search(queries), opened.search(queries, index=True)
    assert all(len(hits) == 10 for hits in found)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(rows_of(exact), rows_of(found), strict=True)]
    assert np.mean(shared) >= 0.95
    scores = [{hit.row: hit.score for hit in hits} for hits in exact]
    for hits, expected in zip(found, scores, strict=True):
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.columns["number"] == hit.row
            assert hit.score == pytest.approx(expected.get(hit.row, hit.score), abs=1e-3)


def test_the_record_says_what_was_built_and_measured(built: Path) -> None:
    record = VectorFolder.open(built).build_index()
    assert (record.rows, record.queries) == (ROWS - 2, 256)
    assert record.recall >= 0.95
    assert 1 <= record.probed < record.lists  # the index is of use: not all rows are compared
    assert f"recall at 10 is {record.recall:.3f}" in str(record)
    assert json.loads((built / "index/record.json").read_text())["probed"] == record.probed


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, ROWS),
    st.sampled_from(["<", ">="]),
    st.booleans(),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_conditions_cost_no_rows(
    built: Path, border: int, operator: str, with_letter: bool, top: int, seed: int
) -> None:
    opened = VectorFolder.open(built)
    queries = clustered(2, seed)
    where = [f"number{operator}{border}", *(["letter=1"] if with_letter else [])]
    exact, found = (opened.search(queries, top=top, where=where, columns=["letter"], index=i) for i in (False, True))
    for expected, hits in zip(exact, found, strict=True):
        assert len(hits) == len(expected)
        assert len({hit.row for hit in hits}) == len(hits)
        assert all((hit.row < border) == (operator == "<") for hit in hits)
        assert not with_letter or all(hit.columns["letter"] == "1" for hit in hits)


def test_all_rows_that_satisfy_a_rare_condition_are_compared(built: Path) -> None:
    opened = VectorFolder.open(built)
    queries = clustered(20, 3)
    where = ["number>=1000", "number<1040"]
    assert rows_of(opened.search(queries, where=where, index=True)) == rows_of(opened.search(queries, where=where))
    assert opened.search(queries[:1], where=["number<0"], index=True) == [[]]


def test_queries_whose_lists_hold_too_few_rows_are_compared_with_all(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = VectorFolder.open(built)
    index = opened._index()
    index.record = replace(index.record, probed=1)
    query = clustered(1, 4)
    query /= np.linalg.norm(query)
    (order,) = rows_of(opened.search(query, top=ROWS))
    mask = np.zeros(ROWS, np.bool_)
    mask[order[ROWS // 2 :]] = True  # the rows of other lists than the query's
    with caplog.at_level(logging.WARNING):
        found = index.search(query, 10, mask)
    assert set(found.rows[0].tolist()) == set(order[ROWS // 2 :][:10])
    assert "1 queries found too few rows in the index's nearest lists: compared with all" in caplog.text


def test_rows_without_a_vector_are_never_found(built: Path) -> None:
    opened = VectorFolder.open(built)
    (hits,) = opened.search(clustered(1, 5), top=ROWS, index=True)
    assert {hit.row for hit in hits} == set(range(ROWS)) - {ZERO, NULL}


@pytest.mark.parametrize("rows", [1, 2, 11, 12])
def test_small_folders_have_an_index_too(tmp_path: Path, rows: int) -> None:
    folder = write_vectors(tmp_path / "small", clustered(rows, 1))
    opened = VectorFolder.open(folder)
    queries = clustered(3, 2)
    assert rows_of(opened.search(queries, index=True)) == rows_of(opened.search(queries))
    assert opened.build_index().recall == 1


def test_a_folder_of_zeros_has_an_index_that_finds_nothing(tmp_path: Path) -> None:
    folder = write_vectors(tmp_path / "zeros", np.zeros((5, DIM), np.float32))
    assert VectorFolder.open(folder).search(clustered(2, 1), index=True) == [[], []]


def test_segments_find_what_one_finds(indexed: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = clustered(50, 6)
    opened = VectorFolder.open(bare)
    whole = opened.search(queries, index=True)
    shutil.rmtree(bare / "index")
    monkeypatch.setattr(vector_index, "_SEGMENT_BYTES", 2 * DIM * 900)
    assert rows_of(opened.search(queries, index=True)) == rows_of(whole)
    assert len(list((bare / "index").glob("segment-*"))) == 6  # of two row groups of 400 rows or less each


class Stopped(BaseException):
    pass


def test_an_interrupted_build_continues_after_its_segments(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "_SEGMENT_BYTES", 2 * DIM * 900)
    VectorFolder.open(bare).build_index()
    undisturbed = index_files(bare)
    shutil.rmtree(bare / "index")

    write, written = vector_index._write, []

    def stop_at_third(folder: Any, name: str, index: Any) -> None:
        if "segment-000002" in name and len(written) < 5:
            raise Stopped
        written.append(name)
        write(folder, name, index)

    monkeypatch.setattr(vector_index, "_write", stop_at_third)
    with pytest.raises(Stopped):
        VectorFolder.open(bare).build_index()
    assert json.loads((bare / "index/record.json").read_text())["segments"] is None
    draft = bare / "index/.segment-000002.faiss.0123abcd.part"
    draft.write_bytes(b"of a process that was killed")

    written.extend(["the next process"] * 2)
    VectorFolder.open(bare).build_index()
    assert index_files(bare) == undisturbed
    assert sorted(set(written)) == [
        "index/centroids.faiss", *(f"index/segment-{number:06d}.faiss" for number in range(6)), "the next process",
    ]  # fmt: skip
    assert len(written) == len(set(written)) + 1


@pytest.fixture
def other(indexed: Path, tmp_path: Path) -> Path:
    """A folder of other vectors that the index of `indexed` was copied to."""
    folder = write_vectors(tmp_path / "other", clustered(ROWS, 9), shard_rows=1_500, weights="bbbb")
    shutil.copytree(indexed / "index", folder / "index")
    return folder


def test_an_index_of_another_run_is_refused(other: Path) -> None:
    with pytest.raises(StoreError, match="index: an index of another run's vectors; remove this folder, and search"):
        VectorFolder.open(other).search(clustered(1, 1), index=True)
    assert VectorFolder.open(other).search(clustered(1, 1))  # exact search does not need it


def test_an_index_of_former_shards_is_refused(indexed: Path) -> None:
    manifest = json.loads((indexed / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = "0" * 64
    (indexed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="index: older than the shards beside it; remove this folder"):
        VectorFolder.open(indexed).build_index()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("segment-000000.faiss", lambda contents: contents[:-1], "damaged: index/segment-000000.faiss is missing or"),
        ("segment-000000.faiss", None, "damaged: index/segment-000000.faiss is missing or was changed"),
        ("segment-000000.faiss", lambda contents: b"x" * len(contents), "segment-000000.faiss cannot be read"),
        ("record.json", lambda contents: contents[:-9], "damaged .*JSONDecodeError"),
        ("record.json", lambda contents: b"[]", "damaged .*TypeError"),
        (
            "record.json",
            lambda contents: contents.replace(b'"format": 1', b'"format": 2'),
            "written by another version",
        ),
    ],
)
def test_damaged_files_are_refused(indexed: Path, name: str, change: Any, message: str) -> None:
    path = indexed / "index" / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoreError, match=message + ".*; remove this folder, and search with an index builds it again"):
        VectorFolder.open(indexed).search(clustered(1, 1), index=True)
    shutil.rmtree(indexed / "index")
    assert VectorFolder.open(indexed).search(clustered(1, 1), index=True)


def test_one_process_builds_at_a_time_and_none_encodes_meanwhile(bare: Path) -> None:
    with LocalFolder(bare).lock(INDEX_LOCK):
        with pytest.raises(StoreError, match="builds an index; wait until it has ended, or stop it"):
            VectorFolder.open(bare).build_index()
        with pytest.raises(StoreError, match="is writing to this folder"):
            VectorStore.open(bare, IDENTITY_A, "run: 1\n")


def test_starting_over_removes_the_index(indexed: Path) -> None:
    start_over(LocalFolder(indexed), None)
    assert not any((indexed / "index").iterdir())


def test_an_index_hides_no_shards(indexed: Path) -> None:
    with VectorStore.open(indexed, IDENTITY_A, "run: 1\n") as store:
        assert all(store.committed(number) for number in range(3))
    rows = datasets.load_dataset("parquet", data_dir=str(indexed / "data"), split="train")
    assert rows.num_rows == ROWS
    assert (indexed / "index/record.json").exists()


def test_what_cannot_be_indexed_is_refused(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_copy: str
) -> None:
    opened = VectorFolder.open(indexed)
    with pytest.raises(ConfigError, match="an index ranks by cosine, and metric is 'dot'"):
        opened.search(clustered(1, 1), metric="dot", index=True)
    with pytest.raises(ConfigError, match="has no rows, so there is nothing to index"):
        VectorFolder.open(write_vectors(tmp_path / "empty", clustered(0, 1))).build_index()
    with pytest.raises(ConfigError, match=r"memory://.* an index is memory-mapped; copy the folder to a disk"):
        VectorFolder.open(memory_copy).build_index()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"faiss, which is not installed: install lengthwise\[index\]"):
        opened.build_index()


@pytest.fixture
def memory_copy(indexed: Path) -> Iterator[str]:
    """The folder at a URL."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(indexed), "/vectors_for_index", recursive=True)
    yield "memory://vectors_for_index"
    memory.rm("/vectors_for_index", recursive=True)
