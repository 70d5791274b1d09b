"""`PackedIds`: a batch of ids in the order in which a step-wise LSTM reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PackedIds:
    """A batch, sorted from its longest row to its shortest and packed: the first tokens of all rows, then the second.

    Attributes:
        steps: int64[longest], rows per step.
        ids: int32[tokens] per direction. The reverse direction reads each row from its end.
        positions: int32[tokens] per direction, the token's place in the order of the forward direction.
    """

    steps: NDArray[np.int64]
    ids: list[NDArray[np.int32]]
    positions: list[NDArray[np.int32]]

    @classmethod
    def pack(cls, input_ids: NDArray[np.int64], lengths: NDArray[np.int64], directions: int) -> PackedIds:
        """Pack int64[batch, sequence], right-padded, with int64[batch] in descending order."""
        times = np.arange(lengths[0])
        steps = len(lengths) - np.searchsorted(lengths[::-1], times, side="right")
        is_token = times[:, None] < lengths
        ids = [input_ids.T[: lengths[0]][is_token].astype(np.int32)]
        positions = [np.arange(len(ids[0]), dtype=np.int32)]
        if directions == 2:
            row = np.broadcast_to(np.arange(len(lengths)), is_token.shape)[is_token]
            time = (lengths - 1 - times[:, None])[is_token]
            reversed_positions = (np.cumsum(steps) - steps)[time] + row
            positions.append(reversed_positions.astype(np.int32))
            ids.append(ids[0][reversed_positions])
        return cls(steps.astype(np.int64), ids, positions)
