"""Helpers for `RaggedTokens`."""

from __future__ import annotations

import numpy as np

from lengthwise.tokens.ragged import RaggedTokens


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
