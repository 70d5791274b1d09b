"""Compressed files and archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.dataset_files import ROW_TEXTS, ROWS, open_source, read_rows, read_texts, to_csv, to_json_lines, write
from lengthwise.errors import DatasetError

STREAMING = pytest.mark.parametrize("streaming", [False, True])
TEXTS = {"a.csv": b"text,id\na,1\n", "b.csv": b"text,id\nb,2\n"}


def make_zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return file.getvalue()


def make_tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return file.getvalue()


def make_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@STREAMING
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.csv.zst"])
@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, lambda data: pa.compress(data, "zstd", asbytes=True), bytes],
)
def test_compression_is_known_by_the_first_bytes(tmp_path: Path, name: str, compress: Any, streaming: bool) -> None:
    (tmp_path / name).write_bytes(compress(to_csv(ROWS, ",")))
    assert read_texts(tmp_path / name, streaming=streaming) == ROW_TEXTS


def test_parts_of_a_compressed_file_are_joined(tmp_path: Path) -> None:
    """As bgzip and concatenation write them."""
    for compress, name in ((gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")):
        (tmp_path / f"rows.txt.{name}").write_bytes(compress(b"one\n") + compress(b"two\n"))
        assert read_texts(tmp_path / f"rows.txt.{name}") == ["one", "two"]


def test_frames_of_zstandard_are_joined(tmp_path: Path) -> None:
    """Several, and after one that is skipped, with which pzstd begins."""
    frames = [pa.compress(text, "zstd", asbytes=True) for text in (b"one\n", b"two\n")]
    (tmp_path / "rows.txt.zst").write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0size" + b"".join(frames))
    assert read_texts(tmp_path / "rows.txt.zst") == ["one", "two"]


@STREAMING
@pytest.mark.parametrize(
    "members",
    [
        {"rows.csv": to_csv(ROWS, ",")},
        {"folder/rows.tsv": to_csv(ROWS, "\t"), "folder/": b"", "__MACOSX/folder/._rows.tsv": b"x", ".DS_Store": b"x"},
        {"rows.jsonl": to_json_lines(ROWS), "LICENSE": b"none"},
        {"2.jsonl.gz": gzip.compress(to_json_lines(ROWS[2:])), "1.jsonl": to_json_lines(ROWS[:2])},
        {"rows.parquet": make_parquet(ROWS)},
    ],
)
def test_zip_archive(tmp_path: Path, members: dict[str, bytes], streaming: bool) -> None:
    (tmp_path / "rows.zip").write_bytes(make_zip(members))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/train.zip").write_bytes(make_zip(members))
    with fsspec.open(f"memory://{tmp_path.name}/rows.zip", "wb") as file:
        file.write(make_zip(members))
    for path in (tmp_path / "rows.zip", tmp_path / "folder", f"memory://{tmp_path.name}/rows.zip"):
        assert read_texts(path, streaming=streaming) == ROW_TEXTS


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.csv": b"", "b.jsonl": b""}, r"files of several formats \(csv, json\); set dataset\.format"),
        ({"notes.docx": b""}, r"zip archive rows\.zip holds no file of a known format \(its members are 'notes\.docx'"),
        ({}, r"zip archive rows\.zip holds no file of a known format \(it is empty\)"),
    ],
)
def test_zip_archive_without_one_format(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    (tmp_path / "rows.zip").write_bytes(make_zip(members))
    with pytest.raises(DatasetError, match=message):
        open_source(tmp_path / "rows.zip")


def test_format_selects_the_members(tmp_path: Path) -> None:
    path = tmp_path / "rows.zip"
    path.write_bytes(make_zip({**TEXTS, "c.jsonl": b'{"text": "c"}\n', "README.txt": b"not a row"}))
    assert read_texts(path, format="json") == ["c"]
    assert read_texts(path, format="csv") == ["a", "b"]
    path.write_bytes(make_zip({"rows.data": b"text\na\n"}))
    assert read_texts(path, format="csv") == ["a"]


def test_error_names_the_member(tmp_path: Path) -> None:
    (tmp_path / "rows.zip").write_bytes(make_zip({**TEXTS, "c.csv": b"text,id\nc,3,\n"}))
    with pytest.raises(DatasetError, match=r"rows\.zip: .*\(rows\.zip/c\.csv, line 2: 3 cells"):
        read_rows(open_source(tmp_path / "rows.zip"))


def test_archive_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "rows.zip").write_bytes(make_zip(TEXTS)[:-30])
    with pytest.raises(DatasetError, match=r"zip archive cannot be read .* pack it again"):
        open_source(tmp_path / "rows.zip")
    data = bytearray(make_zip({"a.csv": b"text\n"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "rows.zip").write_bytes(data)
    with pytest.raises(DatasetError, match=r"the member 'a\.csv' is encrypted"):
        open_source(tmp_path / "rows.zip")


@pytest.mark.parametrize("format_name", [None, "csv"])
@pytest.mark.parametrize("name", ["rows.tar", "rows.tar.gz", "rows.tgz", "rows.7z", "rows.rar"])
def test_other_archives_are_refused(tmp_path: Path, name: str, format_name: str | None) -> None:
    (tmp_path / name).write_bytes(b"text\na\n")
    with pytest.raises(DatasetError, match=rf"{name} is an archive .* unpack it, or pack the files as \.zip"):
        open_source(tmp_path / name, format=format_name)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (make_zip(TEXTS), r"rows\.csv is a zip archive or an office document .* extension \.zip"),
        (make_parquet(ROWS), r"rows\.csv is in the format parquet by its first bytes"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            r"rows\.csv is an office document by its first bytes; save it as",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
            r"rows\.csv is a pointer of Git LFS.* git lfs pull",
        ),
        (b"%PDF-1.7\n", r"rows\.csv is a PDF document by its first bytes; save its text in a text file"),
        (b"{\\rtf1\\ansi text", r"rows\.csv is a document in rich text format by its first bytes"),
        (make_tar(TEXTS), r"rows\.csv is a tar archive by its first bytes; unpack it, or pack the files as \.zip"),
        (b"\n<!DOCTYPE html>\n<html>", r"rows\.csv is a web page by its first bytes.* download the file again"),
    ],
)
def test_file_of_another_kind_than_its_extension(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(contents)
    with pytest.raises(DatasetError, match=message):
        open_source(tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.txt.gz"])
def test_compressed_file_of_another_kind(tmp_path: Path, name: str) -> None:
    """A tar archive would be read as lines of text, its headers among them."""
    (tmp_path / name).write_bytes(gzip.compress(make_tar(TEXTS)))
    with pytest.raises(DatasetError, match=rf"{name} is a tar archive by its first bytes; unpack it"):
        read_texts(tmp_path / name)
    for compress in (gzip.compress, lzma.compress):
        (tmp_path / name).write_bytes(compress(gzip.compress(b"text\na\n")))
        with pytest.raises(DatasetError, match=rf"{name} is compressed twice; decompress it once"):
            read_texts(tmp_path / name, encoding="latin-1")


def test_text_file_may_be_a_web_page(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("<html>\n")
    assert read_texts(tmp_path / "rows.txt") == ["<html>"]


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.xls", "rows.ods"])
def test_office_documents_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DatasetError, match=rf"{name} is an office document; save it as CSV$"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_error_names_the_damaged_one_of_several_files(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / name.replace("a.", "b."))
    (tmp_path / name).write_bytes(whole.read_bytes()[:40])
    with pytest.raises(DatasetError, match=rf"the rows cannot be read \({name}: "):
        open_source(tmp_path / name.replace("a.", "*."))


@pytest.mark.parametrize("others", [{}, {"rows.csv": b"text\na\n"}])
def test_member_with_a_path_out_of_the_archive(tmp_path: Path, others: dict[str, bytes]) -> None:
    path = tmp_path / "rows.zip"
    path.write_bytes(make_zip({"../evil.csv": b"text\nb\n", **others}))
    with pytest.raises(DatasetError, match=r"the member '\.\./evil\.csv' has a path out of the archive"):
        read_texts(path)


def test_zip_archive_of_hidden_members(tmp_path: Path) -> None:
    (tmp_path / "rows.zip").write_bytes(make_zip({"_rows.csv": b"text\na\n"}))
    with pytest.raises(DatasetError, match=r"its members are '_rows\.csv'; those with a name that begins with \. or _"):
        read_texts(tmp_path / "rows.zip")


def test_zip_archive_with_two_members_of_one_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about what is tested
        for _ in range(2):
            archive.writestr("a.jsonl", to_json_lines(ROWS))
    with pytest.raises(DatasetError, match=r"rows\.zip: two members are named 'a\.jsonl'"):
        read_texts(tmp_path / "rows.zip")
