"""Inputs that were found and not opened: names and versions of files, and files that are opened alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest

from helpers.dataset_files import ROWS, open_source, read_rows, write
from lengthwise.config import DatasetSettings
from lengthwise.data import dataset
from lengthwise.data.dataset import find_dataset
from lengthwise.data.input import FoundFiles, base_folder
from lengthwise.errors import DatasetError


def find_files(path: Path | str, **changes: Any) -> FoundFiles:
    files = find_dataset(DatasetSettings(path=str(path), **changes)).files
    assert files is not None
    return files


@pytest.mark.parametrize(
    ("path", "is_folder", "is_glob", "base"),
    [
        ("data/rows", True, False, "data/rows"),
        ("data/rows.csv", False, False, "data"),
        ("data/a[1].csv", False, False, "data"),
        ("rows.csv", False, False, ""),
        ("/data/*/rows-*.csv", False, True, "/data"),
        ("*.csv", False, True, ""),
        ("s3://bucket/data", True, False, "s3://bucket/data"),
        ("s3://bucket/data/*/a.csv", False, True, "s3://bucket/data"),
        ("s3://bucket/a.csv", False, False, "s3://bucket"),
    ],
)
def test_names_are_relative_to_the_folder_that_is_named(path: str, is_folder: bool, is_glob: bool, base: str) -> None:
    assert base_folder(path, is_folder=is_folder, is_glob=is_glob) == base


@pytest.mark.parametrize("pattern", ["", "/**/*.jsonl", "/x/*.jsonl"])
def test_versions_change_with_contents_and_not_with_place(tmp_path: Path, pattern: str) -> None:
    for folder in ("here", "there"):
        write(tmp_path / folder / "x/a.jsonl", ROWS[:2])
        write(tmp_path / folder / "x/b.jsonl", ROWS[2:])
    here, there = (find_files(f"{tmp_path / folder}{pattern}").versions() for folder in ("here", "there"))
    assert here == there
    assert [name.removeprefix("x/") for name in here] == ["a.jsonl", "b.jsonl"]
    write(tmp_path / "there/x/b.jsonl", ROWS[:1])
    changed = find_files(f"{tmp_path / 'there'}{pattern}").versions()
    assert [name for name in here if here[name] != changed[name]] == [list(here)[1]]


@pytest.mark.parametrize("streaming", [False, True])
def test_files_are_opened_alone_and_in_any_order(tmp_path: Path, streaming: bool) -> None:
    for number, row in enumerate(ROWS):
        write(tmp_path / f"{number}.jsonl", [row])
    files = find_files(tmp_path, keep_columns=("id",), streaming=streaming)
    versions = files.versions()
    chosen = {name: versions[name] for name in ("3.jsonl", "1.jsonl")}
    source = files.open(None, chosen)
    assert [row["text"] for row in read_rows(source)] == [ROWS[3]["text"], ROWS[1]["text"]]
    assert source.versions == chosen
    whole = files.open()
    assert len(read_rows(whole)) == len(ROWS)
    assert whole.fingerprint == open_source(tmp_path, keep_columns=("id",)).fingerprint != source.fingerprint


def test_input_that_cannot_be_divided_has_no_files(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl")
    assert find_dataset(DatasetSettings(path=str(path), split="train[:50%]")).files is None
    assert open_source(path, split="train[:40%]").versions == {}
    assert list(open_source(path).versions) == ["rows.jsonl"]


def test_chosen_files_are_read_and_others_are_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", ROWS[:2])
    (tmp_path / "c.jsonl").touch()

    def choose(signatures: Mapping[str, str]) -> Collection[str]:
        sizes = {Path(path).name: signature.split()[0] for path, signature in signatures.items()}
        assert sizes.keys() == {"a.jsonl", "b.jsonl", "c.jsonl"}
        assert sizes["c.jsonl"] == "0"
        return [path for path in signatures if path.endswith(wanted)]

    for wanted in ("b.jsonl", "none"):
        found = find_dataset(DatasetSettings(path=str(tmp_path)), choose=choose).files
        assert found is not None
        assert {found.name(path) for path in found.present} == {"a.jsonl", "b.jsonl", "c.jsonl"}
        assert list(found.versions()) == [name for name in ("b.jsonl",) if name == wanted]


@pytest.mark.parametrize("pattern", ["", "/*.jsonl"])
def test_folder_may_have_no_files_yet_where_files_are_chosen(tmp_path: Path, pattern: str) -> None:
    settings = DatasetSettings(path=f"{tmp_path}{pattern}")
    found = find_dataset(settings, choose=lambda signatures: signatures).files
    assert found is not None
    assert found.versions() == {}
    with pytest.raises(DatasetError):
        find_dataset(settings)


def test_file_that_is_renamed_meanwhile_is_left_to_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writer does that gives a file its name once it is whole."""
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl")
    (tmp_path / "b.jsonl").rename(tmp_path / "b.jsonl.part")
    find_visible = dataset._visible_files

    def rename(*arguments: Any, **options: Any) -> list[Path]:
        found = find_visible(*arguments, **options)
        (tmp_path / "b.jsonl.part").rename(tmp_path / "b.jsonl")
        return found

    monkeypatch.setattr(dataset, "_visible_files", rename)
    found = find_dataset(DatasetSettings(path=str(tmp_path)), choose=lambda signatures: signatures).files
    assert found is not None
    assert list(found.versions()) == ["a.jsonl"]


def test_splits_are_those_of_all_files_and_not_of_the_chosen_ones(tmp_path: Path) -> None:
    for name in ("test", "train"):
        write(tmp_path / f"{name}.jsonl")

    def choose(name: str) -> FoundFiles | None:
        settings = DatasetSettings(path=str(tmp_path))
        return find_dataset(settings, choose=lambda paths: [path for path in paths if path.endswith(name)]).files

    for name, names in (("train.jsonl", ["train.jsonl"]), ("test.jsonl", [])):
        found = choose(name)
        assert found is not None
        assert list(found.versions()) == names
    (tmp_path / "train.jsonl").unlink()
    assert choose("test.jsonl") is None
    write(tmp_path / "more.jsonl")
    with pytest.raises(DatasetError, match=r"more\.jsonl would not be read, since other files have names of splits"):
        choose("more.jsonl")


def test_file_that_is_gone_when_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl")
    files = find_files(path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"cannot be opened \(FileNotFoundError"):
        files.versions()


def test_files_at_urls_have_names_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # in which `datasets` refuses every URL
    url = f"memory://{tmp_path.parent.name}-{tmp_path.name}"
    for name in ("a", "b"):
        fsspec.filesystem("memory").pipe_file(f"{url}/{name}.txt", f"text {name}\n".encode())
    for path in (url, f"{url}/*.txt"):
        files = find_files(path)
        versions = files.versions()
        assert list(versions) == ["a.txt", "b.txt"]
        assert read_rows(files.open(None, {"b.txt": versions["b.txt"]})) == [{"text": "text b"}]
