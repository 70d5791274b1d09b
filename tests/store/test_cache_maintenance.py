"""Segments of a cache are joined: nothing is lost, whatever happens meanwhile. What is printed is in `tests/cli`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.errors import StoreError
from lengthwise.store import cache_maintenance as maintenance
from lengthwise.store.cache import VectorCache
from lengthwise.store.cache_maintenance import Compaction, compact_cache, inspect_cache, prune_cache
from lengthwise.store.layout import LOCK
from lengthwise.store.local import LocalFolder
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import Folder
from lengthwise.store.records import ShardRecord
from lengthwise.tokens.tokenizer import TextTokenizer

IDENTITY = {"engine": "lookup", "weights": "aaaa"}


def hash_of(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=16).digest()


def vector_of(numbers: Any) -> NDArray[np.float32]:
    return np.outer(np.asarray(numbers), [1, 0.5, 0.25]).astype(np.float32) + 1


def add(cache: VectorCache, *numbers: int) -> ShardRecord:
    """A segment of texts that are numbers."""
    hashes = np.frombuffer(b"".join(map(hash_of, numbers)), np.uint8).reshape(-1, 16)
    lengths = np.array(numbers, np.int64) + 1
    return cache.add(hashes, vector_of(numbers), lengths, lengths % 2 == 0)


def held(kept: PreviousFolder) -> list[int]:
    """The numbers of the texts that a cache holds, with those that are there twice; their vectors are checked."""
    numbers, by_hash = [], {hash_of(number): number for number in range(100)}
    for index in sorted(kept.records):
        found = [by_hash[row.tobytes()] for row in kept.hashes(index)]
        stored = kept.rows(index, np.arange(len(found)))
        np.testing.assert_array_equal(stored.vectors, vector_of(found))
        np.testing.assert_array_equal(stored.lengths, np.array(found) + 1)
        np.testing.assert_array_equal(stored.truncated, stored.lengths % 2 == 0)
        numbers += found
    return numbers


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "cache", IDENTITY)


def name_of(cache: VectorCache) -> str:
    return Path(str(cache)).name


def files(cache: VectorCache) -> list[str]:
    return sorted(path.name for path in Path(str(cache)).glob("*/shard-*"))


def test_small_segments_become_one(cache: VectorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(0, 40, 4):
        add(cache, *range(first, first + 4), 3)  # a text that several runs have computed
    before = cache.read()
    assert compact_cache(tmp_path / "cache") == {name_of(cache): Compaction(10, 1, 0, 10)}
    assert held(cache.read()) == list(range(40))
    [record] = cache.read().records.values()
    assert (record.rows, record.tokens, record.truncated) == (40, sum(range(1, 41)), 20)
    assert sorted(held(before)) == sorted([*range(40), *[3] * 10])  # a run that has opened them goes on
    [report] = inspect_cache(tmp_path / "cache", verify=True)
    assert (report.rows, report.segments, report.damaged, report.unrecorded) == (40, 1, (), 20)

    assert compact_cache(tmp_path / "cache") == {name_of(cache): Compaction()}
    prune_cache(tmp_path / "cache")
    assert held(before)[:5] == [0, 1, 2, 3, 3]
    now = maintenance.time.time()
    monkeypatch.setattr(maintenance.time, "time", lambda: now + 86_500)
    compact_cache(tmp_path / "cache")
    assert files(cache) == [f"shard-{record.index}.npy", f"shard-{record.index}.parquet"]
    assert held(cache.read()) == list(range(40))
    with pytest.raises(StoreError, match="is missing; its rows are encoded again"):
        PreviousFolder(LocalFolder(Path(str(cache))), IDENTITY, before.records).hashes(min(before.records))


def test_segments_are_joined_up_to_a_size(cache: VectorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [Path(str(cache), add(cache, number, number + 1).file).stat().st_size for number in range(0, 14, 2)]
    large = add(cache, *range(20, 100))
    monkeypatch.setattr(maintenance, "JOINED_BYTES", 3 * max(sizes))
    assert Path(str(cache), large.file).stat().st_size >= 1.5 * max(sizes)
    [done] = compact_cache(tmp_path / "cache").values()
    assert (done.joined, done.into) in {(6, 2), (7, 2)}  # their sizes differ by some bytes
    assert large.index in cache.read().records
    assert sorted(held(cache.read())) == [*range(14), *range(20, 100)]


@pytest.mark.parametrize("kind", ["data", "hashes"])
@pytest.mark.parametrize("damage", ["bit", "missing"])
def test_damaged_segments_are_dropped(cache: VectorCache, tmp_path: Path, kind: str, damage: str) -> None:
    records = [add(cache, number) for number in range(4)]
    name = records[1].file if kind == "data" else f"hashes/shard-{records[1].index:06d}.npy"
    path = Path(str(cache), name)
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.unlink() if damage == "missing" else path.write_bytes(contents)
    assert compact_cache(tmp_path / "cache") == {name_of(cache): Compaction(3, 1, 1, 0)}
    assert held(cache.read()) == [0, 2, 3]
    assert not any(str(records[1].index) in name for name in files(cache))


def test_model_whose_identity_is_damaged_is_left_alone(
    cache: VectorCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(cache, 1), add(cache, 2)
    Path(str(cache), "identity.json").write_text("{}")
    assert compact_cache(tmp_path / "cache") == {name_of(cache): Compaction()}
    assert "its identity.json is damaged; lengthwise cache prune" in caplog.text


def test_what_runs_add_meanwhile_is_kept(cache: VectorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of its steps."""
    numbers = iter(range(10, 100))
    for name in ("_damaged", "write_segment", "read_records", "_remove_unrecorded", "read_sound_identity"):
        original = getattr(maintenance, name)

        def add_first(*given: Any, original: Callable[..., Any] = original, **options: Any) -> Any:
            add(cache, next(numbers))
            return original(*given, **options)

        monkeypatch.setattr(maintenance, name, add_first)
    add(cache, 0), add(cache, 1)
    for maintain in (compact_cache, prune_cache, compact_cache):
        maintain(tmp_path / "cache")
    assert sorted(held(cache.read())) == [0, 1, *range(10, next(numbers))]


def test_segment_that_a_run_adds_while_another_is_pruned_is_kept(
    cache: VectorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last moment: after the log was read for the last time."""
    damaged = add(cache, 1, 2)
    (tmp_path / "cache" / name_of(cache) / damaged.file).unlink()
    retired = maintenance._retired

    def add_first(folder: Folder) -> dict[int, float]:
        monkeypatch.setattr(maintenance, "_retired", retired)
        found = retired(folder)
        add(cache, 3, 4)
        return found

    monkeypatch.setattr(maintenance, "_retired", add_first)
    assert prune_cache(tmp_path / "cache") == {name_of(cache): 2}
    assert held(cache.read()) == [3, 4]


def test_folders_of_vectors_beside_a_cache_are_left_alone(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """They have an identity and shards too."""
    for cache in ("cache", "."):  # in a folder of its own, or beside the vectors
        folder = tmp_path / f"in {cache}"
        settings = {"row_hashes": True, "cache": str(folder / cache)}
        config = run_config(folder / "monday", dataset={"shard_rows": 2}, encode=settings)
        encode(config, source_of([*TEXTS, TEXTS[0]], config), tokenizer, engine)
        before = contents(folder / "monday")
        for maintain in (inspect_cache, compact_cache, partial(prune_cache, older_than_days=0)):
            with pytest.raises(StoreError, match="not a cache") if cache == "cache" else nullcontext():
                assert len(maintain(folder)) == 1
        assert contents(folder / "monday") == before


def test_two_processes_do_not_maintain_it_at_once(cache: VectorCache, tmp_path: Path) -> None:
    add(cache, 1), add(cache, 2)
    with (
        LocalFolder(Path(str(cache))).lock(LOCK),
        pytest.raises(StoreError, match=r"cannot be compacted .* wait until"),
    ):
        compact_cache(tmp_path / "cache")
    assert compact_cache(tmp_path / "cache")[name_of(cache)].joined == 2


class Crash(BaseException):
    """Simulates the end of the process."""


@settings(max_examples=25, deadline=None)
@given(crashes=st.lists(st.tuples(st.integers(0, 16), st.booleans()), min_size=1, max_size=5))
def test_crashes_lose_nothing(tmp_path_factory: pytest.TempPathFactory, crashes: list[tuple[int, bool]]) -> None:
    """Before any write; between them a run adds a segment, and one is opened."""
    folder = tmp_path_factory.mktemp("crashes") / "cache"
    cache, expected = VectorCache(folder, IDENTITY), set(range(6))
    for number in sorted(expected):
        add(cache, number)
    for number, (writes, prunes) in enumerate(crashes, 10):
        opened, done = cache.read(), 0

        def count(original: Callable[..., Any], writes: int = writes) -> Callable[..., Any]:
            def wrapper(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                done += 1
                if done > writes:
                    raise Crash
                return original(*arguments, **options)

            return wrapper

        with pytest.MonkeyPatch.context() as patch, suppress(Crash):
            for name in ("append", "write", "remove"):
                patch.setattr(LocalFolder, name, count(getattr(LocalFolder, name)))
            for name in ("replace", "fsync"):
                patch.setattr(f"lengthwise.util.files.os.{name}", count(getattr(os, name)))
            (prune_cache if prunes else compact_cache)(folder)
        assert set(held(opened)) == set(held(cache.read())) == expected
        add(cache, number)
        expected.add(number)
    compact_cache(folder)
    assert sorted(held(cache.read())) == sorted(expected)


def test_cache_at_a_url(tmp_path: Path) -> None:
    import fsspec

    url = f"memory://{tmp_path.name}/cache"
    cache = VectorCache(url, IDENTITY)
    for number in range(4):
        add(cache, number)
    memory = fsspec.filesystem("memory")
    try:
        [report] = inspect_cache(url, verify=True)
        assert (report.rows, report.segments, report.damaged) == (4, 4, ())
        assert report.bytes == sum(
            memory.size(path) for path in memory.find(url) if path.endswith((".parquet", ".npy"))
        )
        [done] = compact_cache(url).values()
        assert done == Compaction(4, 1, 0, 0)
        assert held(cache.read()) == [0, 1, 2, 3]
        prune_cache(url)
        assert held(cache.read()) == [0, 1, 2, 3]
        [record] = cache.read().records.values()
        memory.pipe_file(f"{cache}/{record.file}", b"damaged")
        assert [report.damaged for report in inspect_cache(url, verify=True)] == [
            (f"{cache}/{record.file}: was changed",)
        ]
        assert list(prune_cache(url).values()) == [4]
    finally:
        memory.rm(url, recursive=True)
