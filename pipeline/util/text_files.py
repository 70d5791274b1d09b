"""Text files that people edit: JSON and YAML in UTF-8, or in another encoding that can be identified.

Editors on Windows save a byte order mark or UTF-16. Both are read, since the first bytes of JSON and YAML identify
them. A single-byte encoding such as cp1252 cannot be distinguished from others, so it is refused with the byte
and the remedy.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from lengthwise.util.encodings import BYTE_ORDER_MARKS

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", **BYTE_ORDER_MARKS}
_SINGLE_BYTE = "cp1252"  # the most frequent encoding that is not Unicode


class EncodingError(ValueError):
    """A file is in no encoding that can be identified; the message names the byte and the remedy."""


def read_text(path: Path) -> str:
    """The contents of a JSON or YAML file.

    Raises:
        OSError: it cannot be read.
        EncodingError: it is neither UTF-8, nor UTF-16 or UTF-32 whose first bytes say so.
    """
    return decode_text(path.read_bytes())


def decode_text(data: bytes) -> str:
    """The text of a JSON or YAML file, from its bytes.

    Raises:
        EncodingError: as `read_text`.
    """
    encoding = _detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise EncodingError(_explain(data, encoding, error)) from error


def _detect_encoding(data: bytes) -> str:
    """From the byte order mark, or from the zero bytes beside the first character, which is ASCII in JSON and YAML."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in data[:4]]
    if zeros == [True, True, True, False]:
        return "utf-32-be"
    if zeros == [False, True, True, True]:
        return "utf-32-le"
    if zeros[:2] == [True, False]:
        return "utf-16-be"
    if zeros[:2] == [False, True]:
        return "utf-16-le"
    return "utf-8"


def _explain(data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    """The byte that is not valid, its place, and the remedy."""
    start = error.start + len(data) - len(error.object)  # the decoder's input is without the mark
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"it begins as {encoding}, but offset {start} is not ({error.reason}); save the file as UTF-8"
    line_start = data.rfind(b"\n", 0, start) + 1
    line, column = data.count(b"\n", 0, start) + 1, start - line_start + 1
    place = f"byte 0x{data[start]:02x} at offset {start} (line {line}, byte {column} of it) is not UTF-8"
    if b"\0" in data[:1024]:
        return f"{place}; this is no text file"
    try:
        character = data[start : start + 1].decode(_SINGLE_BYTE)
    except UnicodeDecodeError:
        return f"{place}; save the file as UTF-8"
    return (
        f"{place}; it is {character!r} in {_SINGLE_BYTE}, the likely encoding. Save the file as UTF-8, e.g. with"
        f" iconv -f {_SINGLE_BYTE} -t utf-8"
    )
