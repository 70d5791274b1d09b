"""JSON files: every form of them gives the same rows, and types follow from all values of a column."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dataset_files import open_source, read_malformed, read_rows, read_texts
from lengthwise.config import DatasetSettings
from lengthwise.data import json_values, tables
from lengthwise.data.files import DataFile
from lengthwise.errors import DatasetError

STREAMING = pytest.mark.parametrize("streaming", [False, True])


def to_ids(folder: Path, contents: str, name: str = "rows.jsonl", **changes: Any) -> list[Any]:
    """The ids of a file."""
    (folder / name).write_text(contents)
    return [row["id"] for row in read_rows(open_source(folder / name, keep_columns=("id",), **changes))]


def lines(*literals: str) -> str:
    return "".join(f'{{"text": "a", "id": {literal}}}\n' for literal in literals)


# Types


@STREAMING
@pytest.mark.parametrize(
    ("literals", "expected"),
    [
        (["1", '"x2"'], ["1", "x2"]),
        (["1", "2", "null"], [1, 2, None]),
        (["1.5", "2"], [1.5, 2.0]),
        (["9007199254740993", "1.5"], ["9007199254740993", "1.5"]),
        (["123456789012345678901234567890", "5"], ["123456789012345678901234567890", "5"]),
        (["18446744073709551615"], ["18446744073709551615"]),
        (["1e400", "1"], ["1e400", "1"]),
        (["1.10", '"x"', "true", '{"a": [1]}'], ["1.10", "x", "true", '{"a": [1]}']),
        (["true", "0"], ["true", "0"]),
        (["true", "null"], [True, None]),
        (['"2020-01-01"', '"2020"'], ["2020-01-01", "2020"]),
        (['{"a": 1}', '{"b": "x"}', "null"], [{"a": 1, "b": None}, {"a": None, "b": "x"}, None]),
        (['{"a": 1}', '{"a": "x"}'], ['{"a": 1}', '{"a": "x"}']),
        (["[1]", "[]", "[2.5]"], [[1.0], [], [2.5]]),
        (["[1]", '{"a": 1}'], ["[1]", '{"a": 1}']),
        (['[[0, 4, "x"]]', "[[1]]"], ['[[0, 4, "x"]]', "[[1]]"]),
        (['"72057594038135102"', '"1344800117571260417"'], ["72057594038135102", "1344800117571260417"]),
        (["null", "null"], [None, None]),
    ],
)
def test_type_of_a_column_holds_all_its_values(
    tmp_path: Path, literals: list[str], expected: list[Any], streaming: bool
) -> None:
    assert to_ids(tmp_path, lines(*literals), streaming=streaming) == expected


@STREAMING
@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("1", '"x2"', ("1", "x2")),
        ("null", '"x"', (None, "x")),
        ("null", "5", (None, 5)),
        ("null", '"2020-01-01T00:00:00Z"', (None, "2020-01-01T00:00:00Z")),
        ("1", "1.5", (1.0, 1.5)),
        ("[]", '[{"id": 1, "src": "x"}]', ([], [{"id": 1, "src": "x"}])),
    ],
)
def test_first_rows_decide_nothing_about_later_ones(
    tmp_path: Path, first: str, last: str, expected: tuple[Any, Any], streaming: bool
) -> None:
    ids = to_ids(tmp_path, lines(*[first] * 10_001, last), streaming=streaming)
    assert (ids[0], ids[-1]) == expected


@STREAMING
def test_text_that_is_null_for_long(tmp_path: Path, streaming: bool) -> None:
    rows = '{"text": null}\n{"other": 1}\n' * 6_000 + '{"text": "late"}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    assert read_texts(tmp_path / "rows.jsonl", streaming=streaming) == [None] * 12_000 + ["late"]


@STREAMING
def test_files_share_their_types(tmp_path: Path, streaming: bool) -> None:
    for name, literal in (("a", "1"), ("b", '"x"'), ("c", "null")):
        (tmp_path / f"{name}.jsonl").write_text(lines(literal))
    rows = read_rows(open_source(tmp_path / "*.jsonl", keep_columns=("id",), streaming=streaming))
    assert [row["id"] for row in rows] == ["1", "x", None]


@STREAMING
def test_text_that_is_a_number(tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": 7.50}\n')
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: the column 'text': 7\.50 is not a string"):
        read_texts(path, streaming=streaming)
    assert read_texts(path, streaming=streaming, types={"text": "string"}) == ["a", "7.50"]


@STREAMING
@pytest.mark.parametrize("literal", ['"x"', "1.5", "true", "123456789012345678901234567890", "[1]"])
def test_value_that_does_not_have_the_declared_type(tmp_path: Path, literal: str, streaming: bool) -> None:
    types = {"id": "int64"}
    assert to_ids(tmp_path, lines("1", '"5"', "null"), types=types, streaming=streaming) == [1, 5, None]
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: the column 'id': .* is not of the type int64"):
        to_ids(tmp_path, lines("1", literal), types=types, streaming=streaming)


# Forms

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["id", "x", "y"]), _VALUES, max_size=3), max_size=8),
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
    streaming=st.booleans(),
)
def test_every_form_gives_the_same_rows(
    new_folder: Callable[[], Path], rows: list[dict[str, Any]], indent: int | None, is_ascii: bool, streaming: bool
) -> None:
    rows = [{"text": f"row {number}", **row} for number, row in enumerate([{"id": 1}, *rows])]

    def dump(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=is_ascii)

    forms: dict[str, tuple[str, dict[str, Any]]] = {
        "lines": ("\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows), {}),
        "array": (dump(rows), {}),
        "objects": ("\n".join(map(dump, rows)), {}),
        "joined": ("".join(json.dumps(row) for row in rows), {}),
        "field": (dump({"version": [{}], "data": rows, "more": None}), {"field": "data"}),
        "fields": (dump({"data": {"id": 1, "rows": rows}}), {"field": "data.rows"}),
    }
    folder, found = new_folder(), []
    for name, (contents, changes) in forms.items():
        (folder / f"{name}.json").write_bytes(contents.encode("utf-8", "surrogatepass"))
        source = open_source(folder / f"{name}.json", keep_columns=("id",), streaming=streaming, **changes)
        found.append(read_rows(source))
    assert all(form == found[0] for form in found)
    assert [row["text"] for row in found[0]] == [row["text"] for row in rows]
    if all(type(row.get("id")) in (type(None), str) for row in rows[1:]):
        assert [row["id"] for row in found[0][1:]] == [row.get("id") for row in rows[1:]]


def test_large_array_is_decoded_in_parts(tmp_path: Path) -> None:
    rows = [{"text": f"{number} " + "x" * 100, "id": number} for number in range(10_000)]
    (tmp_path / "rows.json").write_text(json.dumps({"data": rows}))
    assert read_rows(open_source(tmp_path / "rows.json", keep_columns=("id",), field="data")) == rows


def test_several_objects_of_a_line_are_rows(tmp_path: Path) -> None:
    assert to_ids(tmp_path, '{"text":"a","id":1}{"text":"b","id":2} {"text":"c","id":3}\n{"text":"d","id":4}') == [
        1,
        2,
        3,
        4,
    ]


# Malformed rows


@STREAMING
@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ('{"text": "a"},\n{"text": "b"},\n', "line 1: not valid JSON: a comma after the object"),
        ('{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', "line 2: not valid JSON: Expecting ',' delimiter"),
        ('{"text": "a"}\n[1, 2]\n', r"line 2: \[1, 2\] is not an object"),
        ('{"text": "a"}\n5\n', "line 2: 5 is not an object, such as"),
        ('{"text": "a"}\n{"text": "b\n', r"line 2: not valid JSON: Unterminated string starting at column 10\)"),
        ('{"text": "a"}\n{"text": "b", "text": "c"}\n', "line 2: the field 'text' is written twice"),
        ('[\n{"text": "a"},\n{"text": "b"},\n]', "line 4: not valid JSON"),
        ('[\n{"text": "a"}\n{"text": "b"}\n]', "line 3: not valid JSON: '{' where"),
        ('{\n"text": "a"\n}\n{\n"text": \n}', "line 6: not valid JSON"),
        ('{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: the column 'text': a lone surrogate"),
        ('{"text": "a"}\n' + "[" * 100_000, "line 2: not valid JSON: nested too deeply"),
    ],
)
def test_malformed_row_is_an_error_with_its_line(tmp_path: Path, contents: str, problem: str, streaming: bool) -> None:
    (tmp_path / "rows.json").write_text(contents)
    with pytest.raises(DatasetError, match=rf"the rows cannot be read \(rows\.json, {problem}"):
        read_texts(tmp_path / "rows.json", streaming=streaming)


@STREAMING
def test_malformed_lines_can_be_kept(tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a", "id": 1}\n{"text": "b",\n{"text": 5, "id": 2}\nnull\n{"text": "\xe9", "id": 3}\n')
    rows, malformed = read_malformed(path, keep_columns=("id",), streaming=streaming)
    assert [(row["text"], row["id"]) for row in rows] == [
        ("a", 1),
        ('{"text": "b",', None),
        ("5", None),
        (None, None),
        ("\\xe9", None),
    ]
    assert [reason[:19] for reason in malformed.values()] == [f"rows.jsonl, line {line}:" for line in (2, 3, 5)]


@STREAMING
@pytest.mark.parametrize("value", ['{"b": 1, "b": 2}', '[{"b": 1, "b": 2}]', '{"a": {"b": [[{"b": 1, "b": 1}]]}}'])
def test_repeated_field_of_a_nested_value(tmp_path: Path, value: str, streaming: bool) -> None:
    """As one of the row itself."""
    contents = lines('{"b": 1}', value)
    with pytest.raises(DatasetError, match=r"line 2: the field 'b' of the column 'id' is written twice in one object"):
        to_ids(tmp_path, contents, streaming=streaming)
    assert read_texts(tmp_path / "rows.jsonl", streaming=streaming) == ["a", "a"]  # which needs no such column
    with pytest.raises(DatasetError, match="written twice"):
        to_ids(tmp_path, contents, types={"id": "string"}, streaming=streaming)


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a": ', "}")])
@pytest.mark.parametrize("depth", [20, 33, 64, 200])
def test_deep_values_are_strings(tmp_path: Path, start: str, end: str, depth: int) -> None:
    """Arrow cannot write a type of more than 63 levels."""
    literal = start * depth + "1" + end * depth
    (found,) = to_ids(tmp_path, lines(literal))
    assert found == (json.loads(literal) if depth <= 32 else literal)


@STREAMING
@pytest.mark.parametrize("second", ['["b", 2]', '["b"]', "[1]"])
def test_lines_that_are_arrays_are_refused(tmp_path: Path, second: str, streaming: bool) -> None:
    (tmp_path / "rows.jsonl").write_text(f'["a", 1]\n{second}\n')
    with pytest.raises(DatasetError, match=r"each line of rows\.jsonl is an array; rows are objects"):
        read_texts(tmp_path / "rows.jsonl", streaming=streaming)


def test_strings_have_the_column_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('"a"\n"b"\n')
    assert read_texts(tmp_path / "rows.jsonl") == ["a", "b"]
    with pytest.raises(DatasetError, match=r"no column 'body'.*rows that are strings have the column 'text'"):
        read_texts(tmp_path / "rows.jsonl", text_column="body")


def test_repeated_field_that_is_not_needed(tmp_path: Path) -> None:
    assert to_ids(tmp_path, '{"text": "a", "x": 1, "x": 2, "id": 3}\n') == [3]


@STREAMING
@pytest.mark.parametrize(
    ("contents", "field", "message"),
    [
        ('{"version": 1, "data": [{"text": "a"}]}', None, r"no column 'text'.*'data'.*set dataset\.field.*'data'"),
        ('{"version": 1, "data": [{"text": "a"}]}', "rows", r"no field 'rows'; set dataset\.field to .*'version', 'da"),
        ('[{"text": "a"}]', "data", r"there is no object that could have the field 'data'"),
        ('{"data": [{"text": "a"}], "x": [1', "data", r"not valid JSON"),
        ('{"text": {"0": "a"}}', None, r"the column 'text' is .*, not text"),
        ("{}", None, "no rows"),
        ("[]", None, "no rows"),
    ],
)
def test_nested_file(tmp_path: Path, contents: str, field: str | None, message: str, streaming: bool) -> None:
    (tmp_path / "rows.json").write_text(contents)
    with pytest.raises(DatasetError, match=message):
        read_texts(tmp_path / "rows.json", field=field, streaming=streaming)


# Numbers as they are written, deep values, and how far a mistake is searched


@STREAMING
@pytest.mark.parametrize("number", ["1e400", "-1E+400", "0.10", "-0", "-0.0", "1.00000000000000000001", "12e0"])
def test_numbers_of_text_are_as_written(tmp_path: Path, number: str, streaming: bool) -> None:
    nested = f'{{"é": [{number}, "x\\"", null, true], "b": {{}}, "c": []}}'
    expected = [f'{{"é": [{number}, "x\\"", null, true], "b": {{}}, "c": []}}', number, "x"]
    assert to_ids(tmp_path, lines(nested, number, '"x"'), streaming=streaming) == expected


@STREAMING
def test_nested_numbers_are_numbers_where_the_type_holds_them(tmp_path: Path, streaming: bool) -> None:
    found = to_ids(tmp_path, lines('{"a": [0.5, 2]}', '{"a": [-0, 1e3]}'), streaming=streaming)
    assert found == [{"a": [0.5, 2.0]}, {"a": [0.0, 1000.0]}]
    assert to_ids(tmp_path, lines("-0", "2"), "ints.jsonl", streaming=streaming) == [0, 2]
    wide = to_ids(tmp_path, lines('{"a": 1e400}', '{"a": 0.50}'), "wide.jsonl", streaming=streaming)
    assert wide == ['{"a": 1e400}', '{"a": 0.50}']


@pytest.mark.parametrize("depth", [700, 100_000])
@pytest.mark.parametrize("first", [True, False])
def test_deep_value_is_a_row_of_its_line(tmp_path: Path, depth: int, first: bool) -> None:
    """Whether it is read or malformed, the other rows are there."""
    deep = f'{{"text": "deep", "id": {"[" * depth}1.5{"]" * depth}}}\n'
    contents = deep + lines("1") if first else lines("1") + deep
    (tmp_path / "rows.jsonl").write_text(contents)
    rows, malformed = read_malformed(tmp_path / "rows.jsonl", keep_columns=("id",), types={"id": "string"})
    assert len(rows) == 2
    assert rows[1 if first else 0]["id"] == "1"
    if depth > 1_000:
        assert list(malformed) == [0 if first else 1]
        assert f"line {1 if first else 2}: not valid JSON: nested too deeply" in next(iter(malformed.values()))
    else:
        assert not malformed
        assert rows[0 if first else 1]["id"] == "[" * depth + "1.5" + "]" * depth


def test_mistake_in_a_document_is_an_error_before_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO('[{"text": "a"},\n {"text" "b"},\n' + ' {"text": "c"},\n' * 200_000 + ' {"text": "d"}]')
    monkeypatch.setattr(json_values, "open_text", lambda *arguments, **options: contextlib.nullcontext(text))
    with pytest.raises(DatasetError, match=r"line 2: .*Expecting ':'"):
        list(json_values.read_values(DataFile("rows.json"), DatasetSettings(path="rows.json")))
    assert text.tell() < 2**20


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
def test_document_is_read_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Blocks end within numbers, literals and escapes."""
    values = [{"text": 'a\U0001f600"\\\n', "x": [1.5e-7, -12, True, None, False]}, {"text": "", "x": {"é": 1e300}}]
    (tmp_path / "rows.json").write_text(json.dumps(values, indent=2))
    monkeypatch.setattr(json_values, "_READ_CHARACTERS", size)
    found = json_values.read_values(DataFile(str(tmp_path / "rows.json")), DatasetSettings(path="rows.json"))
    assert [tables.to_plain(value) for _, value in found] == values
