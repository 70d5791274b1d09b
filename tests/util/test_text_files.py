"""JSON and YAML files in any encoding that is certain, and a message with the byte for the others."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.util.text_files import EncodingError, decode_text, read_text

JSON = json.dumps({"name": "caf\u00e9 \u6771\u4eac \U0001f600", "size": 3}, ensure_ascii=False, indent=1)
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
MARKED = ("utf-8-sig", "utf-16", "utf-32")  # what Python writes with a byte order mark


@pytest.mark.parametrize("encoding", UNICODE)
def test_unicode_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(JSON.encode(encoding))
    assert read_text(path) == JSON
    for mark, big_endian in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert decode_text(mark + JSON.encode(big_endian)) == JSON


@given(start=st.sampled_from('{["0at-# \n'), rest=st.text(), encoding=st.sampled_from(UNICODE))
def test_any_text_that_begins_as_json_or_yaml_is_read(start: str, rest: str, encoding: str) -> None:
    text = start + (rest if encoding in MARKED else rest.replace("\0", ""))  # neither JSON nor YAML has a NUL
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'{\n "name": "caf\xe9"\n}',
            r"byte 0xe9 at offset 15 \(line 2, byte 14 of it\) is not UTF-8; it is 'é' in cp1252",
        ),
        (codecs.BOM_UTF8 + b"a\xe9", r"byte 0xe9 at offset 4 \(line 1, byte 5 of it\).* iconv -f cp1252 -t utf-8"),
        (b"\x80\x81", r"byte 0x80 at offset 0 .*'€' in cp1252"),
        (b"a: \x81", r"byte 0x81 at offset 3 .*is not UTF-8; save the file as UTF-8$"),
        (b"\x08\x08\x12\x00\xff", "byte 0xff at offset 4 .*; this is no text file"),
        (
            "{é".encode("utf-16")[:-1],
            r"begins as utf-16, but offset 4 is not \(truncated data\); save the",
        ),
    ],
)
def test_other_bytes_are_refused_with_their_place(data: bytes, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        decode_text(data)
