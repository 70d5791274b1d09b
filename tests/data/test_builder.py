"""The cache of read files, and the dataset cards whose files are read by this package's own readers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import datasets.builder
import pytest

from helpers.dataset_files import ROWS, open_source, read_rows, write
from lengthwise.config import DatasetSettings
from lengthwise.data import builder
from lengthwise.data.dataset import open_dataset


@pytest.mark.parametrize("option", ["", "  keep_default_na: false\n"])
def test_configurations_of_a_card_have_their_own_rows(tmp_path: Path, option: str) -> None:
    """With the option, `datasets` reads the files."""
    write(tmp_path / "one.csv", ROWS[:1])
    write(tmp_path / "two.csv", ROWS[4:])
    configs = "".join(
        f"- config_name: {name}\n  data_files: {file}\n{option}" for name, file in (("a", "one.csv"), ("b", "two.csv"))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    sources = [open_source(tmp_path, name=name) for name in ("a", "b", "a")]
    assert [read_rows(source)[0]["text"] for source in sources] == ["the cat sat", "last", "the cat sat"]
    assert sources[0].fingerprint == sources[2].fingerprint != sources[1].fingerprint


def test_configurations_are_not_mixed_by_a_given_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS[:1])
    write(tmp_path / "two.jsonl", ROWS[4:])
    card = "---\nconfigs:\n- config_name: a\n  data_files: one.jsonl\n- config_name: b\n  data_files: two.jsonl\n---\n"
    (tmp_path / "README.md").write_text(card)
    found = [
        read_rows(open_dataset(DatasetSettings(path=str(tmp_path), name=name), "given 1"))[0]["text"] for name in "ab"
    ]
    assert found == ["the cat sat", "last"]


def test_changed_file_with_the_same_given_fingerprint(tmp_path: Path) -> None:
    settings = DatasetSettings(path=str(tmp_path / "rows.jsonl"), keep_columns=("id",))
    for rows in (ROWS[:1], ROWS[1:], [{"text": "a", "id": "x"}]):  # the last in other types
        write(tmp_path / "rows.jsonl", rows)
        assert read_rows(open_dataset(settings, "given 2")) == rows


def test_module_needs_no_class_that_old_versions_of_datasets_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(datasets.builder, "Key", raising=False)
    spec = importlib.util.spec_from_file_location("builder_with_old_datasets", builder.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.open_files is not builder.open_files
