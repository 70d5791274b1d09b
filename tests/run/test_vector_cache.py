"""`encode.cache`: texts are computed once over shards and runs, and the bytes are those of a full run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import data_files, encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.stats import EncodeReport
from lengthwise.run.verify import verify_sample
from lengthwise.store.cache import VectorCache
from lengthwise.store.cache_maintenance import compact_cache, prune_cache
from lengthwise.tokens.tokenizer import TextTokenizer

WORDS = sorted({word for text in TEXTS for word in text.split()})
MANY = [f"{WORDS[row % len(WORDS)]} {WORDS[row // len(WORDS)]} {TEXTS[row % len(TEXTS)]}" for row in range(60)]
some_texts = st.lists(
    st.none() | st.lists(st.sampled_from(WORDS[:4]), max_size=3).map(" ".join), min_size=1, max_size=9
)


class CountingEngine(LookupEngine):
    """Notes the ids of the rows that it encodes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.encoded: list[tuple[int, ...]] = []

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        self.encoded += [tuple(ids[:length]) for ids, length in zip(input_ids.tolist(), lengths, strict=True)]
        return super().encode_batch(input_ids, lengths)


def run(folder: Path, texts: list[str | None], tokenizer: TextTokenizer, engine: Any, **settings: Any) -> EncodeReport:
    shard_rows = settings.pop("shard_rows", 20)
    values = {"bad_rows": "quarantine", **settings, "output": str(folder)}
    config = run_config(folder, dataset={"shard_rows": shard_rows}, encode=values)
    return encode(config, source_of(texts, config), tokenizer, engine)


def stable(folder: Path) -> dict[str, bytes]:
    """All files but the settings."""
    return {name: data for name, data in contents(folder).items() if name != "run.yaml"}


@settings(max_examples=15, deadline=None)
@given(
    runs=st.lists(
        st.tuples(some_texts, st.integers(1, 4), st.sampled_from(["float32", "float16"])), min_size=1, max_size=3
    )
)
def test_runs_on_one_cache_write_the_bytes_of_runs_without(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    runs: list[tuple[list[str | None], int, str]],
) -> None:
    folder, engine = scratch(), LookupEngine(encoder_config())
    known: set[str] = set()
    for number, (texts, shard_rows, dtype) in enumerate(runs):
        options = {"shard_rows": shard_rows, "vector_dtype": dtype}
        run(folder / f"full-{number}", texts, tokenizer, engine, **options)
        report = run(folder / f"run-{number}", texts, tokenizer, engine, cache=str(folder / "cache"), **options)
        assert stable(folder / f"run-{number}") == stable(folder / f"full-{number}")
        assert sum(report.encoded.reused.values()) >= sum(text in known for text in texts)
        known |= {text for text in texts if text}


def test_second_run_computes_what_is_compared_alone(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    cache = str(tmp_path / "cache")
    first = run(tmp_path / "a", list(MANY), tokenizer, engine, cache=cache)
    [subfolder] = (tmp_path / "cache").iterdir()
    assert first.reuse == (f"0 rows have their vector from {subfolder}", f"60 rows were added to {subfolder}")
    engine.rows = 0
    second = run(tmp_path / "b", [*MANY, "moon moon"], tokenizer, engine, cache=cache, shard_rows=30)
    assert engine.rows == 1 + 4  # a row of each segment, as shards of 30 read segments of 20
    assert second.reuse == (f"60 rows have their vector from {subfolder}", f"1 rows were added to {subfolder}")
    assert data_files(tmp_path / "b") == data_files_of_full_run(tmp_path, tokenizer, engine)
    assert "reused" not in json.loads(
        (tmp_path / "b/manifest.json").read_text()
    )  # another one would have other numbers


def data_files_of_full_run(folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> dict[str, bytes]:
    run(folder / "full", [*MANY, "moon moon"], tokenizer, engine, shard_rows=30)
    return data_files(folder / "full")


def test_duplicates_in_shards_far_apart_are_computed_once(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    engine = CountingEngine(encoder_config())
    filling = [f"{first} {second}" for first in WORDS for second in WORDS[:8]][:160]
    texts = [*MANY[:8], *filling, *MANY[:8]]
    run(tmp_path / "a", texts, tokenizer, engine, cache=str(tmp_path / "cache"), shard_rows=8)
    assert len(engine.encoded) - len(set(engine.encoded)) <= 1 + sum(text in MANY for text in filling)


def test_another_model_has_a_subfolder_of_its_own(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    cache = str(tmp_path / "cache")
    for name in ("one", "two"):
        report = run(tmp_path / name, list(MANY), tokenizer, LookupEngine(encoder_config(), name), cache=cache)
        assert report.encoded.reused == {}
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_two_runs_may_use_a_cache_at_once(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    """Each adds what the other one has not added when it begins."""
    cache = str(tmp_path / "cache")
    run(tmp_path / "a", MANY[:20], tokenizer, engine, cache=cache)
    [subfolder] = (tmp_path / "cache").iterdir()
    identity = json.loads((subfolder / "identity.json").read_text())["depends_on"]
    other = VectorCache(cache, identity)
    before = other.read()
    run(tmp_path / "b", MANY[20:40], tokenizer, engine, cache=cache)
    other.add(
        np.full((1, 16), 7, np.uint8),
        np.ones((1, engine.config.dim), np.float32),
        np.ones(1, np.int64),
        np.zeros(1, np.bool_),
    )
    assert len(before.records) == 1
    assert sorted(record.rows for record in other.read().records.values()) == [1, 20, 20]


def test_cache_in_an_object_store(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    import fsspec

    url = f"memory://{tmp_path.name}/cache"
    run(tmp_path / "full", list(MANY), tokenizer, engine)
    try:
        for name, reused in (("a", 0), ("b", 60)):
            report = run(tmp_path / name, list(MANY), tokenizer, engine, cache=url)
            assert sum(report.encoded.reused.values()) == reused
            assert stable(tmp_path / name) == stable(tmp_path / "full")
            compact_cache(url)
        config = run_config(tmp_path / "b", dataset={"shard_rows": 20}, encode={"output": str(tmp_path / "b")})
        found = verify_sample(url, config, source_of(MANY, config), tokenizer, engine, sample=9)
        assert (found.found, found.compared, found.differing) == (60, 9, ())
    finally:
        fsspec.filesystem("memory").rm(url, recursive=True)


def test_cache_may_be_compacted_and_pruned_while_a_run_uses_it(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    """Before each batch; segments that the run has opened stay, and what it adds is there for the next run."""
    engine, cache = CountingEngine(encoder_config()), str(tmp_path / "cache")
    run(tmp_path / "full", list(MANY), tokenizer, engine, shard_rows=9)
    run(tmp_path / "a", MANY[::2], tokenizer, engine, shard_rows=3, cache=cache)
    encode_batch = engine.encode_batch

    def maintain_first(*batch: Any) -> NDArray[np.float32]:
        compact_cache(cache)
        prune_cache(cache)
        return encode_batch(*batch)

    engine.encode_batch = maintain_first  # type: ignore[method-assign]
    report = run(tmp_path / "b", list(MANY), tokenizer, engine, shard_rows=9, cache=cache)
    assert sum(report.encoded.reused.values()) == 30
    assert stable(tmp_path / "b") == stable(tmp_path / "full")
    engine.encode_batch = encode_batch  # type: ignore[method-assign]
    report = run(tmp_path / "c", list(MANY), tokenizer, engine, shard_rows=9, cache=cache)
    assert sum(report.encoded.reused.values()) == 60
    assert stable(tmp_path / "c") == stable(tmp_path / "full")


@pytest.mark.parametrize("damage", ["data", "hashes", "identity.json", "shards.jsonl"])
def test_damaged_cache_gives_nothing_away(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, damage: str, caplog: Any
) -> None:
    cache = str(tmp_path / "cache")
    run(tmp_path / "a", list(MANY), tokenizer, engine, cache=cache)
    run(tmp_path / "full", list(MANY), tokenizer, engine, shard_rows=7)
    [subfolder] = (tmp_path / "cache").iterdir()
    path = subfolder / damage if "." in damage else min((subfolder / damage).iterdir())
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, shard_rows=7, cache=cache)
    assert data_files(tmp_path / "new") == data_files(tmp_path / "full")
    assert sum(report.encoded.reused.values()) == {"identity.json": 0}.get(damage, 40)


def test_cache_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(*_: Any) -> None:
        raise StoreError("cache: the shard cannot be written (No space left on device)")

    monkeypatch.setattr(VectorCache, "add", fail)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, cache=str(tmp_path / "cache"))
    run(tmp_path / "full", list(MANY), tokenizer, engine)
    assert stable(tmp_path / "new") == stable(tmp_path / "full")
    assert "nothing more was put into it, for it could not be written" in report.reuse[-1]
    assert "No space left" in caplog.text


def test_cache_is_no_output(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    with pytest.raises(ConfigError, match=r"encode\.cache holds .*, which is encode\.output"):
        run(tmp_path / "new", list(MANY), tokenizer, engine, cache=str(tmp_path / "new"))


def test_engine_whose_bits_depend_on_the_batch_uses_no_cache(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "batch_invariant", False, raising=False)
    report = run(tmp_path / "new", list(MANY), tokenizer, engine, cache=str(tmp_path / "cache"))
    assert "depends on its batch" in report.reuse[0]
    assert not (tmp_path / "cache").exists()
