"""Files and folders that exist whole or not at all, on a full disk and after a crash too."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.files import contents, full_disk
from lengthwise.errors import StoreError
from lengthwise.util.files import drafted, file_sha256, flush, hashed_file, replace_folder, write_atomically


def test_write_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a/b.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert contents(tmp_path) == {"a/b.json": b"new"}
    monkeypatch.setattr("lengthwise.util.files.os.fsync", full_disk)
    with pytest.raises(StoreError, match=r"b\.json: cannot be written \(.*No space left"):
        write_atomically(path, b"newer")
    assert contents(tmp_path) == {"a/b.json": b"new"}


@pytest.mark.parametrize("blocks", [[], [b""], [b"a", b"", bytes(3_000_000), b"z" * 70_000]])
def test_a_hash_that_is_reckoned_while_the_file_is_written(tmp_path: Path, blocks: list[bytes]) -> None:
    path = tmp_path / "file"
    with hashed_file(path) as file:
        assert [file.write(block) for block in blocks] == list(map(len, blocks))
    assert path.read_bytes() == b"".join(blocks)
    assert file.sha256 == file_sha256(path)
    assert file.closed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("rows", [3, 2_000_000])
def test_a_hashed_file_tells_that_the_disk_is_full(rows: int) -> None:
    """As it is, through pyarrow too; few rows find out only when the file is closed."""
    with pytest.raises(OSError, match="No space left") as caught, hashed_file(Path("/dev/full")) as file:
        pq.write_table(pa.table({"number": range(rows)}), file, use_dictionary=False)
    assert caught.value.errno == errno.ENOSPC
    assert file.closed


class Crash(BaseException):
    """The process is gone."""


def writes(path: Path, text: str, raised: BaseException | None = None) -> None:
    with drafted(path) as part:
        part.write_text(text)
        if raised is not None:
            raise raised


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), Crash()])
@pytest.mark.parametrize("failing", ["write", "os.open", "os.fsync", "os.replace"])
def test_a_draft_that_breaks_off_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, raised: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise raised

    writes(tmp_path / "a.json", "old")
    if failing != "write":
        monkeypatch.setattr(f"lengthwise.util.files.{failing}", fail)
    for name in ("a.json", "b.json"):
        with pytest.raises(type(raised)):
            writes(tmp_path / name, "new", raised if failing == "write" else None)
    assert contents(tmp_path) == {"a.json": b"old"}


def test_two_drafts_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with drafted(path) as first:
        first.write_text("first")
        with drafted(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert contents(tmp_path) == {"a.json": b"first"}


def test_a_block_that_writes_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), drafted(tmp_path / "a.json"):
        pass
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("number", "matters"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_does_not_flush_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, matters: bool
) -> None:
    def refuse_folders(path: Path) -> None:
        if path.is_dir():
            raise OSError(number, os.strerror(number))
        flush(path)

    monkeypatch.setattr("lengthwise.util.files.flush", refuse_folders)
    if matters:
        with pytest.raises(StoreError, match="Input/output error"):
            write_atomically(tmp_path / "a.json", b"new")
    else:
        write_atomically(tmp_path / "a.json", b"new")
    assert contents(tmp_path) == {"a.json": b"new"}


def fill(folder: Path, text: str) -> None:
    with replace_folder(folder) as part:
        assert list(part.iterdir()) == []
        (part / "sub").mkdir()
        (part / "sub/file.txt").write_text(text)


def test_replace_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep/model"
    fill(folder, "old")
    (folder / "stale.txt").write_text("stale")
    fill(folder, "new")
    assert contents(tmp_path) == {"deep/model/sub/file.txt": b"new"}


@pytest.mark.parametrize("raised", [ValueError("mine"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path, raised: BaseException) -> None:
    folder = tmp_path / "model"
    fill(folder, "old")

    def replace_and_fail() -> None:
        with replace_folder(folder) as part:
            (part / "file.txt").write_text("half")
            raise raised

    with pytest.raises(type(raised)):
        replace_and_fail()
    assert contents(tmp_path) == {"model/sub/file.txt": b"old"}
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fill(folder, "old")
    with pytest.raises(StoreError, match="model: cannot be written"), replace_folder(folder):
        full_disk()
    assert os.listdir(tmp_path) == ["model"]
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        fill(tmp_path / "file/model", "new")


def crash_between_the_renames(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash_at_the_second(source: Path, target: Path, rename: Callable[[Path, Path], None] = os.replace) -> None:
        if target == folder:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("lengthwise.util.files.os.replace", crash_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            fill(folder, "new")


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    fill(folder, "old")
    crash_between_the_renames(folder, monkeypatch)
    with pytest.raises(ValueError, match="mine"), replace_folder(folder):
        raise ValueError("mine")
    assert contents(tmp_path) == {"model/sub/file.txt": b"old"}


def test_a_folder_without_a_name_is_refused() -> None:
    with pytest.raises(StoreError, match=r"\.: cannot be replaced"), replace_folder("."):
        pass
