"""What is common to all readers: settings that an input does not use, and types of columns that it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from helpers.dataset_files import ROWS, open_source, read_rows, write
from lengthwise.errors import DatasetError


@pytest.mark.parametrize(
    ("name", "changes", "setting"),
    [
        ("rows.jsonl", {"csv": {"delimiter": ";"}}, r"dataset\.csv\.delimiter is ';', but the format json"),
        ("rows.txt", {"csv": {"header": True, "column_names": ("text",)}}, r"dataset\.csv\.\w+ is .*the format text"),
        ("rows.txt", {"field": "data"}, r"dataset\.field is 'data', but the format text .* in the format json"),
        ("rows.csv", {"field": "data"}, r"dataset\.field is 'data', but the format csv"),
        ("rows.parquet", {"encoding": "cp1252"}, r"dataset\.encoding is 'cp1252', but the format parquet"),
        ("rows.arrow", {"csv": {"quoting": "none"}}, r"dataset\.csv\.quoting is 'none', but the format arrow"),
        ("saved", {"encoding": "utf-16"}, r"dataset\.encoding is 'utf-16', but a saved dataset"),
        ("card", {"field": "data"}, r"dataset\.field is 'data', but the format csv"),
        ("other_card", {"csv": {"delimiter": ";"}}, r"dataset\.csv\.delimiter is ';', but this dataset card"),
    ],
)
def test_setting_that_the_input_does_not_use(tmp_path: Path, name: str, changes: dict[str, Any], setting: str) -> None:
    path = tmp_path / name
    if name == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif name.endswith("card"):
        write(path / "rows.csv")
        option = "  keep_default_na: false\n" if name == "other_card" else ""
        card = f"---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n{option}---\n"
        (path / "README.md").write_text(card)
    else:
        write(path)
    assert len(read_rows(open_source(path))) == len(ROWS)
    with pytest.raises(DatasetError, match=setting):
        open_source(path, **changes)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "rows.arrow", "saved"])
def test_type_of_a_column_that_there_is_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    else:
        write(path)
    with pytest.raises(DatasetError, match=r"dataset\.types names the column 'idd'.*'id'.*did you mean 'id'"):
        open_source(path, types={"idd": "int64"})
    assert len(read_rows(open_source(path, types={"id": "int64"}))) == len(ROWS)  # it need not be kept


def test_type_of_a_column_that_only_a_late_row_has(tmp_path: Path) -> None:
    lines = ['{"text": "a"}\n'] * 1_500 + ['{"text": "a", "late": 1}\n']
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    assert len(read_rows(open_source(tmp_path / "rows.jsonl", types={"late": "int64"}))) == 1_501


@pytest.mark.parametrize("setting", ["name", "revision", "format"])
@pytest.mark.parametrize("kind", ["file", "folder", "url", "saved", "card", "hub"])
def test_selection_that_the_input_does_not_use(
    tmp_path: Path, kind: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: Any = {"file": tmp_path / "rows.csv", "url": f"file://{tmp_path}/rows.csv"}.get(kind, tmp_path / "rows")
    if kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "hub":
        path = "someone/rows"
        monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: pytest.fail("the hub is asked"))
    else:
        write(tmp_path / ("rows.csv" if kind in ("file", "url") else "rows/rows.csv"))
    if kind == "card":
        (path / "README.md").write_text("---\nconfigs:\n- config_name: one\n  data_files: rows.csv\n---\n")
    used = {"hub": ("name", "revision"), "card": ("name", "format"), "saved": ()}.get(kind, ("format",))
    value = {"name": "one", "revision": "main", "format": "csv"}[setting]
    if setting not in used:
        with pytest.raises(DatasetError, match=rf"dataset\.{setting} is '{value}', but .* does not use it"):
            open_source(path, **{setting: value})
    elif kind != "hub":
        assert len(read_rows(open_source(path, **{setting: value}))) == len(ROWS)


@pytest.mark.parametrize(("name", "found"), [(None, "is not set"), ("thre", "is 'thre'")])
def test_configurations_of_a_card_are_named(tmp_path: Path, name: str | None, found: str) -> None:
    for letter in "ab":
        write(tmp_path / f"{letter}.csv")
    configurations = "".join(f"- config_name: {number}\n  data_files: a.csv\n" for number in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    with pytest.raises(DatasetError, match=rf"dataset\.name {found}.*set dataset\.name to one of them: 'one', 'two'"):
        open_source(tmp_path, name=name)
    assert len(read_rows(open_source(tmp_path, name="two"))) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "contents", "format_name", "by_name"),
    [
        ("rows.csv", "text,id\na,1\n", "json", "csv"),
        ("rows.csv", "text,id\na,1\n", "parquet", "csv"),
        ("rows.json", '{"text":"a"}\n', "csv", "json"),
    ],
)
def test_format_that_is_not_that_of_the_extension(
    tmp_path: Path, name: str, contents: str, format_name: str, by_name: str
) -> None:
    (tmp_path / name).write_text(contents)
    with pytest.raises(
        DatasetError, match=rf"dataset\.format is '{format_name}', but the extension is that of the format {by_name}"
    ):
        open_source(tmp_path / name, format=format_name)
