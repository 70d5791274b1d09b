"""A loaded teacher: what each kind of model gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise.training.equal_lengths import EncodeIds


@dataclass(frozen=True)
class TeacherModel:
    """A model in memory.

    Attributes:
        encode: texts to float32[texts, dim].
        encode_ids: int64[rows, length], special tokens included, to float32[rows, dim], not scaled to length 1; None
            where the model cannot be run on ids.
    """

    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    encode_ids: EncodeIds | None = None
