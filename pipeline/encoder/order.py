"""Gives an encoder its rows from the longest to the shortest, which is the order of a packed batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def encode_longest_first(
    encode: Encode, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The vectors of a batch in any order, by an `encode` that requires falling lengths.

    A batch of `plan_batches` is in that order already: it is passed on as it is, without a copy. Any other batch is
    sorted, rows of one length in their own order, and its vectors are put back.

    Args:
        encode: int64[batch, sequence], right-padded, and int64[batch], falling, to float32[batch, dim].

    Returns:
        float32[batch, dim], in the order of the input.
    """
    if (lengths[:-1] >= lengths[1:]).all():
        return encode(input_ids, lengths)
    order = np.argsort(-lengths, kind="stable")
    vectors = encode(input_ids[order], lengths[order])
    unsorted = np.empty_like(vectors)
    unsorted[order] = vectors
    return unsorted
