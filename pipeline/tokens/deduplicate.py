"""Finds rows of the same ids, which are encoded once: pyarrow's dictionary encoding of the ids' bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def find_distinct_rows(
    values: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each sequence of ids, and which of these each row equals.

    Args:
        values: int32[tokens], the ids of all rows.
        offsets: int64[rows + 1]; row i is `values[offsets[i]:offsets[i + 1]]`.

    Returns:
        int64[distinct], rising, and int64[rows], indices into these.
    """
    buffers = [None, pa.py_buffer(offsets * values.itemsize), pa.py_buffer(values)]
    rows = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    same_as = rows.dictionary_encode().indices.to_numpy().astype(np.int64)  # numbered by first occurrence
    is_first = np.diff(np.maximum.accumulate(same_as), prepend=-1) > 0
    return np.flatnonzero(is_first), same_as
