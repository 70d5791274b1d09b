"""Shards of a dataset: all rows in order, random access, the same columns in each."""

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

from helpers.dataset_files import ROW_TEXTS, ROWS, open_source, read_rows, write
from lengthwise.config import DatasetSettings
from lengthwise.data.dataset import open_dataset
from lengthwise.data.source import Section
from lengthwise.errors import DatasetError, ShortInputError


@settings(max_examples=30, deadline=None)
@given(
    files=st.lists(st.lists(st.text(max_size=4) | st.none(), max_size=9), min_size=1, max_size=4).filter(any),
    shard_rows=st.integers(1, 12),
    streaming=st.booleans(),
)
def test_shards_hold_all_rows_in_order(
    new_folder: Callable[[], Path], files: list[list[str | None]], shard_rows: int, streaming: bool
) -> None:
    folder, schema = new_folder(), pa.schema({"text": pa.string()})
    for number, texts in enumerate(files):
        pq.write_table(pa.table({"text": texts}, schema), folder / f"part-{number}.parquet")
    expected = [text for texts in files for text in texts]
    source = open_source(folder, shard_rows=shard_rows, streaming=streaming)
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
def test_shards_can_be_selected_and_read_in_any_order(
    new_folder: Callable[[], Path], rows: int, shard_rows: int, streaming: bool, chance: random.Random
) -> None:
    folder = new_folder()
    write(folder / "rows.jsonl", [{"text": str(row)} for row in range(rows)])
    source = open_source(folder / "rows.jsonl", shard_rows=shard_rows, streaming=streaming)
    every = list(open_source(folder / "rows.jsonl", shard_rows=shard_rows).shards())
    selected = {shard.index for shard in every if chance.random() < 0.5}
    calls: list[int] = []

    def is_selected(index: int) -> bool:
        calls.append(index)
        return index in selected

    assert [shard.table for shard in source.shards(is_selected)] == [
        shard.table for shard in every if shard.index in selected
    ]
    assert calls == [shard.index for shard in every]
    for index in [chance.randrange(len(every)) for _ in range(6)]:
        found = source.read(index)
        assert (found.index, found.first_row, found.table) == (index, index * shard_rows, every[index].table)
    with pytest.raises(IndexError):
        source.read(len(every))
    assert source.read(0).table == every[0].table


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=4),
    open_end=st.booleans(),
    shard_rows=st.integers(1, 5),
    streaming=st.booleans(),
)
def test_sections_are_cut_into_shards_of_their_own(
    new_folder: Callable[[], Path], lengths: list[tuple[int, int]], open_end: bool, shard_rows: int, streaming: bool
) -> None:
    """Whatever is between them; rows and shards are numbered as each section says."""
    path = write(new_folder() / "rows.jsonl", [{"text": str(row)} for row in range(60)])
    sections, start, index = [], 0, 10
    for number, (gap, rows) in enumerate(lengths):
        start += gap
        is_open = open_end and number == len(lengths) - 1
        sections.append(Section(start, None if is_open else rows, 100 + start, index))
        index += -(-rows // shard_rows)
        start += rows
    source = open_source(path, shard_rows=shard_rows, streaming=streaming).with_sections(sections)
    expected, numbers = [], []
    for section in sections:
        stop = 60 if section.rows is None else section.start + section.rows
        for place, first in enumerate(range(section.start, stop, shard_rows)):
            numbers.append((section.first_index + place, 100 + first))
            expected.append([str(row) for row in range(first, min(first + shard_rows, stop))])
    for _ in range(2):
        shards = list(source.shards())
        assert [shard.table["text"].to_pylist() for shard in shards] == expected
        assert [(shard.index, shard.first_row) for shard in shards] == numbers
    assert (source.num_rows, source.num_shards) == (sum(map(len, expected)), len(expected))
    for (number, _), texts in zip(reversed(numbers), reversed(expected), strict=True):
        assert source.read(number).table["text"].to_pylist() == texts


def test_rows_of_a_section_are_located_in_their_file(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "rows.jsonl")).with_sections([Section(3, None, 50, 7)])
    assert source.locate([51]) == {51: "rows.jsonl, line 5, column 'text'"}


@pytest.mark.parametrize(("streaming", "shard"), [(True, 2), (False, 3)])
def test_input_that_ends_before_a_section_does_is_an_error(tmp_path: Path, streaming: bool, shard: int) -> None:
    source = open_source(write(tmp_path / "rows.jsonl"), streaming=streaming, shard_rows=2)
    shards = source.with_sections([Section(0, 8, 0, 0)]).shards()
    assert [next(shards).table.num_rows for _ in range(3)] == [2, 2, 1]
    with pytest.raises(ShortInputError, match=f"the rows end early, in shard {shard}"):
        next(shards)


@pytest.mark.parametrize("streaming", [False, True])
def test_count_rows(tmp_path: Path, streaming: bool) -> None:
    source = open_source(write(tmp_path / "rows.jsonl"), streaming=streaming, shard_rows=2)
    assert (source.count_rows(), source.count_rows(), source.num_rows) == (len(ROWS),) * 3


def test_known_fingerprint_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.txt")
    first = open_source(path).fingerprint
    monkeypatch.setattr("lengthwise.data.dataset.file_sha256", None)
    settings = DatasetSettings(path=str(path))
    assert open_dataset(settings, first).fingerprint == first


@pytest.mark.parametrize("shard_rows", [1, 2, 3, 100])
def test_stream_casts_files_that_differ_in_a_columns_type(tmp_path: Path, shard_rows: int) -> None:
    """Whether or not two files share a shard."""
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1.5, 2.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["c"], "n": [3]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": pa.array(["d"], pa.large_string())}), tmp_path / "c.parquet")
    source = open_source(tmp_path / "*.parquet", streaming=True, shard_rows=shard_rows, keep_columns=("n",))
    assert [(row["text"], row["n"]) for row in read_rows(source)] == [("a", 1.5), ("b", 2.0), ("c", 3.0), ("d", None)]


def test_columns_are_the_text_column_and_the_kept_ones(tmp_path: Path) -> None:
    rows = [{"c": 1, "b": "words", "a": [1.5], "unused": 0}]
    path = write(tmp_path / "rows.parquet", rows)
    source = open_source(path, text_column="b", keep_columns=("c", "a"))
    assert next(source.shards()).table.column_names == ["b", "c", "a"]
    assert list(source.features) == ["b", "c", "a"]
    assert read_rows(open_source(path, text_column="b", keep_columns=("b",))) == [{"b": "words"}]


def test_class_names_are_kept(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_list([{"text": "a", "label": 1}], features=features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        for streaming in (False, True):
            source = open_source(path, keep_columns=("label",), streaming=streaming)
            assert source.features["label"].names == ["no", "yes"]


def test_damaged_stream_gives_the_shards_before_the_damage(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:4])
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "never ends')
    shards = open_source(tmp_path / "*.jsonl", streaming=True, shard_rows=2).shards()
    assert [next(shards).table["text"].to_pylist() for _ in range(2)] == [ROW_TEXTS[:2], ROW_TEXTS[2:4]]
    with pytest.raises(DatasetError, match=r"the rows cannot be read \(.*JSON"):
        next(shards)


def test_damaged_stream_can_be_read_again(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:4])
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "never ends')
    source = open_source(tmp_path / "*.jsonl", streaming=True, shard_rows=2)
    for _ in range(2):
        with pytest.raises(DatasetError, match="the rows cannot be read"):
            source.read(2)
    assert source.read(1).table["text"].to_pylist() == ROW_TEXTS[2:4]


def test_two_readers_of_a_stream_are_independent(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "rows.jsonl"), streaming=True, shard_rows=1)
    shards = source.shards()
    assert next(shards).index == 0
    assert source.read(3).table["text"].to_pylist() == ROW_TEXTS[3:4]
    assert [shard.index for shard in shards] == [1, 2, 3, 4]
