"""Small files of tasks, and models whose vectors are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from lengthwise.evaluation.models import VectorModel

Write = Callable[..., str]
WORDS = ("cat", "dog", "moon", "sea", "rain", "hill")


def bag_of_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """How often each of WORDS is in a text."""
    return np.array([[text.split().count(word) for word in WORDS] for text in texts], np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes columns as a parquet file, and returns its path."""

    def make(name: str, **columns: Sequence[object]) -> str:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({key.replace("__", "-"): list(values) for key, values in columns.items()}), path)
        return str(path)

    return make


@pytest.fixture
def bag() -> VectorModel:
    return VectorModel("bag", bag_of_words)
