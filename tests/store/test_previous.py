"""A folder of another run is read, whatever state it is in, and nothing of it is taken that is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from helpers.vector_folders import write_vectors
from lengthwise.errors import StoreError
from lengthwise.store import parquet
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.text_hashes import hash_texts

TEXTS = [f"text {row}" for row in range(10)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreviousFolder:
    """Ten rows in one shard of three row groups, the second without a vector and the third with zeros."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 4)
    vectors = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    vectors[2] = 0
    is_null = np.arange(10) == 1
    kept = pa.table({"text": TEXTS})
    identity = {"text_column": "text", "keep_columns": ["text"]}
    write_vectors(tmp_path / "old", vectors, kept, is_null=is_null, **identity)
    found = PreviousFolder.open(tmp_path / "old")
    assert found is not None
    return found


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 9], [7], list(range(10))])
def test_rows_of_any_row_groups(folder: PreviousFolder, rows: list[int]) -> None:
    found = folder.rows(0, np.array(rows))
    assert found.usable.tolist() == [row not in (1, 2) for row in rows]
    expected = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    np.testing.assert_array_equal(found.vectors[found.usable], expected[rows][found.usable])
    assert found.lengths.tolist() == [1] * len(rows)
    assert not found.truncated.any()


def test_hashes_of_kept_texts(folder: PreviousFolder) -> None:
    np.testing.assert_array_equal(folder.hashes(0), hash_texts(pa.chunked_array([TEXTS])))


def test_nothing_is_no_folder(tmp_path: Path) -> None:
    assert PreviousFolder.open(tmp_path / "none") is None


@pytest.mark.parametrize("position", [0, 100, -1, -9])
def test_flipped_bit_is_found_before_a_row_is_given(folder: PreviousFolder, tmp_path: Path, position: int) -> None:
    path = tmp_path / "old/data/shard-000000.parquet"
    contents = bytearray(path.read_bytes())
    contents[position] ^= 1
    path.write_bytes(contents)
    for read in (lambda: folder.rows(0, np.arange(3)), lambda: folder.hashes(0)):
        with pytest.raises(StoreError, match=r"shard-000000\.parquet: its sha256 is not the recorded one"):
            read()


def test_what_is_read_is_what_was_compared(folder: PreviousFolder, tmp_path: Path) -> None:
    """A file that changes after it was compared changes nothing."""
    before = folder.rows(0, np.arange(3)).vectors
    (tmp_path / "old/data/shard-000000.parquet").write_bytes(b"")
    np.testing.assert_array_equal(folder.rows(0, np.arange(3)).vectors, before)
