"""Fingerprints of local inputs: they depend on the rows that are read, not on their location."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import datasets
import pytest

from helpers.dataset_files import ROWS, open_source, read_rows, read_texts, write


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv.gz", "folder", "saved"])
def test_fingerprint_depends_on_the_contents_only(tmp_path: Path, name: str) -> None:
    path = tmp_path / "here" / name
    if name == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    else:
        write(path / "a.jsonl" if name == "folder" else path)
    first = open_source(path).fingerprint
    moved = shutil.copytree(tmp_path / "here", tmp_path / "there") / name
    os.utime(moved, (1, 1))
    assert open_source(moved).fingerprint == first
    assert open_source(moved, streaming=True).fingerprint == first
    assert open_source(moved, text_column="text", shard_rows=1).fingerprint == first


def test_contents_split_format_and_file_name_change_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "train.txt")
    write(tmp_path / "test.txt")
    found = [open_source(tmp_path), open_source(tmp_path, split="test"), open_source(tmp_path, format="text")]
    (tmp_path / "train.txt").write_bytes((tmp_path / "train.txt").read_bytes() + b"x")
    found.append(open_source(tmp_path))
    (tmp_path / "train.txt").rename(tmp_path / "training.txt")
    found.append(open_source(tmp_path))
    assert len({source.fingerprint for source in found}) == len(found)


def test_folder_and_the_glob_of_its_files_differ_if_there_are_splits(tmp_path: Path) -> None:
    """A glob has no splits."""
    write(tmp_path / "train.txt")
    first = open_source(tmp_path).fingerprint
    assert open_source(tmp_path / "*.txt").fingerprint == first  # the same rows
    write(tmp_path / "test.txt")
    assert open_source(tmp_path).fingerprint == first
    assert open_source(tmp_path / "*.txt").fingerprint != first


@pytest.mark.parametrize("name", ["rows.jsonl", "_rows.jsonl"])
def test_every_file_that_a_card_may_name_changes_the_fingerprint(tmp_path: Path, name: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n")
    found = []
    for rows in (ROWS[:1], ROWS[1:]):
        write(tmp_path / name, rows)
        source = open_source(tmp_path, keep_columns=("id",))
        assert read_rows(source) == rows
        found.append(source.fingerprint)
    assert found[0] != found[1]


def test_file_replaced_by_one_of_the_same_age_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    for text in ("one", "two"):
        path.write_text(text)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert read_texts(path) == [text]
