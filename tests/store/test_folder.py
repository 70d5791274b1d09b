"""The protocol of a folder, on a local disk and at a URL alike."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.files import contents
from lengthwise.store.folder import open_folder
from lengthwise.store.local import LocalFolder
from lengthwise.store.protocol import Folder

NAMES = ("a.json", "log.jsonl", "other.jsonl", "data/b.bin")


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    place = tmp_path / "folder" if request.param == "disk" else f"memory://{tmp_path.parent.name}-{tmp_path.name}/a"
    return open_folder(place)


def test_folder_reads_lists_and_removes_files(folder: Folder) -> None:
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


def test_append_adds_lines_to_a_log(folder: Folder) -> None:
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
def test_folder_behaves_as_a_mapping_of_names_to_bytes(
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


def test_draft_replaces_the_file_when_the_block_ends(folder: Folder) -> None:
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


def test_lock_has_one_holder(folder: Folder) -> None:
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


def test_list_files_refuses_a_file_at_the_folder_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(NotADirectoryError):
        open_folder(tmp_path / "file").list_files()


@pytest.mark.parametrize("protocol", ["file://", "local://", ""])
def test_open_folder_takes_file_urls_for_local_paths(tmp_path: Path, protocol: str) -> None:
    folder = open_folder(f"{protocol}{tmp_path}/vectors")
    assert isinstance(folder, LocalFolder)
    folder.write("a.json", b"new")
    assert contents(tmp_path) == {"vectors/a.json": b"new"}
