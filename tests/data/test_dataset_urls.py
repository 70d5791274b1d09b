"""Datasets at fsspec's URLs; `memory://` stands for the object stores."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from helpers.dataset_files import ROWS, TEXTS_OF_ROWS, opened, rows_of, texts_at, write
from lengthwise.errors import DatasetError


class Breaking(MemoryFileSystem):
    """A file system whose connection is lost in the middle of a file that has `breaks` in its name."""

    protocol = "breaking"
    store: ClassVar[dict[str, Any]] = {}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if "breaks" not in path or "r" not in mode:
            return file
        raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's offline mode, in which the suite runs, forbids `datasets` every URL, of this machine's memory too."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place of its own in memory."""
    return f"memory://{tmp_path.parent.name}-{tmp_path.name}"


def upload(path: Path, url: str) -> str:
    fsspec.open(url, "wb").open().close()
    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())
    return url


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.json", "rows.jsonl", "rows.csv", "rows.tsv", "rows.jsonl.gz"])
def test_every_kind_of_file(tmp_path: Path, url: str, name: str, streaming: bool) -> None:
    source = opened(upload(write(tmp_path / name), f"{url}/{name}"), keep_columns=("id",), streaming=streaming)
    assert rows_of(source) == ROWS


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_and_globs(tmp_path: Path, url: str, streaming: bool) -> None:
    for name in ("b.txt", "a [1].txt", "_notes.txt", ".hidden.txt", "deep/c.txt"):
        (tmp_path / "line.txt").write_text(name)
        upload(tmp_path / "line.txt", f"{url}/{name}")
    assert texts_at(url, streaming=streaming) == ["a [1].txt", "b.txt", "deep/c.txt"]
    assert texts_at(f"{url}/*.txt", streaming=streaming)[-2:] == ["a [1].txt", "b.txt"]
    assert texts_at(f"{url}/b.txt", streaming=streaming) == ["b.txt"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_is_split_by_its_file_names(tmp_path: Path, url: str, streaming: bool) -> None:
    write(tmp_path / "train.csv", ROWS[:2])
    write(tmp_path / "test.csv", ROWS[2:])
    for name in ("train.csv", "test.csv"):
        upload(tmp_path / name, f"{url}/{name}")
    assert texts_at(url, streaming=streaming) == TEXTS_OF_ROWS[:2]
    assert texts_at(url, split="test", streaming=streaming) == TEXTS_OF_ROWS[2:]
    assert texts_at(f"{url}/*.csv", streaming=streaming) == TEXTS_OF_ROWS[2:] + TEXTS_OF_ROWS[:2]


def test_a_local_url_is_a_path(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.txt")
    source = opened(f"file://{path}")
    assert [row["text"] for row in rows_of(source)] == TEXTS_OF_ROWS
    assert source.fingerprint == opened(path).fingerprint


def test_the_fingerprint_is_of_the_object(tmp_path: Path, url: str) -> None:
    path = write(tmp_path / "rows.txt")
    first = opened(upload(path, f"{url}/rows.txt")).fingerprint
    assert opened(f"{url}/rows.txt").fingerprint == first
    assert opened(f"{url}/rows.txt", streaming=True, shard_rows=1).fingerprint == first
    path.write_text("other words\n")
    other = opened(upload(path, f"{url}/rows.txt"))
    assert other.fingerprint != first
    assert [row["text"] for row in rows_of(other)] != TEXTS_OF_ROWS


def test_a_moved_folder_or_glob_is_the_same_input(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store says no more than the size, as memory does without the time, the contents are read."""
    monkeypatch.setattr("lengthwise.data.remote_files._TIME_KEYS", ())
    write(tmp_path / "a.txt")
    for place in ("here", "there"):
        upload(tmp_path / "a.txt", f"{url}/{place}/a.txt")
    for ending in ("", "/*.txt", "/a.txt"):
        assert opened(f"{url}/here{ending}").fingerprint == opened(f"{url}/there{ending}").fingerprint
    first = opened(f"{url}/here").fingerprint
    write(tmp_path / "a.txt", ROWS[::-1])
    assert opened(upload(tmp_path / "a.txt", f"{url}/here/a.txt")).fingerprint != first


class Closed(MemoryFileSystem):
    """A file system that lets nobody in."""

    protocol = "closed"

    def info(self, path: str, **options: Any) -> Any:
        raise PermissionError("access denied")


def test_what_one_may_not_see_is_not_said_to_be_missing() -> None:
    fsspec.register_implementation("closed", Closed, clobber=True)
    with pytest.raises(DatasetError, match=r"cannot be opened \(PermissionError: access denied\); check dataset.path"):
        opened("closed://bucket/rows.txt")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("memory://nothing/here.txt", "there is no such file or folder; set dataset.path to one, or to a glob"),
        ("nonsense://a/b.txt", r"cannot be opened \(.*nonsense.* the package for this protocol is installed"),
        ("gs://bucket/rows.txt", r"cannot be opened \(.*gcsfs"),
    ],
)
def test_what_cannot_be_opened(path: str, told: str) -> None:
    with pytest.raises(DatasetError, match=f"{path}: {told}"):
        opened(path)


def test_files_of_several_kinds(tmp_path: Path, url: str) -> None:
    for name in ("a.txt", "b.csv"):
        upload(write(tmp_path / name), f"{url}/{name}")
    with pytest.raises(DatasetError, match="files of several kinds"):
        opened(url)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_connection_that_is_lost(tmp_path: Path, streaming: bool) -> None:
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    root = f"breaking://{tmp_path.name}"
    path = write(tmp_path / "rows.jsonl")
    upload(path, f"{root}/a.jsonl")
    upload(path, f"{root}/b-breaks.jsonl")
    with pytest.raises(DatasetError, match=r"breaking://.*cannot be .*Input/output error"):
        rows_of(opened(root, streaming=streaming))
