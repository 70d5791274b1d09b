"""Encodings of text files: declared ones are read, and others are named with the byte and the line."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from helpers.dataset_files import open_source, read_malformed, read_texts
from lengthwise.errors import DatasetError

STREAMING = pytest.mark.parametrize("streaming", [False, True])
NAMES = pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows.tsv", "rows.jsonl", "rows.json"])
TEXTS = ["plain", "café – “naïve”", "last"]


def contents_of(name: str, texts: list[str] = TEXTS) -> str:
    rows = [{"text": text} for text in texts]
    if name == "rows.json":
        return json.dumps(rows, ensure_ascii=False, indent=1)
    if name == "rows.jsonl":
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    return "\n".join([*(["text"] if name != "rows.txt" else []), *texts, ""])


@STREAMING
@NAMES
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32", "UTF8", "utf-8-sig", "gb18030"])
def test_declared_encoding(tmp_path: Path, name: str, encoding: str, streaming: bool) -> None:
    (tmp_path / name).write_bytes(contents_of(name).encode(encoding))
    assert read_texts(tmp_path / name, encoding=encoding, streaming=streaming) == TEXTS


@NAMES
def test_declared_encoding_that_utf_8_contradicts(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """cp1252 reads any file, and one in UTF-8 with other letters."""
    (tmp_path / name).write_bytes(contents_of(name, ["plain", "café"]).encode())
    assert read_texts(tmp_path / name, encoding="cp1252") == ["plain", "cafÃ©"]
    (record,) = caplog.records
    assert f"{name} looks like UTF-8, but dataset.encoding is cp1252" in record.getMessage()
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + contents_of(name).encode())
    with pytest.raises(
        DatasetError, match=rf"{name} begins with the byte order mark of UTF-8, but dataset.encoding is"
    ):
        read_texts(tmp_path / name, encoding="cp1252")


@STREAMING
@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows.tsv"])
@pytest.mark.parametrize("text", [50 * "\0", "moon" + 8 * "\0"])
def test_block_of_zero_bytes_is_malformed(tmp_path: Path, name: str, text: str, streaming: bool) -> None:
    """As a crash of the machine leaves it where rows were."""
    (tmp_path / name).write_text(contents_of(name, ["plain", text, "a\0b"]))
    line = 2 if name == "rows.txt" else 3
    with pytest.raises(DatasetError, match=rf"{name}, line {line}: {text.count(chr(0))} zero bytes, as an interrupted"):
        read_texts(tmp_path / name, streaming=streaming)
    rows, malformed = read_malformed(tmp_path / name, streaming=streaming)
    assert [row["text"] for row in rows] == ["plain", text, "a\0b"]
    assert list(malformed) == [1]


@NAMES
@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, mark: bytes) -> None:
    encoding = "utf-8" if mark == codecs.BOM_UTF8 else "utf-16-le"
    (tmp_path / name).write_bytes(mark + contents_of(name).encode(encoding))
    assert read_texts(tmp_path / name, encoding=encoding) == TEXTS


@NAMES
def test_utf16_needs_its_byte_order(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(contents_of(name).encode("utf-16-le"))
    with pytest.raises(DatasetError, match=r"byte order mark\); set dataset\.encoding to utf-16-le or utf-16-be"):
        read_texts(tmp_path / name, encoding="utf-16")


@STREAMING
@NAMES
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_not_read_as_utf8(tmp_path: Path, name: str, encoding: str, streaming: bool) -> None:
    (tmp_path / name).write_bytes(contents_of(name).encode(encoding))
    pattern = rf"{name}, line 1: .*0x.*likely {encoding}\); set dataset\.encoding to {encoding}"
    with pytest.raises(DatasetError, match=pattern):
        read_texts(tmp_path / name, streaming=streaming)


@STREAMING
@pytest.mark.parametrize(
    ("name", "line", "byte"), [("rows.txt", 2, 4), ("rows.csv", 3, 4), ("rows.jsonl", 2, 4), ("rows.json", 1, 4)]
)
def test_error_names_the_byte_the_line_and_the_likely_encoding(
    tmp_path: Path, name: str, line: int, byte: int, streaming: bool
) -> None:
    (tmp_path / name).write_bytes(contents_of(name).encode("cp1252"))
    pattern = rf"{name}, line \d+: .*byte {byte}, 0xe9, is not UTF-8; the encoding is likely cp1252.*dataset\.encoding"
    with pytest.raises(DatasetError, match=pattern) as caught:
        read_texts(tmp_path / name, streaming=streaming)
    assert name == "rows.json" or f"line {line}:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "encoding", "likely"),
    [
        ("Привет, мир! Как дела сегодня?", "cp1251", "cp1251"),
        ("こんにちは世界、今日はいい天気ですね。", "shift_jis", "cp932"),
        ("naïve café", "latin-1", "cp1252"),
    ],
)
def test_likely_encoding(tmp_path: Path, text: str, encoding: str, likely: str) -> None:
    (tmp_path / "rows.txt").write_bytes(f"{text}\n".encode(encoding))
    with pytest.raises(DatasetError, match=f"likely {likely}"):
        read_texts(tmp_path / "rows.txt")


def test_byte_that_the_declared_encoding_lacks(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(b"good\nbad \x81\n")
    with pytest.raises(DatasetError, match=r"rows\.txt, line 2: .*byte 5, 0x81, is not cp1252"):
        read_texts(tmp_path / "rows.txt", encoding="cp1252")
    for encoding, bad in (("utf-16", b"\x00"), ("utf-16-be", b"\xdc\x00\x00a"), ("shift_jis", b"\x81\x20")):
        (tmp_path / "rows.txt").write_bytes(("good\n" * 3_000).encode(encoding) + bad)
        with pytest.raises(DatasetError, match=rf"rows\.txt, line 3001: .*is not {encoding}"):
            read_texts(tmp_path / "rows.txt", encoding=encoding)


@STREAMING
def test_undecodable_lines_can_be_kept(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "rows.txt").write_bytes(b"good\ncaf\xe9\nlast\n")
    rows, malformed = read_malformed(tmp_path / "rows.txt", streaming=streaming)
    assert [row["text"] for row in rows] == ["good", "caf\\xe9", "last"]
    assert list(malformed) == [1]


def test_few_nuls_are_text(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(b"a\0b\n\0\n\0\n\0\n\0\n")
    assert read_texts(tmp_path / "rows.txt") == ["a\0b", "\0", "\0", "\0", "\0"]


@pytest.mark.parametrize("encoding", ["utf9", "base64", "", "no such"])
def test_unknown_encoding(encoding: str) -> None:
    with pytest.raises(Exception, match=r"encoding.*is .*which is no encoding that Python knows"):
        open_source("rows.txt", encoding=encoding)
