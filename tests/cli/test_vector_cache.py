"""`lengthwise cache`: what it prints, and what prune removes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from helpers.cli import Invoke, refusal
from lengthwise.errors import StoreError
from lengthwise.store import cache as cache_module
from lengthwise.store.cache import VectorCache
from lengthwise.store.records import ShardRecord

IDENTITY = {"engine": "lookup", "weights": "aaaa", "versions": {"lengthwise": "1.2"}}


def add(cache: VectorCache, rows: int = 3) -> ShardRecord:
    hashes = np.frombuffer(os.urandom(16 * rows), np.uint8).reshape(-1, 16)
    return cache.add(hashes, np.ones((rows, 4), np.float32), np.ones(rows, np.int64), np.zeros(rows, np.bool_))


def test_stats_and_verify(tmp_path: Path, invoke: Invoke) -> None:
    cache = VectorCache(tmp_path / "cache", IDENTITY)
    damaged = [add(cache), add(cache, 5)][0]
    name = Path(str(cache)).name
    result = invoke("vector_cache", "stats", tmp_path / "cache")
    assert result.stdout == f"{name}  8 rows in 2 segments, 0.0 MB: lookup, weights aaaa, Lengthwise 1.2\n"
    assert invoke("vector_cache", "verify", tmp_path / "cache").exit_code == 0
    (Path(str(cache)) / damaged.file).write_bytes(b"")
    result = invoke("vector_cache", "verify", tmp_path / "cache")
    assert result.exit_code == 1
    assert f"damaged   {Path(str(cache)) / damaged.file}: was changed" in result.stdout


def test_prune_removes_what_is_damaged_or_left(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VectorCache(tmp_path / "cache", IDENTITY)
    folder, whole, damaged = Path(str(cache)), add(cache), add(cache)
    (folder / damaged.file).write_bytes(b"")
    for when in ("1000000000000000", str(whole.index + 1)):  # long ago, and a moment ago by a run that goes on
        (folder / f"data/shard-{when}.parquet").write_bytes(b"half")
    result = invoke("vector_cache", "prune", tmp_path / "cache")
    assert result.stdout == f"{folder.name}  3 rows removed\n"
    assert cache.read().records == {whole.index: whole}
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        f"shard-{whole.index}.parquet",
        f"shard-{whole.index + 1}.parquet",
    ]
    assert [path.name for path in (folder / "hashes").iterdir()] == [f"shard-{whole.index}.npy"]
    now = cache_module.time.time()
    monkeypatch.setattr(cache_module.time, "time", lambda: now + 10 * 86_400)
    assert invoke("vector_cache", "prune", tmp_path / "cache", "--older-than", "11").stdout.endswith(
        "  0 rows removed\n"
    )
    assert invoke("vector_cache", "prune", tmp_path / "cache", "--older-than", "9").stdout.endswith(
        "  3 rows removed\n"
    )
    assert not list((folder / "data").iterdir())


def test_prune_removes_a_model(tmp_path: Path, invoke: Invoke) -> None:
    first, second = (VectorCache(tmp_path / "cache", {**IDENTITY, "weights": name}) for name in "ab")
    add(first), add(second)
    result = invoke("vector_cache", "prune", tmp_path / "cache", "--model", Path(str(first)).name)
    assert result.exit_code == 0, result.stderr
    assert (len(first.read().records), len(second.read().records)) == (0, 1)
    assert "has no model 'x'" in refusal(invoke("vector_cache", "prune", tmp_path / "cache", "--model", "x"))


def test_no_cache_is_refused(tmp_path: Path, invoke: Invoke) -> None:
    for command in ("stats", "verify", "prune"):
        assert "not a cache of vectors" in refusal(invoke("vector_cache", command, tmp_path / "none"))


def test_prune_makes_a_damaged_model_usable(tmp_path: Path, invoke: Invoke) -> None:
    cache = VectorCache(tmp_path / "cache", IDENTITY)
    add(cache)
    (Path(str(cache)) / "identity.json").write_text("{}")
    assert "its identity.json is damaged" in invoke("vector_cache", "verify", tmp_path / "cache").stdout
    with pytest.raises(StoreError, match="identity"):
        VectorCache(tmp_path / "cache", IDENTITY)
    assert invoke("vector_cache", "prune", tmp_path / "cache").exit_code == 0
    again = VectorCache(tmp_path / "cache", IDENTITY)
    assert again.read().records == {}
    assert add(again).rows == 3
