"""Patterns of Python's re match the same in the tokenizers library, or are refused by name."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from lengthwise.errors import ConfigError
from lengthwise.formats.patterns import library_pattern

PATTERNS = [
    r"[^\w\s]", r"^>.*$", r"\w+", r"\b\w", r"\B.", r"([.!?])", r"[a-c&&b]", r"[]x]", r"[^]x]", r"[\w.-]+", r"[-a\s]+",
    r"\xe9+", r"\u0939", r"a{,2}b", r"a{x", r"a{2}?", r"a{1,2}?b", r"(?=[.!?])", r"(?<!a)b", r"[\W_]", r"[[a]",
    r"(a)\1", r"[\x00-\x1f\]]", r"\-\.\/", r"[\U0001f600-\U0001f64f]", r"'\w+|\w+|[^\w\s]+", r"\d+(?:\.\d+)?",
    r"[^\W\d_]+", r"\s+$", r"^\s+", r" {2,}", r"[\b]", r"\N{DIGIT ONE}", r"\012", r"(?>a|b)", r"\S+\Z",
    r"[\D]", r"a{}", r"x{0,}y",
]  # fmt: skip
TEXTS = st.text("aabbcxy .&-]['1{}!?>_é\u0301ह\u093f\n\t\x1c\x85\xa0\u3000²५😀/,\b", max_size=9)


@settings(deadline=None, max_examples=300)
@given(pattern=st.sampled_from(PATTERNS), by=st.sampled_from(["", "#"]), text=TEXTS)
def test_matches_are_those_of_python(pattern: str, by: str, text: str) -> None:
    regex = Regex(library_pattern(pattern, "pattern"))
    assert normalizers.Replace(regex, by).normalize_str(text) == re.sub(pattern, by, text)
    pieces = pre_tokenizers.Split(regex, "removed", invert=True).pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == [found[0] for found in re.finditer(pattern, text) if found[0]]


@pytest.mark.parametrize("kind", ["w", "d", "s", "W", "D", "S"])
def test_classes_hold_the_same_characters(kind: str) -> None:
    numbers = (number for number in range(sys.maxunicode + 1) if not 0xD800 <= number < 0xE000)
    known = "".join(char for char in map(chr, numbers) if unicodedata.category(char) != "Cn")  # of Python's Unicode
    replace = normalizers.Replace(Regex(library_pattern(f"\\{kind}", "pattern")), "")
    assert set(replace.normalize_str(known)) == set(re.sub(f"\\{kind}", "", known))


def test_properties_are_kept() -> None:
    regex = Regex(library_pattern(r"\p{L}+|[\P{L}]", "pattern"))
    assert [piece for piece, _ in pre_tokenizers.Split(regex, "isolated").pre_tokenize_str("né2")] == ["né", "2"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?i)a", "has '\\(\\?i\\)', which cannot be imported"),
        ("(?P<name>a)", "use groups without a name"),
        ("(a)?(?(1)b|c)", "cannot be imported"),
        ("a{2}+", "leave out the"),
        ("(", "is not a regular expression of Python's re"),
        (r"\q", "is not a regular expression of Python's re"),
    ],
)
def test_what_has_no_equal_is_named(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        library_pattern(pattern, "tokens.clean")
    with pytest.raises(ConfigError, match="matches an empty text too"):
        library_pattern("x*", "tokens.clean", may_be_empty=False)
