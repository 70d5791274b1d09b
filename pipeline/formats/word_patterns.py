"""Regular expressions that match any of many words, for the normalizers and pre-tokenizers of the tokenizers library.

A list of words is written as a prefix tree, `a(?:b|cd)`, since the library tries alternatives one after another: with
a flat list, each position of a text would be compared with every word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MARKS = range(0xF0000, 0xF1000)  # characters of a private use area that mark words
_END = ""  # the key that marks the end of a word in a node of the tree


def escape(text: str) -> str:
    """A text as a pattern that matches it alone; ASCII punctuation is escaped."""
    return "".join(
        f"\\{char}" if char.isascii() and not char.isalnum() and char.isprintable() else char for char in text
    )


def any_of(words: Iterable[str]) -> str:
    """A pattern that matches each of these words, not in order of length: what follows has to fix where a word ends."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for char in word:
            node = node.setdefault(char, {})
        node[_END] = {}
    pattern = _pattern(root)
    return f"(?=[{''.join(escape(char) for char in root)}]){pattern}" if len(root) > 4 else pattern


def _pattern(node: dict[str, Any]) -> str:
    prefix = ""
    while len(node) == 1 and _END not in node:  # a chain without a branch needs no group
        ((char, node),) = node.items()
        prefix += escape(char)
    branches = [escape(char) + _pattern(child) for char, child in node.items() if char != _END]
    if not branches:
        return prefix
    return f"{prefix}(?:{'|'.join(branches)}){'?' if _END in node else ''}"
