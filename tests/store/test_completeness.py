"""A complete folder has every row of the input, in shards of the same columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.stores import ROWS, commit, commit_table, counts, open_store, table
from lengthwise.errors import StoreError
from lengthwise.store.layout import MANIFEST


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0, 1, 3, 7)
    (tmp_path / "data/shard-000001.parquet").unlink()
    with pytest.raises(StoreError, match=r"6 of 9 shards are missing \(numbers 1-2, 4-6, 8\); run the command"):
        store.finish(9 * ROWS, ROWS, "card")
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_input_with_another_number_of_rows_is_refused(tmp_path: Path, rows: int) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    with pytest.raises(StoreError, match=r"the input has|shards are missing"):
        store.finish(rows, ROWS, "card")


def test_shard_with_other_columns_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, 0)
    commit_table(store, table(1).rename_columns(["number", "embedding", "num_tokens", "truncated"]), counts(1))
    with pytest.raises(StoreError, match=r"shard-000001.*its columns are number int64, .* first shard id int64"):
        store.finish(2 * ROWS, ROWS, "card")


def test_missing_quarantine_file_makes_its_shard_missing(tmp_path: Path) -> None:
    store = open_store(tmp_path, bad_rows="quarantine")
    commit_table(store, table(), {**counts(0), "bad": 1}, b"{}\n")
    (tmp_path / "quarantine/shard-000000.jsonl").unlink()
    with pytest.raises(StoreError, match=r"1 of 1 shards are missing \(numbers 0\)"):
        store.finish(ROWS, ROWS, "card")
