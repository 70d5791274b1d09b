"""Regular expressions of Python's re, as the tokenizers library (Oniguruma) has to have them to match the same.

- The two differ without a word. Oniguruma's \\w has combining marks, its ^ and $ match at every line, its \\xe9 is a
  byte, and a bracket or && within a class has a meaning of its own. So every part of a pattern is written anew.
- What has no equal is refused by name: flags, conditions and named groups.
"""

from __future__ import annotations

import re
import unicodedata
import warnings

from lengthwise.errors import ConfigError
from lengthwise.formats.whitespace_tokenizer import WHITESPACE

_WORD = "\\p{L}\\p{N}_"
_CLASSES = {"w": _WORD, "d": "\\p{Nd}", "s": WHITESPACE}
_WORD_BEFORE, _WORD_AFTER = f"(?<=[{_WORD}])", f"(?=[{_WORD}])"
_NO_WORD_BEFORE, _NO_WORD_AFTER = f"(?<![{_WORD}])", f"(?![{_WORD}])"
_ANCHORS = {
    "A": "\\A",
    "Z": "\\z",
    "b": f"(?:{_WORD_BEFORE}{_NO_WORD_AFTER}|{_NO_WORD_BEFORE}{_WORD_AFTER})",
    "B": f"(?:{_WORD_BEFORE}{_WORD_AFTER}|{_NO_WORD_BEFORE}{_NO_WORD_AFTER})",
}
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>")
_REPEAT = re.compile(r"\{(\d*)(,?)(\d*)\}([?+]?)")
_PROPERTY = re.compile(r"[pP]\{\^?\w+\}")


def library_pattern(pattern: str, origin: str, *, may_be_empty: bool = True) -> str:
    """A pattern of Python's `re`, and `\\p{...}` in it, as the tokenizers library reads it.

    Args:
        origin: which setting it is, for messages.
        may_be_empty: whether it may match an empty text; the two replace matches of nothing differently.

    Raises:
        ConfigError: it is not a regular expression, or has a part that the library has no equal of.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what sets may mean in a later version
            compiled = re.compile(re.sub(r"\\[pP]\{\^?\w+\}", r"\\w", pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{origin}: {pattern!r} is not a regular expression of Python's re ({error})") from error
    if not may_be_empty and compiled.match(""):
        raise ConfigError(f"{origin}: {pattern!r} matches an empty text too, which cannot be replaced; use + for *")
    return _Translation(pattern, origin).whole()


class _Translation:
    """One pattern, read from left to right."""

    def __init__(self, pattern: str, origin: str) -> None:
        self._pattern, self._origin, self._at = pattern, origin, 0

    def whole(self) -> str:
        """The pattern in the library's form."""
        parts = []
        while self._at < len(self._pattern):
            parts.append(self._part())
        return "".join(parts)

    def _next(self, count: int = 1) -> str:
        found = self._pattern[self._at : self._at + count]
        self._at += count
        return found

    def _refuse(self, part: str, remedy: str) -> ConfigError:
        return ConfigError(f"{self._origin}: {self._pattern!r} has {part}, which cannot be imported; {remedy}")

    def _part(self) -> str:
        char = self._next()
        if char == "\\":
            return self._escape()
        if char == "[":
            return self._class()
        if char == "^":
            return "\\A"
        if char == "$":
            return "\\Z"
        if char == "{":
            return self._repeat()
        if char == "(" and self._pattern.startswith("?", self._at):
            opening = next((each for each in _GROUPS if self._pattern.startswith(each[1:], self._at)), None)
            if opening is None:
                part = self._pattern[self._at - 1 : self._at + 3]
                raise self._refuse(f"{part!r}", "use groups without a name, and clean: [lowercase] instead of a flag")
            self._at += len(opening) - 1
            return opening
        return char

    def _repeat(self) -> str:
        found = _REPEAT.match(self._pattern, self._at - 1)
        if found is None or not (found[1] or found[3] or found[2]):
            return "\\{"  # a brace that repeats nothing is that character
        self._at = found.end()
        if found[4] == "+":
            raise self._refuse(f"{found[0]!r}", "leave out the +")
        if not found[2]:
            return f"{{{found[1]}}}"  # so often, whether lazy or not
        return f"{{{found[1] or 0},{found[3]}}}{found[4]}"

    def _escape(self) -> str:
        char = self._next()
        if char in _ANCHORS:
            return _ANCHORS[char]
        if char in _CLASSES:
            return f"[{_CLASSES[char]}]"
        if char.lower() in _CLASSES:
            return f"[^{_CLASSES[char.lower()]}]"
        if char in "123456789" and not self._pattern[self._at : self._at + 1].isdecimal():
            return f"\\{char}"  # what a group matched
        self._at -= 1
        return self._property() or _written(self._character())

    def _property(self) -> str | None:
        """A property such as p{L}, which Python's re does not have."""
        found = _PROPERTY.match(self._pattern, self._at)
        if found is None:
            return None
        self._at = found.end()
        return f"\\{found[0]}"

    def _character(self) -> str:
        """The character that stands behind a backslash."""
        char = self._next()
        if char in _CONTROLS:
            return chr(_CONTROLS[char])
        if char == "b":  # within a class
            return "\b"
        if char in _HEX_DIGITS:
            return chr(int(self._next(_HEX_DIGITS[char]), 16))
        if char == "N":
            stop = self._pattern.index("}", self._at)
            return unicodedata.lookup(self._next(stop + 1 - self._at)[1:-1])
        if char.isdecimal():
            digits = char
            while len(digits) < 3 and self._pattern[self._at : self._at + 1] in tuple("01234567"):
                digits += self._next()
            if digits[0] != "0" and len(digits) < 3:
                raise self._refuse(f"\\{digits}", "write a character as \\x and two digits")
            return chr(int(digits, 8))
        return char

    def _class(self) -> str:
        negated = "^" if self._pattern.startswith("^", self._at) else ""
        self._at += len(negated)
        parts: list[str] = []
        while not parts or self._pattern[self._at] != "]":
            first = self._member()
            following = self._pattern[self._at : self._at + 2]
            if following[:1] == "-" and following != "-]":
                self._at += 1
                first += f"-{self._member()}"
            parts.append(first)
        self._at += 1
        return f"[{negated}{''.join(parts)}]"

    def _member(self) -> str:
        char = self._next()
        if char != "\\":
            return _written(char)
        kind = self._pattern[self._at]
        if kind.lower() in _CLASSES:
            self._at += 1
            inside = _CLASSES[kind.lower()]
            return inside if kind in _CLASSES else f"[^{inside}]"
        return self._property() or _written(self._character())


def _written(char: str) -> str:
    """A character that has no meaning of its own, in a class or outside."""
    return char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):x}}}"
