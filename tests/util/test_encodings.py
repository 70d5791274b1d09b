"""The likely encoding of bytes, for messages."""

from __future__ import annotations

import pytest

from lengthwise.util.encodings import guess_encoding, guess_wide

WORDS = "Every letter of this line has a meaning.\nAnd so has this one.\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", [WORDS, "«naïve» – “café”\n", "Каждая буква этой строки что-то значит.\n"])
def test_wide_encodings(text: str, encoding: str) -> None:
    assert guess_wide(text.encode(encoding)) == encoding


@pytest.mark.parametrize("data", [WORDS.encode(), b"", b"a", b"\0\0\0\0", b"a\0b\n\0\n\0\n", "é".encode() * 20])
def test_other_bytes_are_not_wide(data: bytes) -> None:
    assert guess_wide(data) is None


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("naïve café – “x”".encode("cp1252"), "cp1252"),
        (b"one byte \x81 that cp1252 lacks", "latin-1"),
        ("Каждая буква этой строки что-то значит.".encode("cp1251"), "cp1251"),
    ],
)
def test_encodings_of_one_byte(data: bytes, encoding: str) -> None:
    assert guess_encoding(data) == encoding
