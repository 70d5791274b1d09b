"""What a folder promises, on a disk and elsewhere alike; and the disk's locks."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.files import contents, raise_disk_full
from helpers.paths import ROOT
from lengthwise.store.folder import open_folder
from lengthwise.store.holder import describe_holder
from lengthwise.store.layout import is_draft
from lengthwise.store.local import LocalFolder
from lengthwise.store.protocol import Folder

NAMES = ("a.json", "log.jsonl", "other.jsonl", "data/b.bin")


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.store.lease.SETTLE_SECONDS", 0.0)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    place = tmp_path / "folder" if request.param == "disk" else f"memory://{tmp_path.parent.name}-{tmp_path.name}/a"
    return open_folder(place)


def test_files(folder: Folder) -> None:
    assert folder.list_files() == []
    assert folder.read("a.json") is folder.sha256("a.json") is None
    folder.write("a.json", b"old")
    folder.write("a.json", b"new")
    folder.write("data/b.bin", bytes(100))
    assert folder.list_files() == ["a.json", "data/b.bin"]
    assert folder.read("a.json") == b"new"
    assert folder.sha256("data/b.bin") == hashlib.sha256(bytes(100)).hexdigest()
    with folder.open("a.json") as file:
        file.seek(1)
        assert file.read() == b"ew"
    assert folder.location("data/b.bin") == f"{folder}/data/b.bin"
    folder.remove("a.json")
    folder.remove("a.json")
    assert folder.list_files() == ["data/b.bin"]


def test_lines(folder: Folder) -> None:
    folder.append("log.jsonl", b"one\n")
    folder.append("log.jsonl", b"two\n")
    assert folder.read("log.jsonl") == b"one\ntwo\n"
    assert folder.list_files() == ["log.jsonl"]
    folder.write("log.jsonl", b"both\n")
    folder.append("log.jsonl", b"three\n")
    assert folder.read("log.jsonl") == b"both\nthree\n"
    folder.remove("log.jsonl")
    assert folder.list_files() == []
    assert folder.read("log.jsonl") is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "append", "draft", "remove"]), st.sampled_from(NAMES), st.binary(max_size=9)),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_it_is_a_mapping_of_names_to_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes]]
) -> None:
    place = tmp_path_factory.mktemp("mapping")
    for folder in (open_folder(place), open_folder(f"memory://{place.parent.name}-{place.name}/a")):
        expected: dict[str, bytes] = {}
        for what, name, data in steps:
            if what == "append" and name.endswith(".jsonl"):
                folder.append(name, data)
                expected[name] = expected.get(name, b"") + data
            elif what == "draft" and not name.endswith(".jsonl"):
                with folder.draft(name) as path:
                    path.write_bytes(data)
                expected[name] = data
            elif what == "remove":
                folder.remove(name)
                expected.pop(name, None)
            else:
                folder.write(name, data)
                expected[name] = data
            assert folder.list_files() == sorted(expected)
            assert {name: folder.read(name) for name in NAMES} == {name: expected.get(name) for name in NAMES}


def test_drafts_take_their_place_at_the_end(folder: Folder) -> None:
    folder.write("data/a.bin", b"old")
    with folder.draft("data/a.bin") as path:
        path.write_bytes(b"new")
        assert folder.read("data/a.bin") == b"old"
    assert folder.read("data/a.bin") == b"new"

    def break_off(raised: BaseException) -> None:
        with folder.draft("data/a.bin") as path:
            path.write_bytes(b"half")
            raise raised

    for raised in (OSError("full"), KeyboardInterrupt()):
        with pytest.raises(type(raised)):
            break_off(raised)
    assert folder.read("data/a.bin") == b"new"
    assert folder.list_files() == ["data/a.bin"]


def test_a_lock_has_one_holder(folder: Folder) -> None:
    assert folder.lock_holder(".lock") is None
    with folder.lock(".lock"):
        assert f"process {os.getpid()} on " in str(folder.lock_holder(".lock"))
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .*, since "), folder.lock(".lock"):
            pass
        with folder.lock(".another"):
            folder.check_lock()
    assert folder.lock_holder(".lock") is None
    assert folder.list_files() == []
    with folder.lock(".lock"):
        pass


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(NotADirectoryError):
        open_folder(tmp_path / "file").list_files()


# On a disk


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path)
    folder.append("log.jsonl", b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr("lengthwise.store.local.os.fsync", raise_disk_full)
        with pytest.raises(OSError, match="No space left"):
            folder.append("log.jsonl", b"two\n")
    folder.append("log.jsonl", b"three\n")
    assert folder.read("log.jsonl") == b"one\nthree\n"


def test_a_disk_that_is_full_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """The system writes what there is room for, and again as the file is closed."""
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


def test_names_of_drafts(tmp_path: Path) -> None:
    assert is_draft("data/.shard-000001.parquet.0a1b2c3d.part")
    for name in ("x.part", ".hidden", ".mine.part", "data/.mine.part", "mine.0a1b2c3d.part"):
        assert not is_draft(name)
    with LocalFolder(tmp_path).draft("data/a.bin") as path:
        assert is_draft(f"data/{path.name}")
        path.write_bytes(b"")


@pytest.mark.parametrize("protocol", ["file://", "local://", ""])
def test_a_url_of_a_disk(tmp_path: Path, protocol: str) -> None:
    folder = open_folder(f"{protocol}{tmp_path}/vectors")
    assert isinstance(folder, LocalFolder)
    folder.write("a.json", b"new")
    assert contents(tmp_path) == {"vectors/a.json": b"new"}


def test_a_lock_whose_file_cannot_be_removed_is_free_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFolder, "remove", raise_disk_full)
    folder = LocalFolder(tmp_path)
    for _ in range(2):
        with folder.lock(".lock"):
            assert folder.lock_holder(".lock") is not None
        assert folder.lock_holder(".lock") is None
    assert list(contents(tmp_path)) == [".lock"]


@pytest.mark.parametrize("record", [None, b"", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_holder_that_says_nothing(record: bytes | None) -> None:
    assert describe_holder(record) == "another process"


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
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
    process = child(HOLDER, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
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
def test_never_two_at_a_time(tmp_path: Path) -> None:
    """Four processes take the lock and give it back, over and over; each removes the lock's file as it does."""
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
    processes = [child(code, str(tmp_path)) for _ in range(4)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(int, said)) > 100
    assert contents(tmp_path) == {}


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fcntl.flock", raise_disk_full)
    with LocalFolder(tmp_path).lock(".lock"):
        assert "the file system has no locks" in caplog.text
