"""Helpers for `RaggedTokens`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lengthwise.tokens.ragged import RaggedTokens


def ragged(rows: Sequence[Sequence[int]]) -> RaggedTokens:
    """Rows of ids, none truncated or null."""
    values = np.array([value for row in rows for value in row], np.int32)
    no = np.zeros(len(rows), np.bool_)
    return RaggedTokens(values, np.cumsum([0, *map(len, rows)]), no, no)


def rows(tokens: RaggedTokens) -> list[list[int]]:
    return [tokens.row(index).tolist() for index in range(len(tokens))]


def check_ragged(tokens: RaggedTokens, texts: int) -> None:
    """dtypes, shapes and offsets fit each other and the number of texts."""
    assert len(tokens) == texts
    assert (tokens.values.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    assert (tokens.truncated.dtype, tokens.null.dtype) == (np.bool_, np.bool_)
    assert (tokens.truncated.shape, tokens.null.shape, tokens.offsets.shape) == ((texts,), (texts,), (texts + 1,))
    assert tokens.offsets[0] == 0
    assert tokens.offsets[-1] == len(tokens.values)
