"""Opening a dataset: every way to name it gives the same rows, in order, and every error names the remedy."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from datasets.data_files import FILES_TO_IGNORE
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dataset_files import (
    ROW_TEXTS,
    ROWS,
    open_source,
    read_rows,
    read_texts,
    rows_as_read,
    write,
)
from lengthwise.config import DatasetSettings
from lengthwise.data.dataset import open_dataset
from lengthwise.data.readers import SETTINGS_FILES
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
def test_every_file_format_gives_the_same_rows(tmp_path: Path, name: str, streaming: bool) -> None:
    source = open_source(write(tmp_path / name), keep_columns=("id",), streaming=streaming)
    assert source.num_rows == (None if streaming else len(ROWS))
    assert read_rows(source) == rows_as_read(name)
    assert source.num_rows == len(ROWS)  # of a stream, once it was read


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.txt", "rows.txt.gz"])
def test_text_file_has_the_text_column_only(tmp_path: Path, name: str, streaming: bool) -> None:
    assert read_rows(open_source(write(tmp_path / name), streaming=streaming)) == [{"text": text} for text in ROW_TEXTS]


def test_format_can_be_set_for_an_unknown_extension(tmp_path: Path) -> None:
    path = shutil.copy(write(tmp_path / "rows.jsonl"), tmp_path / "rows.data")
    with pytest.raises(DatasetError, match=r"rows\.data: no file of a known format; set dataset\.format to one of a"):
        open_source(path)
    assert read_texts(path, format="json") == ROW_TEXTS


@pytest.mark.parametrize("streaming", [False, True])
def test_glob_reads_its_files_in_order_of_their_names(tmp_path: Path, streaming: bool) -> None:
    for name, rows in (("b.jsonl", ROWS[2:4]), ("a.jsonl", ROWS[:2]), ("sub/c.jsonl", ROWS[4:])):
        write(tmp_path / name, rows)
    assert read_texts(tmp_path / "*.jsonl", streaming=streaming) == ROW_TEXTS[:4]
    assert read_texts(tmp_path / "**/*.jsonl", streaming=streaming) == ROW_TEXTS


def test_existing_file_name_is_not_read_as_a_glob(tmp_path: Path) -> None:
    write(tmp_path / "[ab].txt", ROWS[:1])
    write(tmp_path / "a.txt", ROWS[1:])
    assert read_texts(tmp_path / "[ab].txt") == ROW_TEXTS[:1]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("folder", ["data", "data [v1]"])
def test_folder_is_split_by_its_file_names(tmp_path: Path, folder: str, streaming: bool) -> None:
    write(tmp_path / folder / "train-1.csv", ROWS[:2])
    write(tmp_path / folder / "train-2.csv", ROWS[2:4])
    write(tmp_path / folder / "test.csv", ROWS[4:])
    assert read_texts(tmp_path / folder, streaming=streaming) == ROW_TEXTS[:4]
    assert read_texts(tmp_path / folder, split="test", streaming=streaming) == ROW_TEXTS[4:]
    with pytest.raises(DatasetError, match=r"split 'dev' cannot be loaded \(.*'train', 'test'"):
        open_source(tmp_path / folder, split="dev", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_other_files_of_a_folder_are_ignored(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "rows.txt")
    for other in ("LICENSE", "README.md", "notes.md", ".hidden.txt", "_SUCCESS", ".git/a.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("not a row\n")
    assert read_texts(tmp_path, streaming=streaming) == ROW_TEXTS


@pytest.mark.parametrize("streaming", [False, True])
def test_hidden_and_temporary_files_are_ignored(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "rows.txt")
    first = open_source(tmp_path).fingerprint
    for other in ("_draft.txt", "_log/a.txt", ".rows.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("not a row\n")
    assert read_texts(tmp_path, streaming=streaming) == ROW_TEXTS
    assert open_source(tmp_path).fingerprint == first


def test_files_that_no_split_would_have_are_refused(tmp_path: Path) -> None:
    for name in ("reviews", "notes", "train"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    message = r"notes\.txt, reviews\.txt would not be read, since .* names of splits \(train: train\.txt\); .* a glob"
    with pytest.raises(DatasetError, match=message):
        open_source(tmp_path)
    assert read_texts(tmp_path / "*.txt") == ["notes", "reviews", "train"]


def test_files_that_a_folder_skips_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    for path in (folder / "a.txt", folder / "_b.txt", folder / "c.dat", other / "d.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("moon\n")
    (folder / "link").symlink_to(other)
    assert read_texts(folder, format="text") == ["moon"]
    (record,) = caplog.records
    for skipped in ("_b.txt (its path has a name", "c.dat (its extension", "link (a link to a folder)", "to a glob"):
        assert skipped in record.getMessage()


@pytest.mark.parametrize("path", ["rows", "rows/*.csv", "rows/b.csv"])
def test_link_to_a_file_that_is_not_there_is_named(tmp_path: Path, path: str) -> None:
    """As clones of git-annex and DVC have them; its rows would be missing."""
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows/a.csv")
    for name in ("b.csv", "notes.md"):
        (tmp_path / "rows" / name).symlink_to(tmp_path / "store/b")
    with pytest.raises(
        DatasetError, match=r"b\.csv is a link to .*store/b, which is not there; get that file, or remove"
    ):
        open_source(tmp_path / path)
    (tmp_path / "rows/b.csv").unlink()
    assert read_texts(tmp_path / "rows") == ROW_TEXTS


@pytest.mark.parametrize("name", ["_rows.csv", ".rows.csv"])
def test_folder_of_files_with_hidden_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    message = rf"all data files have names that begin with \. or _ \({re.escape(name)}\).* to a glob"
    with pytest.raises(DatasetError, match=message):
        open_source(tmp_path)
    assert read_texts(tmp_path / f"{name[0]}*.csv") == ROW_TEXTS


def test_settings_beside_the_data_are_no_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All that `datasets` takes for settings by the name."""
    assert set(SETTINGS_FILES) == set(FILES_TO_IGNORE)
    write(tmp_path / "rows.csv")
    (tmp_path / "dataset_info.json").write_text('{"a": 1}')
    assert read_texts(tmp_path) == ROW_TEXTS
    assert not caplog.records
    write(tmp_path / "json/rows.jsonl")
    (tmp_path / "json/config.json").write_text('{"text": "a"}')
    assert read_texts(tmp_path / "json") == ROW_TEXTS
    assert "not read: config.json (a file of settings by its name)" in caplog.text


def test_name_that_begins_like_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"~rows\.csv: there is no such file here .*, nor a home folder ~rows\.csv"):
        open_source("~rows.csv")
    write(tmp_path / "~rows.csv")
    assert read_texts("~rows.csv") == ROW_TEXTS


@pytest.mark.parametrize("path", ["", "  "])
def test_empty_path_is_refused(path: str) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.path is empty; set it to a file"):
        open_dataset(DatasetSettings(path=path))


@pytest.mark.parametrize("streaming", [False, True])
def test_file_that_matches_a_split_twice_is_read_once(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "train-of-train.txt")
    assert read_texts(tmp_path, streaming=streaming) == ROW_TEXTS


def test_folder_of_several_formats_needs_the_format_setting(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "b.jsonl", ROWS[:1])
    with pytest.raises(DatasetError, match=r"files of several formats \(json, text\); set dataset\.format to one of"):
        open_source(tmp_path)
    assert read_texts(tmp_path, format="json") == ROW_TEXTS[:1]
    assert read_texts(tmp_path, format="text") == ROW_TEXTS


def test_dataset_card_selects_the_files(tmp_path: Path) -> None:
    write(tmp_path / "old/rows.jsonl", ROWS[:1])
    write(tmp_path / "new/rows.jsonl", ROWS[1:])
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: new/*.jsonl\n---\n")
    assert read_texts(tmp_path) == ROW_TEXTS[1:]


def test_folder_is_read_with_the_options_of_its_files(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "NA"}, {"id": 2, "text": "007"}]
    for folder in ("card", "plain"):
        write(tmp_path / folder / "rows.tsv", rows)
        (tmp_path / folder / "LICENSE").write_text("not a row\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: rows.tsv\n---\n"
    (tmp_path / "card/README.md").write_text(card)
    assert read_texts(tmp_path / "plain") == read_texts(tmp_path / "card") == ["NA", "007"]


def test_two_folders_of_one_name_are_cached_apart(tmp_path: Path) -> None:
    for name, rows in (("a", ROWS[:1]), ("b", ROWS[1:])):
        write(tmp_path / name / "data/rows.jsonl", rows)
        card = "---\nconfigs:\n- config_name: default\n  data_files: rows.jsonl\n---\n"
        (tmp_path / name / "data/README.md").write_text(card)
        assert read_rows(open_source(tmp_path / name / "data", keep_columns=("id",))) == rows


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_of_save_to_disk(tmp_path: Path, streaming: bool) -> None:
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:2])
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    assert read_texts(tmp_path / "one", streaming=streaming) == ROW_TEXTS
    assert read_texts(tmp_path / "both", streaming=streaming) == ROW_TEXTS
    assert read_texts(tmp_path / "both", split="test", streaming=streaming) == ROW_TEXTS[:2]
    with pytest.raises(DatasetError, match=r"no split 'dev'; set dataset\.split to one of \['train', 'test'\]"):
        open_source(tmp_path / "both", split="dev", streaming=streaming)


def test_damaged_saved_folder(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"saved: the saved dataset cannot be read \("):
        open_source(tmp_path / "saved")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulates the hub: it has `ROWS` under any name, at a commit."""

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
def test_hub_name(hub: Callable[..., None], streaming: bool) -> None:
    hub("c0ffee")
    source = open_source("someone/some-data.v1", streaming=streaming)
    assert [row["text"] for row in read_rows(source)] == ROW_TEXTS
    assert open_source("someone/some-data.v1").fingerprint == source.fingerprint
    other_split = open_source("someone/some-data.v1", split="test")
    assert len(read_rows(other_split)) == 2
    hub("decaf")
    assert len({source.fingerprint, other_split.fingerprint, open_source("someone/some-data.v1").fingerprint}) == 3


def test_hub_name_that_does_not_exist() -> None:
    with pytest.raises(
        DatasetError, match=r"someone/nothing: neither a local .* hub .* check dataset\.path, .*network"
    ):
        open_source("someone/nothing")


# Texts


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", codec="utf-8"), max_size=5), max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    unfinished=st.sampled_from(["", "x", "\u2028", "\x0c", "\x85", "\x00"]),
    streaming=st.booleans(),
)
def test_text_file_has_one_row_per_line(
    new_folder: Callable[[], Path], lines: list[str], end: str, unfinished: str, streaming: bool
) -> None:
    path = new_folder() / "lines.txt"
    path.write_bytes("".join(line + end for line in ["first", *lines]).encode() + unfinished.encode())
    expected = ["first", *lines, *([unfinished] if unfinished else [])]
    assert read_texts(path, streaming=streaming) == expected


@pytest.mark.parametrize("width", [1_023, 1_000])
def test_no_line_is_lost_at_the_chunks_of_the_reader(tmp_path: Path, width: int) -> None:
    """`datasets` reads 10 MiB at a time; lines of 1,024 bytes end exactly at a chunk's end, others cross it."""
    lines = [f"{number:0{width}d}" for number in range(11_000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    assert read_texts(tmp_path / "lines.txt") == lines


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    for name in ("rows.txt", "rows.csv", "rows.jsonl"):
        path = write(tmp_path / name)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read_texts(path) == ROW_TEXTS


@pytest.mark.parametrize("streaming", [False, True])
def test_only_an_empty_csv_cell_is_null(tmp_path: Path, streaming: bool) -> None:
    words = ["NA", "None", "null", "nan", "N/A", "#N/A", "-nan", "True", "1e3", "007", " ", "-"]
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + "".join(f"{number},{word}\n" for number, word in enumerate(words)) + '98,\n99,""\n')
    assert read_texts(path, streaming=streaming) == [*words, None, None]


def test_numbers_in_a_csv_text_column_are_not_converted(tmp_path: Path) -> None:
    """Pandas infers a type per 10,000 rows."""
    texts = [f"{number:06d}" for number in range(10_001)] + ["a word", "1.50"]
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(texts) + "\n")
    assert read_texts(tmp_path / "rows.csv") == texts


def test_json_strings_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text":"a\\u0000b"}\n{"text":null}\n{"other":1}\n{"text":"\\ud83d\\ude00"}\n{"text":""}')
    assert read_texts(path) == ["a\0b", None, None, "😀", ""]
    path = tmp_path / "strings.json"
    path.write_text('["a", "b"]')
    assert read_texts(path) == ["a", "b"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("words", [["2020-01-01"], ["2020-01-01", "no time"], ["2020-01-01T00:00:00Z", None, "x"]])
def test_text_that_looks_like_a_time_is_not_converted(tmp_path: Path, words: list[str | None], streaming: bool) -> None:
    write(tmp_path / "a.jsonl", [{"text": words[0]}])
    write(tmp_path / "b.jsonl", [{"text": word} for word in words[1:]] or [{"text": "2021-02-03"}])
    assert read_texts(tmp_path / "*.jsonl", streaming=streaming) == [*words, *([] if words[1:] else ["2021-02-03"])]


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
def test_null_json_rows(tmp_path: Path, name: str, contents: bytes, streaming: bool) -> None:
    """pyarrow's reader kills the process if a block begins with a null line."""
    (tmp_path / name).write_bytes(contents)
    assert read_texts(tmp_path / name, streaming=streaming) == [None, "a", None]


@pytest.mark.parametrize("width", [10, 1_000])
def test_null_json_rows_at_the_start_of_a_block(tmp_path: Path, width: int) -> None:
    lines = [json.dumps({"text": "x" * width}), "null", "null"] * (1_000_000 // width)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert read_texts(tmp_path / "rows.jsonl") == ["x" * width, None, None] * (1_000_000 // width)


@pytest.mark.parametrize("contents", [b"null", b"null\nnull\n", b'null, "n": 1}\n', b"nullify\n", b"null[]"])
def test_json_that_begins_with_null_and_has_no_text_column(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(contents)
    with pytest.raises(DatasetError, match=r"rows\.jsonl: "):
        read_rows(open_source(tmp_path / "rows.jsonl"))


def test_texts_leaves_out_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    column = pa.array([b"good", b"\xff\xfe", None, b"\xed\xa0\x80"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    assert list(open_source(tmp_path / "rows.parquet").texts()) == ["good"]


# Errors


def test_path_that_does_not_exist(tmp_path: Path) -> None:
    for missing in ("rows.csv", tmp_path / "rows.csv", tmp_path / "folder", tmp_path / "*.csv", "a/b/c", "~/none.txt"):
        with pytest.raises(DatasetError) as caught:
            open_source(missing)
        assert str(caught.value).startswith(f"{missing}: there is no such file or folder")
        assert "set dataset.path to" in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b.txt", "\ud800.txt", "~unknown-user/rows.txt", "x" * 5_000 + ".txt"])
def test_impossible_path(path: str) -> None:
    with pytest.raises(DatasetError, match=r"set dataset\.path to"):
        open_dataset(DatasetSettings.model_construct(**{**DatasetSettings(path="x").model_dump(), "path": path}))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.csv"])
def test_missing_column_lists_the_existing_ones(tmp_path: Path, name: str, streaming: bool) -> None:
    path = write(tmp_path / name)
    with pytest.raises(DatasetError, match=r"no column 'body'; the columns are 'text', 'id'; set dataset\.text_column"):
        open_source(path, text_column="body", streaming=streaming)
    with pytest.raises(DatasetError, match="there are no columns 'x', 'y'; the columns are"):
        open_source(path, keep_columns=("x", "id", "y"), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("value", "found"), [(7, "int64"), (["a", "b"], "List"), ({"a": "b"}, "'a'"), (1.5, "float")])
def test_text_column_that_does_not_hold_strings(tmp_path: Path, value: Any, found: str, streaming: bool) -> None:
    for name in ("rows.jsonl", "rows.parquet"):
        path = write(tmp_path / name, [{"text": value, "good": "a"}])
        with pytest.raises(
            DatasetError, match=rf"the column 'text' is .*{found}.*, not text; set dataset\.text_column"
        ) as caught:
            open_source(path, streaming=streaming)
        assert ("dataset.types.text to string" in str(caught.value)) != isinstance(value, list | dict)
        assert read_rows(open_source(path, text_column="good", streaming=streaming)) == [{"good": "a"}]


@pytest.mark.parametrize("streaming", [False, True])
def test_file_has_the_split_train_only(tmp_path: Path, streaming: bool) -> None:
    with pytest.raises(DatasetError, match=r"rows\.txt: split 'test' cannot be loaded \(.*train.*check dataset\.split"):
        open_source(write(tmp_path / "rows.txt"), split="test", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["none.txt", "none.csv", "none.jsonl", "none.json", "none.parquet"])
def test_empty_file(tmp_path: Path, name: str, streaming: bool) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=f"{name}: split 'train' has no rows; set dataset.path"):
        open_source(tmp_path / name, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["none.csv", "none.json", "none.txt.gz", "none.parquet", "saved"])
def test_file_without_rows(tmp_path: Path, name: str, streaming: bool) -> None:
    path, table = tmp_path / name, pa.table({"text": pa.array([], pa.string())})
    if name == "saved":
        datasets.Dataset(table).save_to_disk(path)
    elif name == "none.parquet":
        pq.write_table(table, path)
    else:
        path.write_bytes({".csv": b"text\n", ".json": b"[]", ".gz": gzip.compress(b"")}[path.suffix])
    with pytest.raises(DatasetError, match=name):
        list(open_source(path, streaming=streaming).shards())


def test_folder_without_data_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file of a known format"):
        open_source(tmp_path)


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
def test_damaged_file(tmp_path: Path, name: str, contents: bytes, streaming: bool) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(DatasetError) as caught:
        read_rows(open_source(tmp_path / name, streaming=streaming))
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "cannot be" in str(caught.value)
    assert "\n" not in str(caught.value)
