"""What docs/input.md says of files and types holds for files that are written so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from helpers.dataset_files import open_source, read_rows, read_texts
from helpers.pages import code_blocks, read_page
from lengthwise.data.files import _FORMATS
from lengthwise.dataset_config import ColumnType, CsvSettings, DatasetSettings
from lengthwise.errors import DatasetError
from lengthwise.util.settings import parse_settings
from lengthwise.util.yaml_files import parse_yaml

PAGE = read_page("docs/input.md")
SPELLINGS = {
    name: re.findall(r"`([^`]+)`", row[1])
    for row in re.findall(r"^\| (.*) \| (.*) \|$", PAGE.partition("## Types")[2], re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", row[0])
}


def test_every_setting_and_type_is_described() -> None:
    for name in {*DatasetSettings.model_fields, *(f"csv.{name}" for name in CsvSettings.model_fields)}:
        described = {
            "csv",
            "text_column",
            "keep_columns",
            "key",
            "streaming",
            "shard_rows",
        }  # by its parts, in encoding.md, and in incremental.md
        assert name in described or f"`dataset.{name}`" in PAGE, name
    assert SPELLINGS.keys() == set(get_args(ColumnType))
    for extension in _FORMATS:
        assert f"`{extension}`" in PAGE


@pytest.mark.parametrize(
    ("name", "spelling"), [(name, spelling) for name, spellings in SPELLINGS.items() for spelling in spellings]
)
def test_types_are_written_so(tmp_path: Path, name: str, spelling: str) -> None:
    (tmp_path / "rows.csv").write_text(f"text,id\na,{spelling}\n")
    (row,) = read_rows(open_source(tmp_path / "rows.csv", keep_columns=("id",), types={"id": name}))
    assert row["id"] is not None


def test_example_is_a_section_of_settings() -> None:
    (example,) = code_blocks(PAGE, "yaml")
    assert parse_settings(DatasetSettings, parse_yaml(example, "page")["dataset"], "page").csv.delimiter == ";"


def test_files_of_a_folder_are_read_in_the_order_that_the_page_gives(tmp_path: Path) -> None:
    for name in ("part-2", "part-10", "sub/a", "B", "a", "_hidden", ".hidden", "_sub/b"):
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name}\n")
    assert read_texts(tmp_path) == ["B", "a", "part-10", "part-2", "sub/a"]
    assert read_texts(tmp_path / "part*.txt") == ["part-10", "part-2"]


@pytest.mark.parametrize("word", ["train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval"])
@pytest.mark.parametrize("form", ["{}", "reviews-{}", "{}_1", "{}/rows"])
def test_names_of_splits(tmp_path: Path, word: str, form: str) -> None:
    path = tmp_path / f"{form.format(word)}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{word}\n")
    assert f"`{word}`" in PAGE
    split = {"t": "train" if word.startswith("tr") else "test", "e": "test"}.get(word[0], "validation")
    assert read_texts(tmp_path, split=split) == [word]
    with pytest.raises(DatasetError, match="split 'other' cannot be loaded"):
        read_texts(tmp_path, split="other")
