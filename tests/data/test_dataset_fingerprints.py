"""Fingerprints of local inputs: of the rows that are read, wherever they lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import datasets
import pytest

from helpers.dataset_files import ROWS, opened, rows_of, texts_at, write


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv.gz", "folder", "saved"])
def test_the_fingerprint_is_of_the_contents(tmp_path: Path, name: str) -> None:
    place = tmp_path / "here" / name
    if name == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(place)
    else:
        write(place / "a.jsonl" if name == "folder" else place)
    first = opened(place).fingerprint
    moved = shutil.copytree(tmp_path / "here", tmp_path / "there") / name
    os.utime(moved, (1, 1))
    assert opened(moved).fingerprint == first
    assert opened(moved, streaming=True).fingerprint == first
    assert opened(moved, text_column="text", shard_rows=1).fingerprint == first


def test_another_byte_split_format_or_name_is_another_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "train.txt")
    write(tmp_path / "test.txt")
    found = [opened(tmp_path), opened(tmp_path, split="test"), opened(tmp_path, format="text")]
    (tmp_path / "train.txt").write_bytes((tmp_path / "train.txt").read_bytes() + b"x")
    found.append(opened(tmp_path))
    (tmp_path / "train.txt").rename(tmp_path / "training.txt")
    found.append(opened(tmp_path))
    assert len({source.fingerprint for source in found}) == len(found)


def test_a_folder_is_not_the_glob_of_its_files(tmp_path: Path) -> None:
    """The glob has no splits."""
    write(tmp_path / "train.txt")
    first = opened(tmp_path).fingerprint
    assert opened(tmp_path / "*.txt").fingerprint == first  # the same rows
    write(tmp_path / "test.txt")
    assert opened(tmp_path).fingerprint == first
    assert opened(tmp_path / "*.txt").fingerprint != first


@pytest.mark.parametrize("name", ["rows.jsonl", "_rows.jsonl"])
def test_every_file_that_a_card_may_name_is_in_the_fingerprint(tmp_path: Path, name: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n")
    found = []
    for rows in (ROWS[:1], ROWS[1:]):
        write(tmp_path / name, rows)
        source = opened(tmp_path, keep_columns=("id",))
        assert rows_of(source) == rows
        found.append(source.fingerprint)
    assert found[0] != found[1]


def test_a_file_replaced_by_one_of_the_same_age_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    for text in ("one", "two"):
        path.write_text(text)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert texts_at(path) == [text]
