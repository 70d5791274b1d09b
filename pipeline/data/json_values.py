"""The rows of a JSON file, in bounded memory: one per line, or the items of arrays, or objects over several lines.

- Lines are decoded one by one, so that a malformed line is a malformed row. In a file whose first value goes on over
  several lines, or is an array, a mistake is an error: where the next row begins is not known.
- A number keeps how it is written, an integer of any size its digits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, TextIO

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile
from lengthwise.data.lines import find_undecodable, open_text
from lengthwise.data.tables import NEGATIVE_ZERO, JsonFloat, Malformed
from lengthwise.errors import DatasetError

_READ_CHARACTERS = 2**18
_LONGEST_TOKEN = 16  # characters, of a literal or an escape that the end of the buffer cuts; they have up to 12
_SPACE = " \t\n\r\ufeff"


class JsonObject(dict[str, Any]):
    """An object in which keys are written twice; it has the last value of each.

    Attributes:
        repeated: those keys.
    """

    repeated: frozenset[str]


def read_values(file: DataFile, settings: DatasetSettings) -> Iterator[tuple[int, Any]]:
    """Each row's line, counted from 1, and its value, or a `Malformed`.

    Raises:
        DatasetError: the file is malformed where rows are not lines, or has no field `dataset.field`.
    """
    with open_text(file, settings, newline=None) as text:
        start = text.read(_READ_CHARACTERS)
        while not start.strip(_SPACE) and (more := text.read(_READ_CHARACTERS)):
            start += more
        if settings.field is not None or start.lstrip(_SPACE).startswith("["):
            if _has_arrays_by_line(start) and settings.field is None:
                raise DatasetError(
                    f"{settings.path}: each line of {file} is an array; rows are objects, which name their values, such"
                    ' as {"text": "..."}; write it so, or as CSV'
                )
            yield from _Document(start, text, file, settings).rows()
            return
        start += "" if start.endswith("\n") else text.readline()
        if _has_rows_by_line(start):
            yield from _read_lines(chain(io.StringIO(start), text), settings)
        else:
            yield from _Document(start, text, file, settings).rows()


def _first_lines(start: str) -> Iterator[str]:
    """The first two lines that are not blank."""
    return islice((line.strip(_SPACE) for line in io.StringIO(start) if line.strip(_SPACE)), 2)


def _has_arrays_by_line(start: str) -> bool:
    """Whether the first line is an array of other values than objects, and the second begins another one."""
    lines = _first_lines(start)
    first, second = next(lines, ""), next(lines, "")
    try:
        value = _DECODER.decode(first)
    except (ValueError, RecursionError):
        return False
    return second.startswith("[") and isinstance(value, list) and not all(isinstance(item, dict) for item in value)


def _has_rows_by_line(start: str) -> bool:
    """Whether the first value ends with its line, or the second line begins another one."""
    lines = _first_lines(start)
    first, second = next(lines, ""), next(lines, "{")
    if not first.startswith("{"):
        return True
    try:
        _DECODER.raw_decode(first)
    except (ValueError, RecursionError) as error:
        goes_on = getattr(error, "pos", 0) >= len(first)
        return not goes_on or second.startswith("{")
    return True


def _read_lines(lines: Iterable[str], settings: DatasetSettings) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip(_SPACE):
            continue
        try:
            yield number, _DECODER.decode(line.strip(_SPACE))
        except (ValueError, RecursionError) as error:
            values = _decode_several(line)
            yield from ((number, value) for value in values or [_malformed(line, error, settings)])


def _decode_several(line: str) -> list[Any]:
    """The objects of a line that holds several, one after the other; none if it holds anything else."""
    values, position = [], 0
    while position < len(line):
        try:
            value, position = _DECODER.raw_decode(line, position)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict):
            return []
        values.append(value)
        while position < len(line) and line[position] in _SPACE:
            position += 1
    return values


def _malformed(line: str, error: Exception, settings: DatasetSettings) -> Malformed:
    text = line.rstrip("\r\n")
    undecodable = find_undecodable(line, settings)
    if undecodable is None and text.rstrip().endswith("},"):
        return Malformed("not valid JSON: a comma after the object", text)
    return Malformed(undecodable or f"not valid JSON: {_explain(error)}", text)


def _explain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"  # some messages end in "at"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


class _Document:
    """The values of a file, decoded one by one; of an array, its items.

    Attributes:
        line: the line of what is decoded next.
    """

    def __init__(self, start: str, text: TextIO, file: DataFile, settings: DatasetSettings) -> None:
        self._buffer, self._text, self._file, self._settings = start, text, file, settings
        self._position = self._counted = 0
        self._ended = False
        self.line = 1

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Each row's line and its value."""
        while self._peek():
            if self._settings.field is None:
                yield from self._items()
            else:
                yield from self._field(self._settings.field)

    def _items(self) -> Iterator[tuple[int, Any]]:
        """The items of the next value, if it is an array, or that value."""
        if self._peek() != "[":
            line = self.line
            yield line, self._decode()
            return
        self._expect("[")
        if self._peek() == "]":
            self._expect("]")
            return
        while True:
            self._peek()
            line = self.line
            yield line, self._decode()
            if self._expect(",", "]") == "]":
                return

    def _field(self, field: str) -> Iterator[tuple[int, Any]]:
        """The items of a field of the next value, an object; "a.b" is the field b of the field a."""
        names: list[str] = []
        found = False
        if self._peek() != "{":
            raise self._error(f"there is no object that could have the field {field!r}")
        self._expect("{")
        while self._peek() == '"':
            name = self._decode()
            names.append(name)
            self._expect(":")
            self._peek()
            if name == field:
                found = True
                yield from self._items()
            elif field.startswith(f"{name}."):
                found = True
                yield from self._field(field.removeprefix(f"{name}."))
            else:
                self._decode()
            if self._expect(",", "}") == "}":
                break
        else:
            self._expect("}")
        if not found:
            raise DatasetError(
                f"{self._settings.path}: {self._file} has no field {field!r}; set dataset.field to one of"
                f" {', '.join(map(repr, names))}"
            )

    def _peek(self) -> str:
        """The next character that is no space; "" at the end. Moves to it."""
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in _SPACE:
                    self.line += self._buffer.count("\n", self._counted, self._position)
                    self._counted = self._position
                    return self._buffer[self._position]
                self._position += 1
            if not self._fill():
                return ""

    def _expect(self, *characters: str) -> str:
        found = self._peek()
        if found not in characters or not found:
            expected = " or ".join(map(repr, characters))
            raise self._error(f"{found!r} where {expected} is expected" if found else "the file ends within a value")
        self._position += 1
        return found

    def _decode(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._position)
            except (ValueError, RecursionError) as error:
                if self._may_go_on(error) and self._fill():
                    continue
                self.line += self._buffer.count("\n", self._counted, getattr(error, "pos", self._position))
                raise self._error(_explain(error)) from error
            if end < len(self._buffer) or not self._fill():  # a number may go on
                self._position = end
                return value

    def _may_go_on(self, error: Exception) -> bool:
        """Whether an error may only be due to the end of the buffer."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.pos >= len(self._buffer) - _LONGEST_TOKEN or error.msg.startswith("Unterminated string")

    def _fill(self) -> bool:
        """Read more, at least as much as there is; returns whether there was more."""
        if self._ended:
            return False
        self.line += self._buffer.count("\n", self._counted, self._position)
        kept = self._buffer[self._position :]
        more = self._text.read(max(_READ_CHARACTERS, len(kept)))
        self._ended = not more
        self._buffer, self._position, self._counted = kept + more, 0, 0
        return bool(more)

    def _error(self, reason: str) -> DatasetError:
        undecodable = find_undecodable(self._buffer[self._position : self._position + 1_000], self._settings)
        return DatasetError(
            f"{self._settings.path}: the rows cannot be read ({self._file}, line {self.line}: not valid JSON:"
            f" {reason}{'; ' + undecodable if undecodable else ''}); fix the file"
        )


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    names = [name for name, _ in pairs]
    repeating = JsonObject(made)
    repeating.repeated = frozenset(name for name in made if names.count(name) > 1)
    return repeating


def _parse_int(literal: str) -> int:
    return NEGATIVE_ZERO if literal == "-0" else int(literal)


# Tabs and other control characters in a string, which the standard forbids, have one meaning only.
_DECODER = json.JSONDecoder(object_pairs_hook=_make_object, parse_float=JsonFloat, parse_int=_parse_int, strict=False)
