"""Atomic files and folders, also on a full disk and after a crash."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.files import UMASKS, contents, other_modes, raise_disk_full, umask
from lengthwise.errors import StoreError
from lengthwise.util.files import file_sha256, fsync_file, hashed_file, replace_file, replace_folder, write_atomically


def test_write_atomically_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a/b.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert contents(tmp_path) == {"a/b.json": b"new"}
    monkeypatch.setattr("lengthwise.util.files.os.fsync", raise_disk_full)
    with pytest.raises(StoreError, match=r"b\.json: cannot be written \(.*No space left"):
        write_atomically(path, b"newer")
    assert contents(tmp_path) == {"a/b.json": b"new"}


@pytest.mark.parametrize("blocks", [[], [b""], [b"a", b"", bytes(3_000_000), b"z" * 70_000]])
def test_hashed_file_hashes_what_it_write_draft(tmp_path: Path, blocks: list[bytes]) -> None:
    path = tmp_path / "file"
    with hashed_file(path) as file:
        assert [file.write(block) for block in blocks] == list(map(len, blocks))
    assert path.read_bytes() == b"".join(blocks)
    assert file.sha256 == file_sha256(path)
    assert file.closed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("rows", [3, 2_000_000])
def test_hashed_file_reports_a_full_disk(rows: int) -> None:
    """Through pyarrow too; a few rows fail only when the file is closed."""
    with pytest.raises(OSError, match="No space left") as caught, hashed_file(Path("/dev/full")) as file:
        pq.write_table(pa.table({"number": range(rows)}), file, use_dictionary=False)
    assert caught.value.errno == errno.ENOSPC
    assert file.closed


class Crash(BaseException):
    """Simulates the end of the process."""


def write_draft(path: Path, text: str, raised: BaseException | None = None) -> None:
    with replace_file(path) as part:
        part.write_text(text)
        if raised is not None:
            raise raised


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), Crash()])
@pytest.mark.parametrize("failing", ["write", "os.open", "os.fsync", "os.replace"])
def test_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, raised: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise raised

    write_draft(tmp_path / "a.json", "old")
    if failing != "write":
        monkeypatch.setattr(f"lengthwise.util.files.{failing}", fail)
    for name in ("a.json", "b.json"):
        with pytest.raises(type(raised)):
            write_draft(tmp_path / name, "new", raised if failing == "write" else None)
    assert contents(tmp_path) == {"a.json": b"old"}


def test_last_of_two_concurrent_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replace_file(path) as first:
        first.write_text("first")
        with replace_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert contents(tmp_path) == {"a.json": b"first"}


def test_block_that_writes_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "a.json"):
        pass
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("number", "is_fatal"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_file_system_that_cannot_sync_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_fatal: bool
) -> None:
    def refuse_folders(path: Path) -> None:
        if path.is_dir():
            raise OSError(number, os.strerror(number))
        fsync_file(path)

    monkeypatch.setattr("lengthwise.util.files.fsync_file", refuse_folders)
    if is_fatal:
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


def test_replace_folder_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep/model"
    fill(folder, "old")
    (folder / "stale.txt").write_text("stale")
    fill(folder, "new")
    assert contents(tmp_path) == {"deep/model/sub/file.txt": b"new"}


@pytest.mark.parametrize("raised", [ValueError("mine"), KeyboardInterrupt()])
def test_error_keeps_the_old_folder_and_leaves_no_other(tmp_path: Path, raised: BaseException) -> None:
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


def test_full_disk_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fill(folder, "old")
    with pytest.raises(StoreError, match="model: cannot be written"), replace_folder(folder):
        raise_disk_full()
    assert os.listdir(tmp_path) == ["model"]
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        fill(tmp_path / "file/model", "new")


def crash_between_the_renames(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash_at_second(source: Path, target: Path, rename: Callable[[Path, Path], None] = os.replace) -> None:
        if target == folder:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("lengthwise.util.files.os.replace", crash_at_second)
        with pytest.raises(KeyboardInterrupt):
            fill(folder, "new")


def test_crash_between_the_two_renames_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    fill(folder, "old")
    crash_between_the_renames(folder, monkeypatch)
    with pytest.raises(ValueError, match="mine"), replace_folder(folder):
        raise ValueError("mine")
    assert contents(tmp_path) == {"model/sub/file.txt": b"old"}


def test_folder_without_a_name_is_refused() -> None:
    with pytest.raises(StoreError, match=r"\.: cannot be replaced"), replace_folder("."):
        pass


@pytest.mark.parametrize("mask", UMASKS)
def test_replaced_folder_has_the_permissions_of_new_files(tmp_path: Path, mask: int) -> None:
    """Also if a library writes a file that only its owner can read, or one of another umask is copied."""
    folder = tmp_path / "folder"
    with umask(mask), replace_folder(folder) as part:
        (part / "below").mkdir()
        for name, mode in (("own", 0o600), ("below/own", 0o600), ("all", 0o666), ("usual", None)):
            (part / name).write_text(name)
            if mode is not None:
                (part / name).chmod(mode)
    assert other_modes(folder, mask) == {}
    assert sorted(contents(folder)) == ["all", "below/own", "own", "usual"]


def test_hard_link_keeps_the_permissions_of_its_other_places(tmp_path: Path) -> None:
    private = tmp_path / "private"
    os.close(os.open(private, os.O_CREAT, 0o600))
    private.write_text("weights")
    with umask(0o022), replace_folder(tmp_path / "folder") as part:
        os.link(private, part / "file")
    assert other_modes(tmp_path / "folder", 0o022) == {}
    assert (tmp_path / "folder/file").read_text() == "weights"
    assert private.stat().st_mode & 0o777 == 0o600
