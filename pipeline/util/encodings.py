"""The likely encoding of a text file's bytes, for messages."""

from __future__ import annotations

import codecs

BYTE_ORDER_MARKS = {  # in this order: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def guess_encoding(data: bytes) -> str:
    """The likely encoding of bytes that are not UTF-8, by Python's name."""
    if (encoding := guess_wide(data)) is not None:
        return encoding
    high = sum(byte >= 0x80 for byte in data)
    letters = sum(chr(byte).isalpha() for byte in data if byte < 0x80)
    if high > max(letters, 9):  # mostly another script, and enough of it
        from charset_normalizer import from_bytes

        best = from_bytes(data).best()
        if best is not None and best.encoding not in ("utf_8", "ascii"):
            return best.encoding
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def guess_wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 by its byte order mark, or UTF-16 without one; None for any other encoding.

    Each second byte of UTF-16 is a NUL in Latin texts, and in others one of a few control characters and NUL.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    even, odd = data[0::2], data[1::2]
    for high, low, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if len(high) < 4 or low.count(0):
            continue
        is_latin = high.count(0) > 0.75 * len(high)
        is_other_script = len(high) >= 16 and 0 in high and len(set(high)) <= 4 and max(high) < 0x20
        if is_latin or is_other_script:
            return encoding
    return None
