"""Splits a batch that does not fit into memory until it does, for any engine."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import LengthwiseError

log = logging.getLogger(__name__)
Encode = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def split_on_oom(
    encode: Encode,
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    is_oom: Callable[[Exception], bool],
    device: str,
    release: Callable[[], object] | None = None,
) -> NDArray[np.float32]:
    """Encode a batch, or its halves where it runs out of memory; the last bits may differ then.

    Args:
        encode: int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim].
        is_oom: whether an error means that memory ran out; other errors are raised unchanged.
        device: name of the device, for the message.
        release: frees the memory of the failed attempt before the halves are tried.

    Raises:
        LengthwiseError: a single row does not fit.
    """
    try:
        return encode(input_ids, lengths)
    except Exception as error:  # each library raises its own types
        if not is_oom(error):
            raise
        if len(lengths) == 1:
            raise LengthwiseError(
                f"one text of {int(lengths[0]):,} tokens does not fit into the memory of {device};"
                " set tokenizer.max_length and tokenizer.truncate, or use a machine with more"
            ) from error
    if release is not None:  # the error and the arrays of its frames are freed by now
        release()
    log.warning("a batch of %d rows of up to %d tokens does not fit into memory; halved", *input_ids.shape)
    half = len(lengths) // 2
    return np.concatenate(
        [
            split_on_oom(encode, input_ids[part], lengths[part], is_oom=is_oom, device=device, release=release)
            for part in (slice(None, half), slice(half, None))
        ]
    )
