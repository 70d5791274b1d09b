"""A batch that does not fit into memory, halved until it does; whichever engine computes it."""

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
    out_of_memory: Callable[[Exception], bool],
    device: str,
    release: Callable[[], object] | None = None,
) -> NDArray[np.float32]:
    """What `encode` gives for a batch, or for its halves where it runs out of memory. Last bits may differ then.

    Args:
        encode: int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim].
        out_of_memory: whether an error says so; others are raised as they are.
        device: whose memory it is, for the message.
        release: gives back what a failed attempt left behind, before the halves are tried.

    Raises:
        LengthwiseError: not even one row fits.
    """
    try:
        return encode(input_ids, lengths)
    except Exception as error:  # each library raises its own types
        if not out_of_memory(error):
            raise
        if len(lengths) == 1:
            raise LengthwiseError(
                f"one text of {int(lengths[0]):,} tokens does not fit into the memory of {device};"
                " set tokenizer.max_length and tokenizer.truncate, or use a machine with more"
            ) from error
    if release is not None:  # the error is let go of by now, and with it what its frames held
        release()
    log.warning("a batch of %d rows of up to %d tokens does not fit into memory; halved", *input_ids.shape)
    half = len(lengths) // 2
    return np.concatenate(
        [
            split_on_oom(
                encode, input_ids[part], lengths[part], out_of_memory=out_of_memory, device=device, release=release
            )
            for part in (slice(None, half), slice(half, None))
        ]
    )
