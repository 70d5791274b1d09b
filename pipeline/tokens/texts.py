"""Texts from any iterable, in chunks of bounded size."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lengthwise.errors import TextError

CHUNK_ROWS, CHUNK_CHARACTERS = 65_536, 64 * 2**20
_READ_ROWS = 1_024


def chunk_texts(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The texts in order, as many at a time as the limits allow, with the row number of the first.

    Args:
        texts: a list, a generator, a one-dimensional array of NumPy or Arrow, a pandas Series, a column of a `datasets`
            dataset.

    Raises:
        TextError: it is no such thing, or a row is not a string.
    """
    chunk, characters, row = list[str](), 0, -1
    for row, text in enumerate(_rows(texts)):
        if not isinstance(text, str):
            found = f"{reprlib.repr(text)} ({type(text).__name__})"
            raise TextError(f"texts[{row}] is {found}, not a string; replace it, or leave it out")
        chunk.append(str(text))
        characters += len(text)
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield row + 1 - len(chunk), chunk
            chunk, characters = [], 0
    if chunk:
        yield row + 1 - len(chunk), chunk


def _rows(texts: Any) -> Iterator[Any]:
    """The items of an iterable; what can be sliced is read many rows at a time."""
    if isinstance(texts, set | frozenset):
        raise TextError("texts is a set, which has no order; give a list, whose order the vectors then have")
    axes = len(getattr(texts, "shape", (0,)))
    if isinstance(texts, Mapping | bytes | bytearray) or axes != 1 or not isinstance(texts, Iterable):
        raise TextError(f"texts is of type {type(texts).__name__}; give one text, or an iterable of texts")
    if isinstance(texts, np.ndarray | Sequence) or hasattr(texts, "to_pylist"):
        sliceable: Any = texts
        for start in range(0, len(sliceable), _READ_ROWS):
            rows = sliceable[start : start + _READ_ROWS]
            convert = getattr(rows, "to_pylist", None) or getattr(rows, "tolist", None)
            yield from convert() if convert else rows
    else:
        yield from texts
