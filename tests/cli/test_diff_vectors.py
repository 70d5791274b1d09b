"""`lengthwise diff`: what it prints and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.cli import Invoke, refusal
from helpers.vector_folders import write_vectors


def test_rows_are_counted_and_written(tmp_path: Path, invoke: Invoke) -> None:
    vectors = np.eye(3, dtype=np.float32)
    write_vectors(tmp_path / "old", vectors, pa.table({"id": [1, 2, 3], "old": [1, 1, 1]}))
    write_vectors(tmp_path / "new", vectors[::-1], pa.table({"id": [1, 2, 4]}), weights="bbbb")
    result = invoke("diff_vectors", tmp_path / "old", tmp_path / "new", "--key", "id", "--output", tmp_path / "diff")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "added       1 rows",
        "removed     1 rows",
        "changed     1 rows: the vector of 1, kept columns of 0",
        "unchanged   1 rows",
        'model       the vectors are of two models: weights was "aaaa", is "bbbb"',
        f"columns     old: only in {tmp_path / 'old'}, and not compared",
        f"written     {tmp_path / 'diff'}",
    ]
    assert pq.read_table(tmp_path / "diff/added.parquet")["id"].to_pylist() == [4]
    assert pq.read_table(tmp_path / "diff/removed.parquet")["id"].to_pylist() == [3]
    assert "no kept column 'key'" in refusal(invoke("diff_vectors", tmp_path / "old", tmp_path / "new", "--key", "key"))
