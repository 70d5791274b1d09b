"""`lengthwise cache`: what it prints, and what prune removes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from helpers.cli import Invoke, refusal
from helpers.texts import TEXTS
from lengthwise.encoder.kernel import has_kernel
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


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_verify_encodes_a_sample_again(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    cache = tmp_path / "cache"
    assert invoke("encode_dataset", trained, "--set", f"encode.cache={cache}").exit_code == 0
    result = invoke("vector_cache", "verify", cache, "--texts", trained, "--sample", 4)
    assert result.exit_code == 0, result.stderr
    of_all = f"rows of {trained} that are there ({len(TEXTS)} in all)"
    assert f"compared    4 of {len(TEXTS)} {of_all}: all bits are the same" in result.stdout
    of_run = invoke("vector_cache", "stats", trained.parent / "vectors").stdout
    assert f"vectors  {len(TEXTS)} rows in" in of_run
    assert "Lengthwise" not in of_run  # the identity of a run has no versions
    [folder] = cache.iterdir()
    rewritten = VectorCache(cache, json.loads((folder / "identity.json").read_text())["depends_on"])
    kept, index = rewritten.read(), min(rewritten.read().records)
    stored, hashes = kept.rows(index, np.arange(2)), kept.hashes(index)[:2]
    (folder / "shards.jsonl").unlink()
    rewritten.add(hashes, stored.vectors + np.float32(1), stored.lengths, stored.truncated)  # with right checksums
    result = invoke("vector_cache", "verify", cache, "--texts", trained)
    assert result.exit_code == 1
    assert "  differs   row 0 (" in result.stdout
    assert f"compared    2 of 2 {of_all}: 2 differ" in result.stdout
    rewritten.add(hashes, stored.vectors * np.float32(0), stored.lengths, stored.truncated)
    (folder / "shards.jsonl").write_text((folder / "shards.jsonl").read_text().splitlines()[-1] + "\n")
    result = invoke("vector_cache", "verify", cache, "--texts", trained)
    assert result.exit_code == 1
    assert f"compared    0 of 2 {of_all}: those that were drawn have no vector that can be" in result.stdout


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_verify_reads_a_folder_of_vectors(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("encode_dataset", trained, "--set", "encode.row_hashes=true").exit_code == 0
    result = invoke("vector_cache", "verify", tmp_path / "vectors", "--texts", trained)
    assert result.exit_code == 0, result.stderr
    assert "all bits are the same" in result.stdout
    (tmp_path / "vectors/data/shard-000001.parquet").write_bytes(b"")
    result = invoke("vector_cache", "verify", tmp_path / "vectors")
    assert result.exit_code == 1
    assert f"damaged   {tmp_path}/vectors/data/shard-000001.parquet: was changed" in result.stdout
    assert "not a cache of vectors" in refusal(invoke("vector_cache", "prune", tmp_path / "vectors"))


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


def test_compact_joins_small_segments(tmp_path: Path, invoke: Invoke) -> None:
    cache = VectorCache(tmp_path / "cache", IDENTITY)
    add(cache), add(cache), add(cache)
    damaged = add(cache)
    (Path(str(cache)) / damaged.file).write_bytes(b"")
    result = invoke("vector_cache", "compact", tmp_path / "cache")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{Path(str(cache)).name}  3 segments joined into 1, 1 damaged ones removed\n"
    printed = invoke("vector_cache", "stats", tmp_path / "cache").stdout
    assert "9 rows in 1 segments, 0.0 MB, 6 files that killed runs or compact left: lookup" in printed


def test_no_cache_is_refused(tmp_path: Path, invoke: Invoke) -> None:
    for command in ("stats", "verify", "prune", "compact"):
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
