"""Complete folders of given vectors, as a run would have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from helpers.stores import IDENTITY_A, commit_table, counts
from lengthwise.store.parquet import vector_table
from lengthwise.store.vectors import VectorStore


def write_vectors(
    folder: Path,
    vectors: NDArray[np.floating],
    kept: pa.Table | None = None,
    *,
    shard_rows: int = 1_000,
    is_null: NDArray[np.bool_] | None = None,
    **identity: Any,
) -> Path:
    """Write a folder with these vectors and kept columns, by default their numbers as `number`; returns it."""
    kept = pa.table({"number": np.arange(len(vectors))}) if kept is None else kept
    with VectorStore.open(folder, {**IDENTITY_A, **identity}, "run: 1\n") as store:
        for index, first in enumerate(range(0, len(vectors), shard_rows)):
            rows = slice(first, min(first + shard_rows, len(vectors)))
            count = rows.stop - rows.start
            null = None if is_null is None else is_null[rows]
            table = vector_table(
                kept.slice(first, count), vectors[rows], np.ones(count, np.int64), np.zeros(count, np.bool_), null
            )
            commit_table(store, table, {**counts(index), "first_row": first})
        store.finish(len(vectors), shard_rows, "a card\n")
    return folder
