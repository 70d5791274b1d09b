"""Padding that is part of an encoder's function: which ids are read for a text, in PyTorch and in NumPy.

- Reading a row that is padded already gives the same row, so it does no harm to pad twice.
- A text longer than the padding is cut, or read whole, as the model says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig

if TYPE_CHECKING:
    from torch import Tensor


class ReadIds(NamedTuple):
    """The ids that are read.

    Attributes:
        input_ids: int64[batch, at least the longest].
        lengths: int64[batch], how many of a row are read, padding included.
        first: int64[batch], the first token of the text that is read.
        place: int64[batch], where it is in the row.
        kept: int64[batch], tokens of the text that are read.
    """

    input_ids: Tensor
    lengths: Tensor
    first: Tensor
    place: Tensor
    kept: Tensor

    def own_states(self, states: Tensor, sequence: int) -> Tensor:
        """States at the ids that are read, [batch, ..., width], as [batch, sequence, width] at the text's own tokens.

        They are zero at tokens that are cut off, and beyond a text's end.
        """
        import torch

        own = torch.arange(sequence, device=states.device) - self.first[:, None]
        is_read = (own >= 0) & (own < self.kept[:, None])
        places = torch.where(is_read, own + self.place[:, None], 0)[:, :, None].expand(-1, -1, states.shape[2])
        return torch.where(is_read[:, :, None], states.gather(1, places), 0.0)


def read_ids(input_ids: Tensor, lengths: Tensor, config: EncoderConfig) -> ReadIds:
    """What is read of right-padded rows, in PyTorch; also where it is traced.

    Args:
        input_ids: int64[batch, sequence].
        lengths: int64[batch], from 1 to sequence, on the same device.
        config: of an encoder with padding.
    """
    import torch

    rule, sequence = config.padding, input_ids.shape[1]
    if rule is None:
        raise ValueError("this encoder reads no padding")
    if rule.truncate is not None:
        width, total = rule.to, torch.full_like(lengths, rule.to)
        kept = torch.where(lengths < rule.to, lengths, rule.to)  # not `clamp`: OpenCV clips no integers
    else:  # a trace would fix the larger of both, so there are further columns, which are not read
        width = sequence + rule.to if torch.jit.is_tracing() else torch.sym_max(sequence, rule.to)
        kept, total = lengths, torch.where(lengths > rule.to, lengths, rule.to)
    first = lengths - kept if rule.truncate == "pre" else torch.zeros_like(lengths)
    place = total - kept if rule.side == "pre" else torch.zeros_like(lengths)
    source = torch.arange(width, device=input_ids.device) - place[:, None]
    is_text = (source >= 0) & (source < kept[:, None])
    ids = input_ids.gather(1, torch.where(is_text, source + first[:, None], 0))
    return ReadIds(torch.where(is_text, ids, config.pad_token_id), total, first, place, kept)


def read_batch(
    input_ids: NDArray[np.int64], lengths: NDArray[np.int64], config: EncoderConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `read_ids`, in NumPy: the ids, int64[batch, longest], and how many of each row are read."""
    rule = config.padding
    if rule is None:
        return input_ids, lengths
    kept = lengths if rule.truncate is None else np.minimum(lengths, rule.to)
    total = np.maximum(kept, rule.to)
    first = lengths - kept if rule.truncate == "pre" else np.zeros_like(lengths)
    place = total - kept if rule.side == "pre" else np.zeros_like(lengths)
    source = np.arange(total.max(initial=rule.to)) - place[:, None]
    is_text = (source >= 0) & (source < kept[:, None])
    ids = np.take_along_axis(input_ids, np.where(is_text, source + first[:, None], 0), axis=1)
    return np.where(is_text, ids, config.pad_token_id), total


def read_lengths(lengths: NDArray[np.int64], config: EncoderConfig) -> NDArray[np.int64]:
    """How many ids are read of texts of these lengths; none of a text without tokens."""
    rule = config.padding
    if rule is None:
        return lengths
    read = np.maximum(lengths, rule.to) if rule.truncate is None else np.full_like(lengths, rule.to)
    return np.where(lengths > 0, read, 0)


def is_cut(lengths: NDArray[np.int64], config: EncoderConfig) -> NDArray[np.bool_]:
    """Whether texts of these lengths are cut."""
    rule = config.padding
    return lengths > rule.to if rule is not None and rule.truncate is not None else np.zeros(len(lengths), np.bool_)
