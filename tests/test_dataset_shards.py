"""A dataset cut into shards: all rows in order, any shard at any time, the same columns in each."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DatasetSettings
from pipeline.dataset import open_dataset
from pipeline.errors import DatasetError
from test_dataset import ROWS, TEXTS_OF_ROWS, opened, rows_of, scratch, write

__all__ = ["scratch"]  # a fixture


@settings(max_examples=30, deadline=None)
@given(
    files=st.lists(st.lists(st.text(max_size=4) | st.none(), max_size=9), min_size=1, max_size=4).filter(any),
    shard_rows=st.integers(1, 12),
    streaming=st.booleans(),
)
def test_shards_cut_all_rows_in_order(
    scratch: Callable[[], Path], files: list[list[str | None]], shard_rows: int, streaming: bool
) -> None:
    folder, schema = scratch(), pa.schema({"text": pa.string()})
    for number, texts in enumerate(files):
        pq.write_table(pa.table({"text": texts}, schema), folder / f"part-{number}.parquet")
    expected = [text for texts in files for text in texts]
    source = opened(folder, shard_rows=shard_rows, streaming=streaming)
    assert source.num_shards == (None if streaming else -(-len(expected) // shard_rows))
    shards = list(source.shards())
    assert [text for shard in shards for text in shard.table["text"].to_pylist()] == expected
    assert [shard.index for shard in shards] == list(range(-(-len(expected) // shard_rows)))
    assert [shard.first_row for shard in shards] == [shard.index * shard_rows for shard in shards]
    assert {shard.table.num_rows for shard in shards[:-1]} <= {shard_rows}
    assert source.num_shards == len(shards)
    assert list(source.texts()) == [text for text in expected if text is not None]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 30),
    shard_rows=st.integers(1, 12),
    streaming=st.booleans(),
    chance=st.randoms(use_true_random=False),
)
def test_any_shards_can_be_had_in_any_order(
    scratch: Callable[[], Path], rows: int, shard_rows: int, streaming: bool, chance: random.Random
) -> None:
    folder = scratch()
    write(folder / "rows.jsonl", [{"text": str(row)} for row in range(rows)])
    source = opened(folder / "rows.jsonl", shard_rows=shard_rows, streaming=streaming)
    every = list(opened(folder / "rows.jsonl", shard_rows=shard_rows).shards())
    wanted = {shard.index for shard in every if chance.random() < 0.5}
    asked: list[int] = []

    def is_wanted(index: int) -> bool:
        asked.append(index)
        return index in wanted

    assert [shard.table for shard in source.shards(is_wanted)] == [
        shard.table for shard in every if shard.index in wanted
    ]
    assert asked == [shard.index for shard in every]
    for index in [chance.randrange(len(every)) for _ in range(6)]:
        found = source.read(index)
        assert (found.index, found.first_row, found.table) == (index, index * shard_rows, every[index].table)
    with pytest.raises(IndexError):
        source.read(len(every))
    assert source.read(0).table == every[0].table


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_counted(tmp_path: Path, streaming: bool) -> None:
    source = opened(write(tmp_path / "rows.jsonl"), streaming=streaming, shard_rows=2)
    assert (source.count_rows(), source.count_rows(), source.num_rows) == (len(ROWS),) * 3


def test_a_known_fingerprint_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.txt")
    first = opened(path).fingerprint
    monkeypatch.setattr("pipeline.dataset.file_sha256", None)
    settings = DatasetSettings(path=str(path))
    assert open_dataset(settings, first).fingerprint == first


def test_a_stream_whose_files_differ_in_a_columns_type(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "c", "n": "three"}\n')
    shards = opened(tmp_path / "*.jsonl", streaming=True, shard_rows=2, keep_columns=("n",)).shards()
    assert next(shards).table["n"].to_pylist() == [1, 2]
    with pytest.raises(DatasetError, match=r"\*\.jsonl: "):
        next(shards)


def test_columns_are_the_text_column_and_then_the_kept_ones(tmp_path: Path) -> None:
    rows = [{"c": 1, "b": "words", "a": [1.5], "unused": 0}]
    path = write(tmp_path / "rows.parquet", rows)
    source = opened(path, text_column="b", keep_columns=("c", "a"))
    assert next(source.shards()).table.column_names == ["b", "c", "a"]
    assert list(source.features) == ["b", "c", "a"]
    assert rows_of(opened(path, text_column="b", keep_columns=("b",))) == [{"b": "words"}]


def test_class_names_survive(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_list([{"text": "a", "label": 1}], features=features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        for streaming in (False, True):
            source = opened(path, keep_columns=("label",), streaming=streaming)
            assert source.features["label"].names == ["no", "yes"]


def test_a_stream_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:4])
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "never ends')
    shards = opened(tmp_path / "*.jsonl", streaming=True, shard_rows=2).shards()
    assert [next(shards).table["text"].to_pylist() for _ in range(2)] == [TEXTS_OF_ROWS[:2], TEXTS_OF_ROWS[2:4]]
    with pytest.raises(DatasetError, match=r"the rows cannot be read \(.*JSON"):
        next(shards)
