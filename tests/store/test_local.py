"""Folders on a local disk: appended lines on a full disk, and locks between processes."""

from __future__ import annotations

import platform
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.files import UMASKS, contents, other_modes, raise_disk_full, umask
from helpers.paths import ROOT
from lengthwise.store.holder import describe_holder
from lengthwise.store.local import LocalFolder


def test_append_undoes_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path)
    folder.append("log.jsonl", b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr("lengthwise.store.local.os.fsync", raise_disk_full)
        with pytest.raises(OSError, match="No space left"):
            folder.append("log.jsonl", b"two\n")
    folder.append("log.jsonl", b"three\n")
    assert folder.read("log.jsonl") == b"one\nthree\n"


def test_append_undoes_a_line_that_the_disk_cannot_hold(tmp_path: Path) -> None:
    """The system writes as much as fits, and tries again when the file is closed."""
    folder = LocalFolder(tmp_path)
    folder.append("log.jsonl", b"one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            folder.append("log.jsonl", b"two and more\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.read("log.jsonl") == b"one\n"


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


HOLDER = """
    import sys, time
    from pathlib import Path
    from lengthwise.store.local import LocalFolder

    with LocalFolder(Path(sys.argv[1])).lock(".lock"):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    process = start_python(HOLDER, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_lock_is_free_even_if_its_file_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalFolder, "remove", raise_disk_full)
    folder = LocalFolder(tmp_path)
    for _ in range(2):
        with folder.lock(".lock"):
            assert folder.lock_holder(".lock") is not None
        assert folder.lock_holder(".lock") is None
    assert list(contents(tmp_path)) == [".lock"]


@pytest.mark.parametrize("record", [None, b"", b"[]", b'{"pid": 1}', b"\xff"])
def test_describe_holder_of_an_unreadable_record(record: bytes | None) -> None:
    assert describe_holder(record) == "another process"


def test_lock_of_a_dead_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    folder = LocalFolder(tmp_path)
    held = rf"process {holder.pid} on {platform.node()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}"
    with pytest.raises(BlockingIOError, match=f"^{held}$"), folder.lock(".lock"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert folder.lock_holder(".lock") is None
    with folder.lock(".lock"):
        pass
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_lock_is_exclusive_between_processes(tmp_path: Path) -> None:
    """Four processes acquire and release the lock repeatedly; each release removes the lock's file."""
    code = """
        import os, sys, time
        from pathlib import Path
        from lengthwise.store.local import LocalFolder

        folder, times = LocalFolder(Path(sys.argv[1])), 0
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            try:
                with folder.lock(".lock"):
                    os.close(os.open(folder.location("inside"), os.O_CREAT | os.O_EXCL))
                    os.unlink(folder.location("inside"))
                    times += 1
            except BlockingIOError:
                pass
        print(times)
    """
    processes = [start_python(code, str(tmp_path)) for _ in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(int, outputs)) > 100
    assert contents(tmp_path) == {}


def test_lock_warns_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.flock", raise_disk_full)
    with LocalFolder(tmp_path).lock(".lock"):
        assert "the file system has no locks" in caplog.text


@pytest.mark.parametrize("mask", UMASKS)
def test_every_file_has_the_permissions_of_a_new_file(tmp_path: Path, mask: int) -> None:
    """A lock and the record of its holder too: a run of another user has to be able to say who holds it."""
    with umask(mask):
        folder = LocalFolder(tmp_path / "run")
        with folder.lock(".lock"):
            folder.write("manifest.json", b"{}")
            folder.append("records.jsonl", b"{}\n")
            with folder.draft("data/0.parquet") as part:
                part.write_bytes(b"rows")
            names = {".lock", "manifest.json", "records.jsonl", "data/0.parquet"}
            assert names <= contents(tmp_path / "run").keys()
            assert other_modes(tmp_path / "run", mask) == {}
