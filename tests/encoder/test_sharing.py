"""Vectors have the same bits whether rows share steps or not, and sharing is on where it saves enough of them."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.ragged import ragged
from lengthwise.config import BatchingSettings, EncoderConfig, Precision
from lengthwise.encoder import layers, sharing
from lengthwise.encoder.engine import encode_planned, encode_tokens, plan_tokens
from lengthwise.encoder.kernel import has_bf16_kernel, has_kernel
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.tokens.ragged import RaggedTokens

if not has_kernel():
    pytest.skip("this CPU has no AVX2, or llvmlite is not installed", allow_module_level=True)

SHAPES = {
    "mean": {"pooling": "mean", "bidirectional": True},
    "last, projected": {"pooling": "last", "bidirectional": True, "projection_dim": 11},
    "max, forward": {"pooling": "max", "normalize": True},
    "sum": {"pooling": "sum", "bidirectional": True},
    "mean_last, static": {
        "pooling": "mean_last",
        "bidirectional": True,
        "static_residual": True,
        "projection_dim": 24,
        "normalize": True,
    },
}
PRECISIONS: list[Precision] = ["fp32", "int8", *(["bf16"] if has_bf16_kernel() else [])]


@lru_cache
def engine_of(shape: str, precision: Precision, workers: int = 1) -> TorchEngine:
    config = EncoderConfig(vocab_size=50, embedding_dim=8, hidden_size=20, **SHAPES[shape])
    return TorchEngine(seeded_encoder(config, 3), precision=precision, workers=workers)


def templates(count: int = 300, seed: int = 0) -> RaggedTokens:
    """Rows that begin and end like others; some are equal, some empty, and one is the beginning of another."""
    random = np.random.default_rng(seed)
    parts = [random.integers(0, 50, size).tolist() for size in (1, 3, 8, 9, 17, 20)]
    rows = []
    for _ in range(count):
        beginning, end = random.integers(len(parts), size=2)
        rows.append([*parts[beginning], *random.integers(0, 50, random.integers(0, 12)), *parts[end]])
    return ragged([*rows, parts[4], parts[4], [], parts[4][:5], *rows[:3]])


def without_sharing(engine: TorchEngine, tokens: RaggedTokens) -> NDArray[np.float32]:
    shared, engine.sharing = engine.sharing, None
    try:
        return encode_tokens(tokens, engine)[0]
    finally:
        engine.sharing = shared


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "BLOCK_ROWS", 90)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_have_the_same_bits_with_sharing(shape: str, precision: Precision) -> None:
    engine, tokens = engine_of(shape, precision), templates()
    planned = plan_tokens(tokens, engine)
    assert planned.shared is not None
    assert planned.shared.saved > 0.2 * planned.shared.steps
    assert len(planned.shared.blocks) == 4 * engine.config.directions
    np.testing.assert_array_equal(encode_planned(planned, engine), without_sharing(engine, tokens))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_table_per_block_gives_the_same_bits(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a vocabulary too large for a table."""
    expected = without_sharing(engine_of("mean", precision), templates())
    monkeypatch.setattr(layers, "TABLE_BYTES", 0)
    engine = TorchEngine(seeded_encoder(engine_of("mean", precision).config, 3), precision=precision)
    planned = plan_tokens(templates(), engine)
    assert planned.shared is not None
    np.testing.assert_array_equal(encode_planned(planned, engine), expected)


@pytest.mark.usefixtures("small_blocks")
def test_long_beginning_is_computed_once() -> None:
    """A preamble of many windows; and rows that are too long for one batch beside it."""
    random = np.random.default_rng(1)
    preamble = random.integers(0, 50, 500).tolist()
    rows = [[*preamble, *random.integers(0, 50, size)] for size in random.integers(1, 40, 100)]
    tokens = ragged([*rows, random.integers(0, 50, 3_000).tolist()])
    engine = engine_of("mean_last, static", "int8")
    planned = plan_tokens(tokens, engine)
    assert planned.shared is not None
    assert planned.shared.saved > 97 * 500
    np.testing.assert_array_equal(encode_planned(planned, engine), without_sharing(engine, tokens))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.usefixtures("small_blocks")
def test_progress_counts_every_row_once(workers: int) -> None:
    tokens, done = templates(), []
    encode_tokens(tokens, engine_of("mean", "int8", workers), progress=lambda *counts: done.append(counts))
    assert [sum(column) for column in zip(*done, strict=True)] == [len(tokens), len(tokens.values)]
    assert len(done) > 8
    assert all(rows >= 0 and count >= 0 for rows, count in done)


def test_sharing_is_off_where_it_saves_little() -> None:
    engine = engine_of("mean", "fp32")
    random = np.random.default_rng(0)
    unlike = ragged([[row, *random.integers(0, 50, 400), row] for row in range(50) for _ in range(4)])
    assert plan_tokens(unlike, engine).shared is None
    alike = [[1, 2, 3, first, second] for first in range(8) for second in range(8)]
    assert len(alike) == sharing.MIN_ROWS
    assert plan_tokens(ragged(alike), engine).shared is not None
    assert plan_tokens(ragged(alike[:-1]), engine).shared is None
    assert plan_tokens(ragged(alike[:-1] * 2), engine).shared is None  # as many rows, but no more distinct ones
    assert plan_tokens(ragged([[], []]), engine).shared is None


def test_only_one_layer_in_the_fused_kernel_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"vocab_size": 50, "embedding_dim": 8, "hidden_size": 20}
    stacked = seeded_encoder(EncoderConfig(**shape, num_layers=2), 0)
    assert all(TorchEngine(stacked, precision=precision).sharing is None for precision in PRECISIONS)
    for module in ("quantized", "stepwise"):
        monkeypatch.setattr(f"lengthwise.encoder.{module}.has_kernel", lambda: False)
    single = seeded_encoder(EncoderConfig(**shape), 0)
    assert TorchEngine(single).sharing is None
    assert TorchEngine(single, precision="int8").sharing is None


@pytest.mark.usefixtures("small_blocks")
def test_failure_of_a_block_is_raised_and_nothing_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room for the states")

    engine = engine_of("mean", "fp32", 2)
    planned = plan_tokens(templates(), engine)
    monkeypatch.setattr("lengthwise.encoder.fused.FusedDirection.branch", fail)
    with pytest.raises(MemoryError, match="no room"):
        encode_planned(planned, engine)


def test_remaining_steps_are_in_batches_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MIN_SAVED", 0)
    random = np.random.default_rng(2)
    lengths = [20_000, 15_000, *random.integers(1, 4, 700)]
    tokens = ragged([[7, *random.integers(0, 50, size).tolist()] for size in lengths])
    engine = engine_of("mean", "int8")
    planned = plan_tokens(tokens, engine, BatchingSettings(max_tokens=16_384, max_rows=100))
    assert planned.shared is not None
    for block in planned.shared.blocks:
        for start, stop in pairwise(block.tails.tolist()):
            longest = int(block.trie.remaining[block.order[start]])
            assert stop - start == 1 or ((stop - start) <= 100 and longest * (stop - start) <= 16_384)
    np.testing.assert_array_equal(encode_planned(planned, engine), without_sharing(engine, tokens))
