"""Datasets: every way to name one gives the same rows, in order, and every mistake says what to do."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dataset_files import (
    ROWS,
    TEXTS_OF_ROWS,
    opened,
    rows_of,
    texts_at,
    write,
)
from lengthwise.config import DatasetSettings
from lengthwise.data.dataset import open_dataset
from lengthwise.errors import DatasetError

# Ways to name rows


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "rows.parquet",
        "rows.arrow",
        "rows.json",
        "rows.jsonl",
        "rows.ndjson",
        "rows.csv",
        "rows.tsv",
        "rows.jsonl.gz",
        "rows.csv.gz",
        "rows.tsv.bz2",
        "ROWS.JSONL",
        "rows.v2.tsv",
        "rows.tsv.csv",
        "a folder/rows [1]*.csv",
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, streaming: bool) -> None:
    source = opened(write(tmp_path / name), keep_columns=("id",), streaming=streaming)
    assert source.num_rows == (None if streaming else len(ROWS))
    assert rows_of(source) == ROWS
    assert source.num_rows == len(ROWS)  # of a stream, once it was read


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.txt", "rows.txt.gz"])
def test_a_text_file_has_one_column(tmp_path: Path, name: str, streaming: bool) -> None:
    assert rows_of(opened(write(tmp_path / name), streaming=streaming)) == [{"text": text} for text in TEXTS_OF_ROWS]


def test_a_format_can_be_given_for_an_unknown_ending(tmp_path: Path) -> None:
    path = shutil.copy(write(tmp_path / "rows.jsonl"), tmp_path / "rows.data")
    with pytest.raises(DatasetError, match=r"rows\.data: no file of a known kind; set dataset\.format to one of arrow"):
        opened(path)
    assert texts_at(path, format="json") == TEXTS_OF_ROWS


@pytest.mark.parametrize("streaming", [False, True])
def test_a_glob_reads_its_files_in_order_of_their_names(tmp_path: Path, streaming: bool) -> None:
    for name, rows in (("b.jsonl", ROWS[2:4]), ("a.jsonl", ROWS[:2]), ("sub/c.jsonl", ROWS[4:])):
        write(tmp_path / name, rows)
    assert texts_at(tmp_path / "*.jsonl", streaming=streaming) == TEXTS_OF_ROWS[:4]
    assert texts_at(tmp_path / "**/*.jsonl", streaming=streaming) == TEXTS_OF_ROWS


def test_a_name_is_taken_literally_before_it_is_a_glob(tmp_path: Path) -> None:
    write(tmp_path / "[ab].txt", ROWS[:1])
    write(tmp_path / "a.txt", ROWS[1:])
    assert texts_at(tmp_path / "[ab].txt") == TEXTS_OF_ROWS[:1]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("folder", ["data", "data [v1]"])
def test_a_folder_is_split_by_its_file_names(tmp_path: Path, folder: str, streaming: bool) -> None:
    write(tmp_path / folder / "train-1.csv", ROWS[:2])
    write(tmp_path / folder / "train-2.csv", ROWS[2:4])
    write(tmp_path / folder / "test.csv", ROWS[4:])
    assert texts_at(tmp_path / folder, streaming=streaming) == TEXTS_OF_ROWS[:4]
    assert texts_at(tmp_path / folder, split="test", streaming=streaming) == TEXTS_OF_ROWS[4:]
    with pytest.raises(DatasetError, match=r"split 'dev' cannot be loaded \(.*'train', 'test'"):
        opened(tmp_path / folder, split="dev", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_only_data_files_of_a_folder_are_rows(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "rows.txt")
    for other in ("LICENSE", "README.md", "notes.md", ".hidden.txt", "_SUCCESS", ".git/a.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("not a row\n")
    assert texts_at(tmp_path, streaming=streaming) == TEXTS_OF_ROWS


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_writer_keeps_for_itself_is_no_row(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "rows.txt")
    first = opened(tmp_path).fingerprint
    for other in ("_draft.txt", "_log/a.txt", ".rows.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("not a row\n")
    assert texts_at(tmp_path, streaming=streaming) == TEXTS_OF_ROWS
    assert opened(tmp_path).fingerprint == first


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_whose_name_fits_a_split_twice_is_read_once(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "train-of-train.txt")
    assert texts_at(tmp_path, streaming=streaming) == TEXTS_OF_ROWS


def test_a_folder_of_several_kinds_wants_a_format(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "b.jsonl", ROWS[:1])
    with pytest.raises(DatasetError, match=r"files of several kinds \(json, text\); set dataset\.format to one of"):
        opened(tmp_path)
    assert texts_at(tmp_path, format="json") == TEXTS_OF_ROWS[:1]
    assert texts_at(tmp_path, format="text") == TEXTS_OF_ROWS


def test_a_dataset_card_decides_which_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "old/rows.jsonl", ROWS[:1])
    write(tmp_path / "new/rows.jsonl", ROWS[1:])
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: new/*.jsonl\n---\n")
    assert texts_at(tmp_path) == TEXTS_OF_ROWS[1:]


def test_a_folder_is_read_as_its_files_would_be(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "NA"}, {"id": 2, "text": "007"}]
    for folder in ("card", "plain"):
        write(tmp_path / folder / "rows.tsv", rows)
        (tmp_path / folder / "LICENSE").write_text("not a row\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: rows.tsv\n---\n"
    (tmp_path / "card/README.md").write_text(card)
    assert texts_at(tmp_path / "plain") == texts_at(tmp_path / "card") == ["NA", "007"]


def test_one_folder_is_not_mistaken_for_another_of_its_name(tmp_path: Path) -> None:
    for name, rows in (("a", ROWS[:1]), ("b", ROWS[1:])):
        write(tmp_path / name / "data/rows.jsonl", rows)
        card = "---\nconfigs:\n- config_name: default\n  data_files: rows.jsonl\n---\n"
        (tmp_path / name / "data/README.md").write_text(card)
        assert rows_of(opened(tmp_path / name / "data", keep_columns=("id",))) == rows


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_made_by_save_to_disk(tmp_path: Path, streaming: bool) -> None:
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:2])
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    assert texts_at(tmp_path / "one", streaming=streaming) == TEXTS_OF_ROWS
    assert texts_at(tmp_path / "both", streaming=streaming) == TEXTS_OF_ROWS
    assert texts_at(tmp_path / "both", split="test", streaming=streaming) == TEXTS_OF_ROWS[:2]
    with pytest.raises(DatasetError, match=r"no split 'dev'; set dataset\.split to one of \['train', 'test'\]"):
        opened(tmp_path / "both", split="dev", streaming=streaming)


def test_a_damaged_saved_folder(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"saved: the saved dataset cannot be read \("):
        opened(tmp_path / "saved")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stands for the hub: `ROWS` under any name, at a commit."""

    def serve(commit: str) -> None:
        class Builder:
            config = datasets.BuilderConfig("default")
            hash = commit

        def load(name: str, config: str | None, *, split: str, streaming: bool, revision: str | None) -> Any:
            data = datasets.Dataset.from_list(ROWS[: 2 if split == "test" else None])
            return data.to_iterable_dataset() if streaming else data

        monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: Builder())
        monkeypatch.setattr(datasets, "load_dataset", load)

    return serve


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_name(hub: Callable[..., None], streaming: bool) -> None:
    hub("c0ffee")
    source = opened("someone/some-data.v1", streaming=streaming)
    assert [row["text"] for row in rows_of(source)] == TEXTS_OF_ROWS
    assert opened("someone/some-data.v1").fingerprint == source.fingerprint
    other_split = opened("someone/some-data.v1", split="test")
    assert len(rows_of(other_split)) == 2
    hub("decaf")
    assert len({source.fingerprint, other_split.fingerprint, opened("someone/some-data.v1").fingerprint}) == 3


def test_a_hub_name_that_the_hub_does_not_give() -> None:
    with pytest.raises(DatasetError, match=r"nobody/nothing: neither a local .* check dataset\.path, .* the network"):
        opened("nobody/nothing")


# What becomes a text


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", codec="utf-8"), max_size=5), max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    unfinished=st.sampled_from(["", "x", "\u2028", "\x0c", "\x85", "\x00"]),
    streaming=st.booleans(),
)
def test_a_text_file_has_one_row_a_line(
    scratch: Callable[[], Path], lines: list[str], end: str, unfinished: str, streaming: bool
) -> None:
    path = scratch() / "lines.txt"
    path.write_bytes("".join(line + end for line in ["first", *lines]).encode() + unfinished.encode())
    expected = ["first", *lines, *([unfinished] if unfinished else [])]
    assert texts_at(path, streaming=streaming) == expected


@pytest.mark.parametrize("width", [1_023, 1_000])
def test_no_line_is_lost_where_the_reader_cuts_its_chunks(tmp_path: Path, width: int) -> None:
    """`datasets` reads 10 MiB at a time; lines of 1,024 bytes end exactly there, the others across it."""
    lines = [f"{number:0{width}d}" for number in range(11_000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    assert texts_at(tmp_path / "lines.txt") == lines


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name in ("rows.txt", "rows.csv", "rows.jsonl"):
        path = write(tmp_path / name)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert texts_at(path) == TEXTS_OF_ROWS


@pytest.mark.parametrize("streaming", [False, True])
def test_only_an_empty_csv_cell_is_null(tmp_path: Path, streaming: bool) -> None:
    words = ["NA", "None", "null", "nan", "N/A", "#N/A", "-nan", "True", "1e3", "007", " ", "-"]
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + "".join(f"{number},{word}\n" for number, word in enumerate(words)) + '98,\n99,""\n')
    assert texts_at(path, streaming=streaming) == [*words, None, None]


def test_numbers_in_a_csv_column_of_texts_stay_as_they_are_written(tmp_path: Path) -> None:
    """Pandas decides on a type every 10,000 rows."""
    texts = [f"{number:06d}" for number in range(10_001)] + ["a word", "1.50"]
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(texts) + "\n")
    assert texts_at(tmp_path / "rows.csv") == texts


def test_json_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text":"a\\u0000b"}\n{"text":null}\n{"other":1}\n{"text":"\\ud83d\\ude00"}\n{"text":""}')
    assert texts_at(path) == ["a\0b", None, None, "😀", ""]
    path = tmp_path / "strings.json"
    path.write_text('["a", "b"]')
    assert texts_at(path) == ["a", "b"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("words", [["2020-01-01"], ["2020-01-01", "no time"], ["2020-01-01T00:00:00Z", None, "x"]])
def test_a_text_that_looks_like_a_time_stays_as_it_is_written(
    tmp_path: Path, words: list[str | None], streaming: bool
) -> None:
    write(tmp_path / "a.jsonl", [{"text": words[0]}])
    write(tmp_path / "b.jsonl", [{"text": word} for word in words[1:]] or [{"text": "2021-02-03"}])
    assert texts_at(tmp_path / "*.jsonl", streaming=streaming) == [*words, *([] if words[1:] else ["2021-02-03"])]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("first.jsonl", b'null\n{"text": "a"}\n \tnull\n'),
        ("returns.jsonl", b'null\r{"text": "a"}\rnull'),
        ("marked.jsonl", b'\xef\xbb\xbfnull\n{"text": "a"}\nnull\n'),
        ("packed.jsonl.gz", gzip.compress(b'null\n{"text": "a"}\nnull\n', mtime=0)),
        ("array.json", b'[null, {"text": "a"}, null]'),
    ],
)
def test_json_rows_that_are_null(tmp_path: Path, name: str, contents: bytes, streaming: bool) -> None:
    """pyarrow's reader kills the process where a block of lines begins with null."""
    (tmp_path / name).write_bytes(contents)
    assert texts_at(tmp_path / name, streaming=streaming) == [None, "a", None]


@pytest.mark.parametrize("width", [10, 1_000])
def test_json_rows_that_are_null_at_the_start_of_any_block(tmp_path: Path, width: int) -> None:
    lines = [json.dumps({"text": "x" * width}), "null", "null"] * (1_000_000 // width)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert texts_at(tmp_path / "rows.jsonl") == ["x" * width, None, None] * (1_000_000 // width)


@pytest.mark.parametrize("contents", [b"null", b"null\nnull\n", b'null, "n": 1}\n', b"nullify\n", b"null[]"])
def test_json_that_begins_with_null_and_has_no_texts(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(contents)
    with pytest.raises(DatasetError, match=r"rows\.jsonl: "):
        rows_of(opened(tmp_path / "rows.jsonl"))


def test_bytes_that_are_no_text_are_left_out_of_the_texts(tmp_path: Path) -> None:
    column = pa.array([b"good", b"\xff\xfe", None, b"\xed\xa0\x80"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    assert list(opened(tmp_path / "rows.parquet").texts()) == ["good"]


# Mistakes


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    for missing in ("rows.csv", tmp_path / "rows.csv", tmp_path / "folder", tmp_path / "*.csv", "a/b/c", "~/none.txt"):
        with pytest.raises(DatasetError) as caught:
            opened(missing)
        assert str(caught.value).startswith(f"{missing}: there is no such file or folder")
        assert "set dataset.path to" in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b.txt", "\ud800.txt", "~nobody-of-that-name/rows.txt", "x" * 5_000 + ".txt"])
def test_a_path_that_no_file_can_have(path: str) -> None:
    with pytest.raises(DatasetError, match=r"set dataset\.path to"):
        open_dataset(DatasetSettings.model_construct(**{**DatasetSettings(path="x").model_dump(), "path": path}))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.csv"])
def test_a_missing_column_lists_those_that_exist(tmp_path: Path, name: str, streaming: bool) -> None:
    path = write(tmp_path / name)
    with pytest.raises(DatasetError, match=r"no column 'body'; the columns are 'text', 'id'; set dataset\.text_column"):
        opened(path, text_column="body", streaming=streaming)
    with pytest.raises(DatasetError, match="no column 'x', 'y'; the columns are"):
        opened(path, keep_columns=("x", "id", "y"), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("value", "found"), [(7, "int64"), (["a", "b"], "List"), ({"a": "b"}, "'a'"), (1.5, "float")])
def test_a_column_that_is_not_text(tmp_path: Path, value: Any, found: str, streaming: bool) -> None:
    for name in ("rows.jsonl", "rows.parquet"):
        path = write(tmp_path / name, [{"text": value, "good": "a"}])
        with pytest.raises(
            DatasetError, match=rf"the column 'text' is .*{found}.*, not text; set dataset\.text_column"
        ):
            opened(path, streaming=streaming)
        assert rows_of(opened(path, text_column="good", streaming=streaming)) == [{"good": "a"}]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_has_the_split_train_alone(tmp_path: Path, streaming: bool) -> None:
    with pytest.raises(DatasetError, match=r"rows\.txt: split 'test' cannot be loaded \(.*train.*check dataset\.split"):
        opened(write(tmp_path / "rows.txt"), split="test", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["none.txt", "none.csv", "none.jsonl", "none.json", "none.parquet"])
def test_an_empty_file(tmp_path: Path, name: str, streaming: bool) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=f"{name}: split 'train' has no rows; nothing can be done with it"):
        opened(tmp_path / name, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["none.csv", "none.json", "none.txt.gz", "none.parquet", "saved"])
def test_a_dataset_of_no_rows(tmp_path: Path, name: str, streaming: bool) -> None:
    path, table = tmp_path / name, pa.table({"text": pa.array([], pa.string())})
    if name == "saved":
        datasets.Dataset(table).save_to_disk(path)
    elif name == "none.parquet":
        pq.write_table(table, path)
    else:
        path.write_bytes({".csv": b"text\n", ".json": b"[]", ".gz": gzip.compress(b"")}[path.suffix])
    with pytest.raises(DatasetError, match=name):
        list(opened(path, streaming=streaming).shards())


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file of a known kind"):
        opened(tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("cut.json", b'[{"text": "a"}, {"te'),
        ("quote.jsonl", b'{"text": "a"}\n{"text": "b}\n{"text": "c"}\n'),
        ("surrogate.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n'),
        ("not.parquet", b"PAR1 but nothing more"),
        ("not.arrow", b"nothing"),
        ("ragged.csv", b"text\na\nb,c\n"),
        ("latin1.txt", b"caf\xe9\n"),
        ("cut.txt.gz", gzip.compress(os.urandom(4_000).hex().encode())[:900]),
    ],
)
def test_a_broken_file(tmp_path: Path, name: str, contents: bytes, streaming: bool) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(DatasetError) as caught:
        rows_of(opened(tmp_path / name, streaming=streaming))
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "cannot be" in str(caught.value)
    assert "\n" not in str(caught.value)
