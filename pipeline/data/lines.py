"""Text files: lines decoded from bytes, and errors that name the byte, the line and the likely encoding.

- Bytes that are not in the encoding become lone surrogates (PEP 383), so that one bad line does not take the file with
  it; whoever makes rows of the lines finds them with `find_undecodable`.
- Without `dataset.encoding` a file is UTF-8, with or without a byte order mark. UTF-16 is never guessed: its texts
  could be read as UTF-8 with a NUL after each letter.
"""

from __future__ import annotations

import codecs
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile, open_data_file
from lengthwise.errors import DatasetError
from lengthwise.util.encodings import guess_encoding, guess_wide

log = logging.getLogger(__name__)
_SAMPLE_BYTES = 4_096
_ZERO_BYTES = 8 * "\0"  # fewer may be meant
# Byte order marks that the codec does not drop itself.
_MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
_FIRST_ESCAPE, _LAST_ESCAPE = "\udc80", "\udcff"  # what PEP 383 makes of the bytes 128 to 255


@contextmanager
def open_text(file: DataFile, settings: DatasetSettings, newline: str | None = "") -> Iterator[TextIO]:
    """Open a data file as text.

    Args:
        newline: as of `open`; "" leaves line breaks as they are.

    Raises:
        DatasetError: the file is in an encoding that can be recognized, and `dataset.encoding` does not name it.
    """
    with open_data_file(file) as raw:
        stream: Any = raw
        buffered = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
        encoding = _codec(settings)
        if encoding == "utf-8-sig":
            _check_utf8(buffered.peek(_SAMPLE_BYTES)[:_SAMPLE_BYTES], file, settings)
        mark = _MARKS.get(encoding, b"")
        if buffered.peek(len(mark))[: len(mark)] == mark:
            buffered.read(len(mark))
        text = io.TextIOWrapper(buffered, encoding, "surrogateescape", newline)
        try:
            yield text
        except UnicodeDecodeError as error:  # of an encoding of several bytes per character
            raise DatasetError(
                f"{settings.path}: the rows cannot be read ({file}, line {_find_line(file, encoding)}: {error.reason}:"
                f" byte 0x{error.object[error.start]:02x} is not {encoding}); set dataset.encoding to the file's"
                " encoding"
            ) from error
        except UnicodeError as error:  # of UTF-16 and UTF-32 without a byte order mark
            raise DatasetError(
                f"{settings.path}: the rows cannot be read ({file}: it does not begin with a byte order mark); set"
                f" dataset.encoding to {encoding}-le or {encoding}-be"
            ) from error
        finally:
            text.detach()


def check_declared_encoding(file: DataFile, settings: DatasetSettings) -> None:
    """Refuse a file whose byte order mark contradicts `dataset.encoding`; log one that looks like UTF-8.

    Most encodings of one byte per character read any bytes, and those of UTF-8 as two or three wrong characters each.

    Raises:
        DatasetError: it begins with the byte order mark of UTF-8.
    """
    if _codec(settings).startswith("utf"):
        return
    with open_data_file(file) as raw:
        start = raw.read(_SAMPLE_BYTES)
    if start.startswith(codecs.BOM_UTF8):
        raise DatasetError(
            f"{settings.path}: {file} begins with the byte order mark of UTF-8, but dataset.encoding is"
            f" {settings.encoding!r}; leave that out, or convert the file"
        )
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the sample may end within a character
    except UnicodeDecodeError:
        return
    if not text.isascii():
        log.warning(
            "%s: %s looks like UTF-8, but dataset.encoding is %s; leave that out if texts look wrong",
            settings.path,
            file,
            settings.encoding,
        )


def find_undecodable(text: str, settings: DatasetSettings) -> str | None:
    """What is wrong with a text that has bytes of another encoding, or no Unicode; None if nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = text[error.start]
        if not _FIRST_ESCAPE <= character <= _LAST_ESCAPE:
            return f"a lone surrogate {character!r} at character {error.start + 1}, which is not Unicode"
        encoding = _codec(settings)
        data = text.encode(encoding, "surrogateescape").removeprefix(codecs.BOM_UTF8)
        position = len(text[: error.start].encode(encoding, "surrogateescape").removeprefix(codecs.BOM_UTF8)) + 1
        name = "UTF-8" if encoding == "utf-8-sig" else encoding
        return (
            f"byte {position}, 0x{ord(character) - 0xDC00:02x}, is not {name}; the encoding is likely"
            f" {guess_encoding(data)}, and dataset.encoding sets it"
        )
    return None


def find_zero_bytes(text: str) -> str | None:
    """What is wrong with a text that has a block of zero bytes, as an interrupted write or copy leaves; or None."""
    if _ZERO_BYTES not in text:
        return None
    return f"{text.count(_ZERO_BYTES[0])} zero bytes, as an interrupted write or copy leaves them"


def show_undecodable(text: str) -> str:
    r"""A text whose undecodable bytes are written as `\xff`, and lone surrogates as `\ud800`."""
    return text.encode("utf-8", "surrogateescape" if _has_escapes_only(text) else "backslashreplace").decode(
        "utf-8", "backslashreplace"
    )


def _find_line(file: DataFile, encoding: str) -> int:
    """The line of the first byte that cannot be decoded; the whole file is read again for it."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with open_data_file(file) as raw:
        while block := raw.read(_SAMPLE_BYTES):
            state = decoder.getstate()
            try:
                line += decoder.decode(block).count("\n")
            except UnicodeDecodeError:
                decoder.setstate(state)
                for byte in block:
                    try:
                        line += decoder.decode(bytes([byte])).count("\n")
                    except UnicodeDecodeError:
                        break
                return line
    return line


def _codec(settings: DatasetSettings) -> str:
    """Python's name of the encoding; UTF-8 is read with or without a byte order mark."""
    encoding = codecs.lookup(settings.encoding or "utf-8").name
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _check_utf8(start: bytes, file: DataFile, settings: DatasetSettings) -> None:
    """Refuse a file that begins like UTF-16, UTF-32, or one of another format."""
    if start.startswith((b"PAR1", b"ARROW1")):
        found = "parquet" if start.startswith(b"PAR1") else "arrow"
        raise DatasetError(
            f"{settings.path}: {file} is in the format {found} by its first bytes, not text; set dataset.format to it"
        )
    if (encoding := guess_wide(start)) is not None:
        shown = " ".join(f"0x{byte:02x}" for byte in start[:4])
        raise DatasetError(
            f"{settings.path}: the rows cannot be read ({file}, line 1: not UTF-8: it begins with the bytes {shown};"
            f" the encoding is likely {encoding}); set dataset.encoding to {encoding}"
        )


def _has_escapes_only(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
