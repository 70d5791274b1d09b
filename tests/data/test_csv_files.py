"""CSV and tab-separated files: cells as they are written, and malformed rows by file and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dataset_files import open_source, read_malformed, read_rows, read_texts
from lengthwise.data import csv_files
from lengthwise.errors import ConfigError, DatasetError

STREAMING = pytest.mark.parametrize("streaming", [False, True])
LOOKS = ["007", "1.10", "1e5", "9007199254740993", "1.0", "True", "2020-01-01", "NaN", "null", "NA", "-", " 7", "A12"]


def to_rows(folder: Path, contents: str | bytes, name: str = "rows.csv", **changes: Any) -> list[tuple[Any, ...]]:
    """The texts and ids of a file."""
    path = write_file(folder / name, contents)
    return [(row["text"], row["id"]) for row in read_rows(open_source(path, keep_columns=("id",), **changes))]


def write_file(path: Path, contents: str | bytes) -> Path:
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return path


def pack(name: str, contents: bytes) -> bytes:
    if name.endswith(".zip"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name.removesuffix(".zip"), contents)
        return file.getvalue()
    return {"gz": gzip.compress, "bz2": bz2.compress}.get(name.rpartition(".")[2], bytes)(contents)


# Cells


@STREAMING
def test_kept_column_is_what_the_file_holds(tmp_path: Path, streaming: bool) -> None:
    contents = "text,id\n" + "".join(f"a,{look}\n" for look in LOOKS) + "b,\n"
    assert to_rows(tmp_path, contents, streaming=streaming) == [*(("a", look) for look in LOOKS), ("b", None)]


@STREAMING
@pytest.mark.parametrize("look", LOOKS)
def test_each_look_alone_is_a_string(tmp_path: Path, look: str, streaming: bool) -> None:
    """A guess of the type would succeed for a column of one look."""
    assert to_rows(tmp_path, f"id,text\n{look},a\n{look},b\n", streaming=streaming) == [("a", look), ("b", look)]


@STREAMING
@pytest.mark.parametrize(("first", "last"), [(",1", "late,2"), ("early,1", "late,A12"), ("early,", "late,7")])
def test_first_rows_decide_nothing_about_later_ones(tmp_path: Path, first: str, last: str, streaming: bool) -> None:
    rows = to_rows(tmp_path, "text,id\n" + f"{first}\n" * 10_001 + f"{last}\n", streaming=streaming)
    assert rows[0] == tuple(cell or None for cell in first.split(","))
    assert rows[-1] == tuple(last.split(","))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=6)] * 2)),
    delimiter=st.sampled_from(",;\t|"),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    ending_of_names=st.sampled_from([".csv", ".csv.gz", ".csv.bz2", ".csv.zip"]),
    all_quoted=st.booleans(),
    streaming=st.booleans(),
)
def test_written_cells_are_read_as_they_are(
    new_folder: Callable[[], Path],
    rows: list[tuple[str, str]],
    delimiter: str,
    ending: str,
    ending_of_names: str,
    all_quoted: bool,
    streaming: bool,
) -> None:
    if not all_quoted:  # the writer does not quote every line break
        rows = [(text.replace("\r", "").replace("\n", ""), "1") for text, _ in rows]
    rows = [("first", "0"), *rows]
    file = io.StringIO(newline="")
    writer = csv.writer(
        file, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    )
    writer.writerows([("text", "id"), *rows])
    name = f"rows{ending_of_names}"
    contents = pack(name, file.getvalue().encode())
    changes = {"csv": {"delimiter": delimiter, "quoting": "standard"}, "streaming": streaming}
    expected = [(text or None, number or None) for text, number in rows]
    assert to_rows(new_folder(), contents, name, **changes) == expected


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("text,id\r\n\r\na,1\r\n\r\n\r\nb,2\r\n\r\n", [("a", "1"), ("b", "2")]),
        ("text,id\ra,1\rb,2", [("a", "1"), ("b", "2")]),
        ('text,id\n"a\r\nb,\n",1\n', [("a\r\nb,\n", "1")]),
        ('text,id\n5" disk,1\n"6"" disk",2\n', [('5" disk', "1"), ('6" disk', "2")]),
        ("id,x,text,x\n1,2,a,3\n", [("a", "1")]),
        ("text,id,\na,1,\n", [("a", "1")]),
        ("text,id\n" + "x" * 200_000 + ",1\n", [("x" * 200_000, "1")]),
        ("text,id\na\0b,1\n", [("a\0b", "1")]),
        ("\ufefftext,id\na,1\n", [("a", "1")]),
    ],
)
def test_forms_of_files(tmp_path: Path, contents: str, expected: list[tuple[Any, ...]]) -> None:
    assert to_rows(tmp_path, contents) == expected


# Malformed rows


@STREAMING
@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ("text,id\nhello world,11,\ngood day,12,\n", "line 2: 3 cells, but the header has 2"),
        ("text,id\na,1\n\nb\n", "line 4: 1 cell, but the header has 2"),
        ("text,id\na,1\nhello, world,2\n", "line 3: 3 cells, but the header has 2"),
        ('text,id\n"a\nb",1\nc,2,3\n', "line 4: 3 cells"),
        ('text,id\na,1\n"b,2\nc,3\n', "line 3: the quotes of a cell do not fit up to line 4"),
        ('text,id\n"a" b,1\n', "line 2: the quotes of a cell do not fit"),
        ('text,id\n"say \\"hi\\", you",1\n', "line 2: the quotes of a cell do not fit"),
    ],
)
def test_malformed_row_is_an_error_with_its_line(tmp_path: Path, contents: str, problem: str, streaming: bool) -> None:
    with pytest.raises(DatasetError, match=rf"cannot be read \(rows\.csv, {problem}.*encode\.bad_rows to quarantine"):
        to_rows(tmp_path, contents, streaming=streaming)


@STREAMING
def test_malformed_rows_can_be_kept(tmp_path: Path, streaming: bool) -> None:
    contents = 'text,id\na,1,\nb,2\n"c,3\nd\ne,5\n'
    path = write_file(tmp_path / "rows.csv", contents)
    rows, malformed = read_malformed(path, keep_columns=("id",), streaming=streaming, shard_rows=2)
    assert [row["text"] for row in rows] == ["a,1,", "b", '"c,3', "d", "e"]
    assert [row["id"] for row in rows] == [None, "2", None, None, "5"]
    assert list(malformed) == [0, 2, 3]
    assert malformed[0] == "rows.csv, line 2: 3 cells, but the header has 2"
    assert malformed[2].startswith("rows.csv, line 4: the quotes of a cell do not fit up to line 6")
    assert list(open_source(path, keep_malformed=True).texts()) == ["b", "e"]


STRAY = 'text\tid\n"hello\t1\nworld"\t2\nlast\t3\n'


@STREAMING
def test_stray_quotes_of_a_tab_separated_file_swallow_no_row(tmp_path: Path, streaming: bool) -> None:
    with pytest.raises(DatasetError, match=r"line 2: a quoted cell goes on to line 3, but .* dataset\.csv\.quoting"):
        to_rows(tmp_path, STRAY, "rows.tsv", streaming=streaming)
    as_text = to_rows(tmp_path, STRAY, "rows.tsv", streaming=streaming, csv={"quoting": "none"})
    assert as_text == [('"hello', "1"), ('world"', "2"), ("last", "3")]
    standard = to_rows(tmp_path, STRAY, "rows.tsv", streaming=streaming, csv={"quoting": "standard"})
    assert standard == [("hello\t1\nworld", "2"), ("last", "3")]


@STREAMING
@pytest.mark.parametrize(
    "contents",
    [
        'text,id\n"hello,1\nworld",2\nlast,3\n',
        'text,id\n"hello,1\nx,2\nworld",3\n',
        'id,text\n1,"hello\n2,world"\n3,last\n',
        'text,id\n"the cat,1\nthe dog",2\n',
    ],
)
def test_few_rows_between_stray_quotes_are_no_cell(tmp_path: Path, contents: str, streaming: bool) -> None:
    """Of two columns too: the delimiters are not those of a sentence."""
    with pytest.raises(DatasetError, match=r"line 2: a quoted cell goes on to line [34], but .* dataset\.csv\.quoting"):
        to_rows(tmp_path, contents, streaming=streaming)
    assert to_rows(tmp_path, contents, csv={"quoting": "none"}, streaming=streaming)[0][1] == "1"


@pytest.mark.parametrize(
    "cell", ["Dear John,\nhello", "Hello, world\nbye", "It costs 1,000\nor 2,500", "One,\ntwo, three", "a\nb"]
)
def test_sentences_of_several_lines_are_a_cell(tmp_path: Path, cell: str) -> None:
    assert to_rows(tmp_path, f'text,id\n"{cell}",12\n') == [(cell, "12")]
    assert to_rows(tmp_path, f'id,text\n12,"{cell}"\n') == [(cell, "12")]


def test_many_rows_between_stray_quotes_are_no_cell(tmp_path: Path) -> None:
    rows = [f"word {number},{number}" for number in range(20)]
    contents = "\n".join(["text,id", f'"{rows[0]}', *rows[1:-1], f'x",{19}', ""])
    with pytest.raises(DatasetError, match=r"line 2: a quoted cell goes on to line 21"):
        to_rows(tmp_path, contents)


def test_letter_with_commas_is_a_cell(tmp_path: Path) -> None:
    assert to_rows(tmp_path, 'text,id\n"Dear John,\nhello",1\n') == [("Dear John,\nhello", "1")]


# Headers and settings


@STREAMING
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("hello,1\nbye,2\n", r"no columns 'text', 'id'; the columns are 'hello', '1'.*dataset\.csv\.column_names"),
        ("text,id\n", r"no rows.*nothing but a header.*dataset\.csv\.column_names"),
        ("text,id\n\n  \n", r"no rows.*nothing but a header"),
        ("sep=;\ntext;id\na;1\n", r"remove the first line, which only Excel reads, and set dataset\.csv\.delimiter"),
        ("text;id\na;1\n", r"delimiter seems to be ';': set dataset\.csv\.delimiter"),
        ("Text,id\na,1\n", r"no column 'text'.*did you mean 'Text'"),
        ("text,id,id\na,1,2\n", r"rows\.csv has 2 columns 'id'; rename one"),
        ("te\udce9xt,id\na,1\n", r"line 1: byte 3, 0xe9, is not UTF-8; .*likely cp1252.*; fix the line$"),
        ("\n\n", "has no rows"),
    ],
)
def test_header_that_cannot_be_used(tmp_path: Path, contents: str, message: str, streaming: bool) -> None:
    with pytest.raises(DatasetError, match=message):
        to_rows(tmp_path, contents.encode("utf-8", "surrogateescape"), streaming=streaming)


@STREAMING
@pytest.mark.parametrize(
    ("contents", "options"),
    [
        ("a,1\nb,2\n", {"column_names": ["text", "id"]}),
        ("t,n\na,1\nb,2\n", {"column_names": ["text", "id"], "header": True}),
        ("text;id\na;1\nb;2\n", {"delimiter": ";"}),
        ("a|1\nb|2\n", {"delimiter": "|", "column_names": ["text", "id"], "header": False}),
    ],
)
def test_csv_settings(tmp_path: Path, contents: str, options: dict[str, Any], streaming: bool) -> None:
    assert to_rows(tmp_path, contents, csv=options, streaming=streaming) == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("line", ['"say \\"hi\\" to you",1', '"say \\"hi\\", you",1'])
def test_escaped_quotes_without_the_setting_are_refused_with_it(tmp_path: Path, line: str) -> None:
    """Reading quotes as text, which is the remedy for stray ones, would give other texts."""
    with pytest.raises(DatasetError, match=r"line 2: .*; set dataset\.csv\.escape to a backslash") as caught:
        to_rows(tmp_path, f"text,id\n{line}\n")
    assert "dataset.csv.quoting" not in str(caught.value)


def test_escaped_quotes(tmp_path: Path) -> None:
    contents = 'text,id\n"say \\"hi\\", you",1\n'
    assert to_rows(tmp_path, contents, csv={"escape": "\\"}) == [('say "hi", you', "1")]


@pytest.mark.parametrize("quoting", ["standard", "none"])
@pytest.mark.parametrize("escape", ["\\", "^"])
def test_escape_is_text_before_anything_that_needs_none(tmp_path: Path, escape: str, quoting: str) -> None:
    e = escape
    contents = f"text,id\nC:{e}temp{e}new{e},x{e}{e}y{e}n,1\n"
    options = {"escape": escape, "quoting": quoting}
    assert to_rows(tmp_path, contents, csv=options) == [(f"C:{e}temp{e}new,x{e}y{e}n", "1")]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from('ab\\,"\n\r ^t'), min_size=1, max_size=8), min_size=1, max_size=4))
def test_cells_written_with_an_escape_are_read_as_they_are(new_folder: Callable[[], Path], texts: list[str]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL, escapechar="\\", doublequote=False)
    writer.writerows([("text", "id"), *((text, "1") for text in texts)])
    found = to_rows(new_folder(), file.getvalue(), csv={"escape": "\\", "quoting": "standard"})
    assert found == [(text, "1") for text in texts]


def test_malformed_row_with_an_escape_is_shown_as_it_is(tmp_path: Path) -> None:
    path = write_file(tmp_path / "rows.csv", "text,id\na\\b\n")
    rows, _ = read_malformed(path, csv={"escape": "\\"})
    assert [row["text"] for row in rows] == ["a\\b"]


def test_escape_cannot_be_the_delimiter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"csv\.escape is ',', which is the delimiter too"):
        to_rows(tmp_path, "text,id\na,1\n", csv={"escape": ","})


@pytest.mark.parametrize("delimiter", ["\t", "\\t"])
def test_tab_may_be_written_as_an_escape(tmp_path: Path, delimiter: str) -> None:
    assert to_rows(tmp_path, "text\tid\na\t1\n", csv={"delimiter": delimiter}) == [("a", "1")]


@STREAMING
def test_header_within_the_rows_is_malformed(tmp_path: Path, streaming: bool) -> None:
    """As where files were joined, the later ones with a byte order mark too."""
    contents = "text,id\na,1\n\ufefftext,id\ntext , id\nb,text\n"
    with pytest.raises(DatasetError, match=r"line 3: the names of the columns again, as where files were joined"):
        to_rows(tmp_path, contents, streaming=streaming)
    rows, malformed = read_malformed(tmp_path / "rows.csv", keep_columns=("id",), streaming=streaming)
    assert [row["id"] for row in rows] == ["1", None, None, "text"]
    assert list(malformed) == [1, 2]
    with pytest.raises(DatasetError, match=r"line 1: the names of the columns again.* dataset\.csv\.header to true"):
        to_rows(tmp_path, "text,id\na,1\n", csv={"column_names": ["text", "id"]}, streaming=streaming)
    assert read_texts(write_file(tmp_path / "one.csv", "text\na\ntext\n")) == ["a", "text"]


@STREAMING
def test_declared_types(tmp_path: Path, streaming: bool) -> None:
    types = {"id": "int64"}
    assert to_rows(tmp_path, "text,id\na,007\nb,\n", types=types, streaming=streaming) == [("a", 7), ("b", None)]
    with pytest.raises(DatasetError, match=r"rows\.csv, line 3: the column 'id': 'A12' is not of the type int64"):
        to_rows(tmp_path, "text,id\na,7\nb,A12\n", types=types, streaming=streaming)
    for cell in ("0x10", "0xffffffffffffffff", "-0X1", "+7", "7.0"):
        with pytest.raises(
            DatasetError, match=rf"line 2: the column 'id': '{re.escape(cell)}' is not of the type int64"
        ):
            to_rows(tmp_path, f"text,id\na,{cell}\n", types=types, streaming=streaming)
    for name, cell, value in (("float64", "1.50", 1.5), ("bool", "true", True)):
        assert to_rows(tmp_path, f"text,id\na,{cell}\n", types={"id": name}, streaming=streaming) == [("a", value)]


def test_cell_of_another_type_makes_its_row_malformed(tmp_path: Path) -> None:
    path = write_file(tmp_path / "rows.csv", "text,id\na,7\nb,A12\n")
    rows, malformed = read_malformed(path, keep_columns=("id",), types={"id": "int64"})
    assert rows == [{"text": "a", "id": 7}, {"text": "b", "id": None}]
    assert malformed.keys() == {1}


@STREAMING
def test_files_are_joined_by_the_names_of_their_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, streaming: bool
) -> None:
    for name, contents in (("a", "text,id\na,1\n"), ("b", "id,x,text\n2,y,b\n"), ("c", "text,z\nc,0\n")):
        write_file(tmp_path / f"{name}.csv", contents)
    with caplog.at_level(logging.WARNING, "lengthwise"):
        rows = read_rows(open_source(tmp_path / "*.csv", keep_columns=("id",), streaming=streaming))
    assert rows == [{"text": "a", "id": "1"}, {"text": "b", "id": "2"}, {"text": "c", "id": None}]
    assert "c.csv has no column 'id'; its rows have null there" in caplog.text
    write_file(tmp_path / "d.csv", "txt,id\nd,4\n")
    with pytest.raises(DatasetError, match=r"d\.csv has no column 'text'.*did you mean 'txt'"):
        read_texts(tmp_path / "*.csv", streaming=streaming)


def test_settings_that_change_rows_change_the_fingerprint(tmp_path: Path) -> None:
    path = write_file(tmp_path / "rows.csv", "text,id\na,1\n")
    changes: list[dict[str, Any]] = [
        {},
        {"csv": {"quoting": "none"}},
        {"csv": {"column_names": ["text", "number"]}},
        {"encoding": "latin-1"},
        {"types": {"id": "int64"}},
    ]
    assert len({open_source(path, **change).fingerprint for change in changes}) == len(changes)


def test_dataset_card_declares_delimiter_and_types(tmp_path: Path) -> None:
    write_file(tmp_path / "rows.csv", "text;id\na;007\nb;8\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n  sep: ;\n---\n"
    write_file(tmp_path / "README.md", card)
    rows = read_rows(open_source(tmp_path, keep_columns=("id",)))
    assert rows == [{"text": "a", "id": "007"}, {"text": "b", "id": "8"}]


def test_stray_quote_does_not_read_the_rest_of_the_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "rows.csv", 'text,id\n"a,1\n' + "b,2\n" * 30_000)
    rows, malformed = read_malformed(path, keep_columns=("id",))
    assert len(rows) == 30_001
    assert list(malformed) == [0]
    assert re.search(r"line 2: .*up to line 10002 .*more than 10,000 lines.*csv\.quoting", malformed[0])


def test_row_of_several_lines_has_a_limit_of_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_MAX_ROW_CHARACTERS", 1_000)
    path = write_file(tmp_path / "rows.csv", f'text\n"a\n{"b" * 900}\nc"\n"d\n{"e" * 1_000}\nf\n{"g" * 2_000}\n')
    rows, malformed = read_malformed(path)
    assert [row["text"] for row in rows] == [f"a\n{'b' * 900}\nc", '"d', "e" * 1_000, "f", "g" * 2_000]
    assert list(malformed) == [1]
