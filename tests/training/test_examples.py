"""Rows of a source: what is usable, what its targets are, and which rows are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.students import make_texts, write_rows
from lengthwise.config import TokenizationSettings
from lengthwise.dataset_config import DatasetSettings
from lengthwise.errors import DatasetError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import SourceSettings
from lengthwise.training.examples import Examples, Rows, make_examples, open_source, read_rows

TEXTS = make_texts(4)


def read(path: Path, **settings: Any) -> Rows:
    source = SourceSettings.model_validate({"dataset": {"path": str(path)}, **settings})
    return read_rows(0, source, open_source(source, DatasetSettings(path="unused")))


def examples(rows: Rows, tokenizer: TextTokenizer, held_out: int = 0, **changes: Any) -> Examples:
    tokenization = TokenizationSettings(**changes)
    return make_examples(rows, None, tokenizer, tokenization, held_out=held_out, seed=0)


def test_vectors_are_read_with_their_texts(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", text=[*TEXTS, None], embedding=[[1.5, 2], [3, 4], None, [5, 6], [7, 8]])
    rows = read(path, kind="vectors")
    assert rows.texts == ([TEXTS[0], TEXTS[1], TEXTS[3]],)
    np.testing.assert_array_equal(rows.column, np.array([[1.5, 2], [3, 4], [5, 6]], np.float32))
    assert rows.skipped == 2


@pytest.mark.parametrize("width", [pa.list_(pa.float16(), 2), pa.list_(pa.float64(), 2), pa.large_list(pa.int32())])
def test_vectors_of_any_list_type_are_read(tmp_path: Path, width: pa.DataType) -> None:
    values = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float16)
    table = pa.table({"text": TEXTS, "embedding": pa.array(values.tolist(), pa.list_(pa.float32())).cast(width)})
    pq.write_table(table, tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(tmp_path / "a.parquet", kind="vectors").column, values.astype(np.float32))


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        ([[1.0], [2.0, 3.0], [1.0], [1.0]], "has vectors of 1 to 2 values"),
        ([[1.0], [float("nan")], [1.0], [1.0]], "a value that is no number in usable row 1"),
        ([1.0, 2.0, 3.0, 4.0], "is double, not lists of numbers"),
        ([["a"], ["b"], ["c"], ["d"]], "is list<"),
    ],
)
def test_wrong_vectors_are_refused(tmp_path: Path, embedding: list[Any], message: str) -> None:
    path = write_rows(tmp_path / "a.parquet", text=TEXTS, embedding=embedding)
    with pytest.raises(DatasetError) as caught:
        read(path, kind="vectors")
    assert message in str(caught.value)


@pytest.mark.parametrize("values", [["b", "a", None, "b", None], [2, 1, None, 2, None]])
def test_pairs_of_equal_values_have_one_kind(tmp_path: Path, tokenizer: TextTokenizer, values: list[Any]) -> None:
    texts = make_texts(5)
    path = write_rows(tmp_path / "a.parquet", anchor=texts, positive=["", *texts[1:]], subject=values)
    found = examples(read(path, kind="pairs", group_column="subject"), tokenizer).kinds
    assert found is not None
    other, null, same, also_null = found.tolist()
    assert null == also_null
    assert len({other, null, same}) == 3
    assert examples(read(path, kind="pairs"), tokenizer).kinds is None


def test_group_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", anchor=TEXTS, positive=TEXTS)
    with pytest.raises(DatasetError) as caught:
        read(path, kind="pairs", group_column="subject")
    assert "'subject'" in str(caught.value)
    assert "set group_column of this source" in str(caught.value)


@pytest.mark.parametrize(
    ("label", "classes", "numbers"),
    [
        (["b", "a", "b", None], ("a", "b"), [1, 0, 1]),
        ([10, 9, 10, 9], ("9", "10"), [1, 0, 1, 0]),
        ([True, False, None, True], ("False", "True"), [1, 0, 1]),
    ],
)
def test_classes_are_numbered_in_their_order(
    tmp_path: Path, label: list[Any], classes: tuple[str, ...], numbers: list[int]
) -> None:
    rows = read(write_rows(tmp_path / "a.parquet", text=TEXTS, label=label), kind="labels")
    assert rows.classes == classes
    assert rows.column is not None
    assert rows.column.tolist() == numbers


@pytest.mark.parametrize(
    ("label", "message"), [(["a"] * 4, "has the one class 'a'"), ([0.5] * 4, "classes are strings")]
)
def test_wrong_classes_are_refused(tmp_path: Path, label: list[Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(write_rows(tmp_path / "a.parquet", text=TEXTS, label=label), kind="labels")


def test_classes_of_one_row_each_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(write_rows(tmp_path / "a.parquet", text=TEXTS, label=["a", "a", "b", "c"][::-1]), kind="labels")
    assert [message for message in caplog.messages if "2 of the 3 values of 'label' occur once" in message]
    caplog.clear()
    read(write_rows(tmp_path / "b.parquet", text=TEXTS, label=["a", "a", "a", "b"]), kind="labels")
    assert caplog.messages == []


def test_pairs_need_both_sides_and_may_have_negatives(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = write_rows(
        tmp_path / "a.parquet",
        anchor=[*TEXTS, None, "the cat"],
        positive=[*TEXTS[::-1], "the dog", ""],
        hard=["moon", None, "", "the sea", "x", "y"],
    )
    found = examples(read(path, kind="pairs", negative_columns=["hard"]), tokenizer)
    assert len(found.train) == 4
    assert found.skipped == 2
    assert [int(found.sides[2].lengths[row]) > 0 for row in found.train] == [True, False, False, True]


def test_source_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", text=["", None, ""], label=["a", "b", "c"])
    with pytest.raises(DatasetError, match=r"none of its 3 rows has all of text, label \(train\.sources\.0: labels\)"):
        read(path, kind="labels")


def test_texts_are_cut_for_training(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = write_rows(tmp_path / "a.parquet", text=["the cat sat on the mat", "moon", "the sea"])
    found = examples(read(path, kind="teacher"), tokenizer, max_length=3, truncate=True)
    assert found.sides[0].lengths.tolist() == [3, 1, 2]


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 40), min_size=1, max_size=120),
    held_out=st.integers(0, 200),
    seed=st.integers(0, 9),
)
def test_no_text_is_on_both_sides(numbers: list[int], held_out: int, seed: int, tokenizer: TextTokenizer) -> None:
    pool = make_texts(41)
    rows = Rows("0: teacher", SourceSettings(kind="teacher"), ([pool[number] for number in numbers],))
    found = make_examples(rows, None, tokenizer, TokenizationSettings(), held_out=held_out, seed=seed)
    assert sorted([*found.train.tolist(), *found.held_out.tolist()]) == list(range(len(numbers)))
    assert not {numbers[row] for row in found.train} & {numbers[row] for row in found.held_out}
    assert len(found.held_out) <= min(held_out, len(numbers) // 10)


def test_held_out_rows_depend_on_the_seed(tokenizer: TextTokenizer) -> None:
    rows = Rows("0: teacher", SourceSettings(kind="teacher"), (make_texts(300),))

    def held_out(seed: int) -> list[int]:
        found = make_examples(rows, None, tokenizer, TokenizationSettings(), held_out=20, seed=seed)
        return found.held_out.tolist()

    assert len(held_out(0)) == 20
    assert held_out(0) == held_out(0) != held_out(1)
