"""Checks of ragged tokens."""

from __future__ import annotations

import numpy as np

from lengthwise.tokens.ragged import RaggedTokens


def rows(shard: RaggedTokens) -> list[list[int]]:
    return [shard.row(index).tolist() for index in range(len(shard))]


def check_shard(shard: RaggedTokens, texts: int) -> None:
    assert len(shard) == texts
    assert (shard.values.dtype, shard.offsets.dtype) == (np.int32, np.int64)
    assert (shard.truncated.dtype, shard.null.dtype) == (np.bool_, np.bool_)
    assert (shard.truncated.shape, shard.null.shape, shard.offsets.shape) == ((texts,), (texts,), (texts + 1,))
    assert shard.offsets[0] == 0
    assert shard.offsets[-1] == len(shard.values)
