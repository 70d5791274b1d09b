"""Vectors have the same bits with states kept from batch to batch, whatever was encoded before, in bounded memory."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig, Precision
from lengthwise.encoder import layers, state_cache
from lengthwise.encoder.kernel import has_bf16_kernel, has_kernel
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.state_cache import BLOCK, StateCache
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import LengthwiseError

needs_kernel = pytest.mark.skipif(not has_kernel(), reason="this CPU has no AVX2, or llvmlite is not installed")
SHAPES: dict[str, dict[str, Any]] = {
    "mean": {"pooling": "mean", "bidirectional": True},
    "last, projected": {"pooling": "last", "bidirectional": True, "projection_dim": 11},
    "max, hard gates": {"pooling": "max", "normalize": True, "gate_activation": "hard_sigmoid_keras3"},
    "sum": {"pooling": "sum"},
    "mean_last_max, static": {
        "pooling": "mean_last_max",
        "bidirectional": True,
        "static_residual": True,
        "projection_dim": 24,
        "normalize": True,
    },
}
PRECISIONS: list[Precision] = ["fp32", "int8", *(["bf16"] if has_bf16_kernel() else [])]
Rows = Sequence[Sequence[int]]
PREAMBLE = [number % 7 for number in range(61)]


def config_of(shape: str, **further: Any) -> EncoderConfig:
    return EncoderConfig(vocab_size=50, embedding_dim=8, hidden_size=20, **{**SHAPES[shape], **further})


@lru_cache
def engine_of(shape: str, precision: Precision) -> TorchEngine:
    return TorchEngine(seeded_encoder(config_of(shape), 3), precision=precision, workers=1)


def encode(engine: TorchEngine, rows: Rows) -> NDArray[np.float32]:
    lengths = np.array([len(row) for row in rows])
    input_ids = np.zeros((len(rows), lengths.max()), np.int64)
    for cells, row in zip(input_ids, rows, strict=True):
        cells[: len(row)] = row
    return engine.encode_batch(input_ids, lengths)


def encode_all(engine: TorchEngine, batches: Iterable[Rows]) -> list[NDArray[np.float32]]:
    return [encode(engine, rows) for rows in batches]


def assert_same_bits(found: Iterable[NDArray[np.float32]], expected: Iterable[NDArray[np.float32]]) -> None:
    for vectors, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(vectors, right)


def without_cache(shape: str, precision: Precision, batches: Iterable[Rows]) -> list[NDArray[np.float32]]:
    engine = engine_of(shape, precision)
    set_cache(engine, None)
    return encode_all(engine, batches)


def set_cache(engine: TorchEngine, cache: StateCache | None) -> None:
    assert engine.sharing is not None
    layers = engine.sharing._layers
    layers.pool_known = (lambda *_: None) if cache is None else partial(cache.pool, layers)


def questions(count: int, seed: int = 0, preamble: Sequence[int] = PREAMBLE, ending: Sequence[int] = ()) -> Rows:
    random = np.random.default_rng(seed)
    return [[*preamble, *random.integers(7, 50, random.integers(1, 20)).tolist(), *ending] for _ in range(count)]


# Few ids and few parts of texts, so that rows share beginnings and endings of all lengths.
PARTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3 * BLOCK), min_size=1, max_size=4)


@st.composite
def batches_of_rows(draw: st.DrawFn) -> list[Rows]:
    parts = draw(PARTS)
    row = st.lists(st.sampled_from(parts), min_size=1, max_size=4).map(
        lambda chosen: [number for part in chosen for number in part]
    )
    return draw(st.lists(st.lists(row, min_size=1, max_size=6), min_size=1, max_size=8))


@needs_kernel
@settings(max_examples=25, deadline=None)
@given(
    batches=batches_of_rows(),
    shape=st.sampled_from(list(SHAPES)),
    precision=st.sampled_from(PRECISIONS),
    max_bytes=st.sampled_from([0, 3_000, 20_000, 10**6]),
    sightings=st.integers(1, 3),
)
def test_vectors_have_the_same_bits_whatever_was_encoded_before(
    batches: list[Rows], shape: str, precision: Precision, max_bytes: int, sightings: int
) -> None:
    expected = without_cache(shape, precision, batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_cache, "_SIGHTINGS", sightings)
        engine, cache = engine_of(shape, precision), StateCache(max_bytes)
        set_cache(engine, cache)
        assert_same_bits(encode_all(engine, batches), expected)
        assert_same_bits(encode_all(engine, batches[::-1]), expected[::-1])
    assert cache.nbytes <= max_bytes


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_begin_behind_a_preamble_that_was_read_before(shape: str, precision: Precision) -> None:
    engine = engine_of(shape, precision)
    cache, directions = StateCache(10**6), engine.config.directions
    set_cache(engine, cache)
    encode_all(engine, [questions(8, seed, ending=PREAMBLE) for seed in range(3)])
    hits, saved = cache.hits, cache.saved
    rows = questions(8, 3, ending=PREAMBLE)
    found = encode(engine, rows)
    assert cache.hits - hits == 8 * directions
    assert cache.saved - saved == 8 * directions * (len(PREAMBLE) // BLOCK * BLOCK)
    np.testing.assert_array_equal(found, without_cache(shape, precision, [rows])[0])


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_table_per_batch_gives_the_same_bits(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a vocabulary too large for a table."""
    batches = [questions(5, seed) for seed in range(4)]
    expected = without_cache("mean", precision, batches)
    monkeypatch.setattr(layers, "TABLE_BYTES", 0)
    engine = TorchEngine(seeded_encoder(config_of("mean"), 3), precision=precision)
    cache = engine.cache_states(10**6)
    assert_same_bits(encode_all(engine, batches), expected)
    assert cache.hits


@needs_kernel
def test_beginnings_are_told_apart_by_their_ids() -> None:
    """Blocks of equal ids after unlike ones, and endings that equal beginnings."""
    engine = engine_of("mean", "int8")
    block, other = [1] * BLOCK, [2] * BLOCK
    batches = [[[*first, *block, *block, last]] * 6 for first in (block, other) for last in (1, 2)]
    batches += [[[*batch[0][::-1]]] * 2 for batch in batches]
    expected = without_cache("mean", "int8", batches)
    set_cache(engine, cache := StateCache(10**6))
    for _ in range(2):
        assert_same_bits(encode_all(engine, batches), expected)
    assert cache.hits


@needs_kernel
def test_a_text_read_once_leaves_no_state() -> None:
    engine = engine_of("mean", "int8")
    set_cache(engine, cache := StateCache(10**6))
    random = np.random.default_rng(0)
    for _ in range(20):
        encode(engine, random.integers(0, 50, (10, 40)).tolist())
    assert not cache._nodes
    assert (cache.hits, cache.saved, cache.steps) == (0, 0, 2 * 200 * 40)


@needs_kernel
def test_memory_is_bounded_and_what_is_in_use_stays() -> None:
    engine = engine_of("mean_last_max, static", "int8")
    encode(engine, questions(4))
    random = np.random.default_rng(0)
    tracemalloc.start()
    try:
        set_cache(engine, cache := StateCache(100_000))
        for seed in range(25):
            encode(engine, questions(4, seed))
            others = random.integers(0, 50, (4, 100)).tolist()
            encode_all(engine, [others] * 5)
            assert cache.nbytes <= cache.max_bytes
        assert cache.nbytes > 80_000
        hits = cache.hits
        encode(engine, questions(4, 99))
        assert cache.hits == hits + 4
        full, held = cache.nbytes, tracemalloc.get_traced_memory()[0]
        set_cache(engine, None)
        del cache
        assert 0.5 * full < held - tracemalloc.get_traced_memory()[0] <= full
    finally:
        tracemalloc.stop()


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_share_a_cache(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough that states are dropped while other threads read on from them."""
    engine = engine_of("sum", precision)
    batches = [
        [*questions(3, seed, PREAMBLE[: 8 * (seed % 8) + 3]), *questions(1, seed, [seed % 5] * 20)]
        for seed in range(40)
    ]
    expected = without_cache("sum", precision, batches)
    set_cache(engine, cache := StateCache(12_000))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    wrong: list[int] = []

    def work(order: NDArray[np.int64]) -> None:
        for number in order.tolist():
            if not np.array_equal(encode(engine, batches[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(np.random.default_rng(k).permutation(40),)) for k in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert cache.hits
    assert 0 <= cache.nbytes <= cache.max_bytes
    sizes = [state_cache._NODE_BYTES + (node.state.nbytes if node.state else 0) for node in cache._nodes.values()]
    assert cache._trie_bytes == sum(sizes)


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        ({"num_layers": 2}, "the LSTM has 2 layers"),
        ({"pooling": "attention"}, "attention pooling reads the states of all tokens"),
        ({"pooling": "mean_first"}, "mean_first pooling reads the states of all tokens"),
        ({"padding": {"to": 16}}, "padding is part of the encoder's function"),
        ({"cell": "gru"}, "they need the fused kernel: it computes LSTMs only, and this is a gru"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@needs_kernel
def test_encoder_whose_rows_share_no_steps_says_why(further: dict[str, Any], reason: str, precision: Precision) -> None:
    engine = TorchEngine(seeded_encoder(config_of("sum", **further), 0), precision=precision)
    with pytest.raises(LengthwiseError, match=f"no states are kept: {reason}"):
        engine.cache_states(10**6)


def test_without_the_kernel_no_states_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("quantized", "stepwise", "sharing"):
        monkeypatch.setattr(f"lengthwise.encoder.{module}.has_kernel", lambda: False)
    for precision in ("fp32", "int8"):
        engine = TorchEngine(seeded_encoder(config_of("sum"), 0), precision=precision)
        with pytest.raises(LengthwiseError, match="they need the fused kernel"):
            engine.cache_states(10**6)
