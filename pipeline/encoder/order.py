"""Sorts a batch from its longest row to its shortest, the order of a packed batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def encode_longest_first(
    encode: Encode, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Encode a batch in any order with an `encode` that requires descending lengths.

    A batch of `plan_batches` is in that order already and is passed on without a copy. Any other batch is sorted
    (stably), and its vectors are returned in input order.

    Args:
        encode: int64[batch, sequence], right-padded, and int64[batch], descending, to float32[batch, dim].

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
