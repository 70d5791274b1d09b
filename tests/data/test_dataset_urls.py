"""Datasets at fsspec URLs; `memory://` simulates the object stores."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from helpers.dataset_files import ROW_TEXTS, ROWS, open_source, read_rows, read_texts, rows_as_read, write
from lengthwise.errors import DatasetError


class Breaking(MemoryFileSystem):
    """A file system that fails to open a file with `breaks` in its name."""

    protocol = "breaking"
    store: ClassVar[dict[str, Any]] = {}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if "breaks" not in path or "r" not in mode:
            return file
        raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` refuses every URL in the hub's offline mode, which the suite sets."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A new folder in memory."""
    return f"memory://{tmp_path.parent.name}-{tmp_path.name}"


def upload(path: Path, url: str) -> str:
    fsspec.open(url, "wb").open().close()
    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())
    return url


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.json", "rows.jsonl", "rows.csv", "rows.tsv", "rows.jsonl.gz"])
def test_every_file_format(tmp_path: Path, url: str, name: str, streaming: bool) -> None:
    source = open_source(upload(write(tmp_path / name), f"{url}/{name}"), keep_columns=("id",), streaming=streaming)
    assert read_rows(source) == rows_as_read(name)


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_and_globs(tmp_path: Path, url: str, streaming: bool) -> None:
    for name in ("b.txt", "a [1].txt", "_notes.txt", ".hidden.txt", "deep/c.txt"):
        (tmp_path / "line.txt").write_text(name)
        upload(tmp_path / "line.txt", f"{url}/{name}")
    assert read_texts(url, streaming=streaming) == ["a [1].txt", "b.txt", "deep/c.txt"]
    assert read_texts(f"{url}/*.txt", streaming=streaming)[-2:] == ["a [1].txt", "b.txt"]
    assert read_texts(f"{url}/b.txt", streaming=streaming) == ["b.txt"]


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_is_split_by_its_file_names(tmp_path: Path, url: str, streaming: bool) -> None:
    write(tmp_path / "train.csv", ROWS[:2])
    write(tmp_path / "test.csv", ROWS[2:])
    for name in ("train.csv", "test.csv"):
        upload(tmp_path / name, f"{url}/{name}")
    assert read_texts(url, streaming=streaming) == ROW_TEXTS[:2]
    assert read_texts(url, split="test", streaming=streaming) == ROW_TEXTS[2:]
    assert read_texts(f"{url}/*.csv", streaming=streaming) == ROW_TEXTS[2:] + ROW_TEXTS[:2]


def test_local_url_is_a_path(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.txt")
    source = open_source(f"file://{path}")
    assert [row["text"] for row in read_rows(source)] == ROW_TEXTS
    assert source.fingerprint == open_source(path).fingerprint


def test_fingerprint_depends_on_the_object(tmp_path: Path, url: str) -> None:
    path = write(tmp_path / "rows.txt")
    first = open_source(upload(path, f"{url}/rows.txt")).fingerprint
    assert open_source(f"{url}/rows.txt").fingerprint == first
    assert open_source(f"{url}/rows.txt", streaming=True, shard_rows=1).fingerprint == first
    path.write_text("other words\n")
    other = open_source(upload(path, f"{url}/rows.txt"))
    assert other.fingerprint != first
    assert [row["text"] for row in read_rows(other)] != ROW_TEXTS


def test_moved_folder_or_glob_is_the_same_input(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store reports the size only, as memory does without its times, the contents are hashed."""
    monkeypatch.setattr("lengthwise.data.remote_files._TIME_KEYS", ())
    write(tmp_path / "a.txt")
    for folder in ("here", "there"):
        upload(tmp_path / "a.txt", f"{url}/{folder}/a.txt")
    for ending in ("", "/*.txt", "/a.txt"):
        assert open_source(f"{url}/here{ending}").fingerprint == open_source(f"{url}/there{ending}").fingerprint
    first = open_source(f"{url}/here").fingerprint
    write(tmp_path / "a.txt", ROWS[::-1])
    assert open_source(upload(tmp_path / "a.txt", f"{url}/here/a.txt")).fingerprint != first


class Closed(MemoryFileSystem):
    """A file system that denies access."""

    protocol = "closed"

    def info(self, path: str, **options: Any) -> Any:
        raise PermissionError("access denied")


def test_denied_access_is_not_reported_as_missing() -> None:
    fsspec.register_implementation("closed", Closed, clobber=True)
    with pytest.raises(DatasetError, match=r"cannot be opened \(PermissionError: access denied\); check dataset.path"):
        open_source("closed://bucket/rows.txt")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://nothing/here.txt", "there is no such file or folder; set dataset.path to one, or to a glob"),
        ("nonsense://a/b.txt", r"cannot be opened \(.*nonsense.* the package for this protocol is installed"),
        ("gs://bucket/rows.txt", r"cannot be opened \(.*gcsfs"),
    ],
)
def test_url_that_cannot_be_opened(path: str, message: str) -> None:
    with pytest.raises(DatasetError, match=f"{path}: {message}"):
        open_source(path)


def test_files_of_several_formats(tmp_path: Path, url: str) -> None:
    for name in ("a.txt", "b.csv"):
        upload(write(tmp_path / name), f"{url}/{name}")
    with pytest.raises(DatasetError, match="files of several formats"):
        open_source(url)


@pytest.mark.parametrize("streaming", [False, True])
def test_lost_connection(tmp_path: Path, streaming: bool) -> None:
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    root = f"breaking://{tmp_path.name}"
    path = write(tmp_path / "rows.jsonl")
    upload(path, f"{root}/a.jsonl")
    upload(path, f"{root}/b-breaks.jsonl")
    with pytest.raises(DatasetError, match=r"breaking://.*cannot be .*Input/output error"):
        read_rows(open_source(root, streaming=streaming))
