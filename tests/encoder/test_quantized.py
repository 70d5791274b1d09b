"""In int8 and bfloat16 a text has the same bits in any batch, and nearly the vector that it has in float32."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig
from lengthwise.encoder import layers
from lengthwise.encoder.kernel import has_bf16_kernel, has_kernel
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.quantized import QuantizedEncoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine

VOCABULARY = 60
KERNELS = [pytest.param(True, marks=pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")), False]
SHAPES = {
    "mean": {"pooling": "mean", "bidirectional": True},
    "last, projected": {"pooling": "last", "bidirectional": True, "projection_dim": 11},
    "max, 2 layers": {"pooling": "max", "num_layers": 2, "bidirectional": True, "normalize": True},
    "sum, forward": {"pooling": "sum"},
    "distilled": {
        "pooling": "mean_last",
        "bidirectional": True,
        "static_residual": True,
        "projection_dim": 24,
        "normalize": True,
    },
    "mean, static": {"pooling": "mean", "bidirectional": True, "static_residual": True},
}
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


@lru_cache
def encoder_of(shape: str, hidden: int = 24) -> PackedEncoder:
    sizes = {"vocab_size": VOCABULARY, "embedding_dim": 10, "hidden_size": hidden}
    return seeded_encoder(EncoderConfig(**sizes, **SHAPES[shape]), 1)


@lru_cache
def quantized(shape: str, fused: bool) -> QuantizedEncoder:
    return QuantizedEncoder(encoder_of(shape), fused)


def batch_of(lengths: list[int], padding: int = 0, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (len(lengths), max(lengths) + padding))
    return ids, np.array(lengths, np.int64)


def one_by_one(encode: QuantizedEncoder, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = range(len(lengths))
    return np.concatenate([encode(ids[row : row + 1, : lengths[row]], lengths[row : row + 1]) for row in rows])


def cosines(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), padding=st.integers(0, 3), seed=st.integers(0, 9))
def test_text_alone_has_the_bits_that_it_has_in_its_batch(
    shape: str, fused: bool, lengths: list[int], padding: int, seed: int
) -> None:
    encode, (ids, sizes) = quantized(shape, fused), batch_of(lengths, padding, seed)
    together = encode(ids, sizes)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(one_by_one(encode, ids, sizes), together)


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_close_to_float32(shape: str, fused: bool) -> None:
    ids, lengths = batch_of([40, 31, 17, 17, 9, 5, 3, 2, 1, 1], 2)
    with torch.inference_mode():
        exact = encoder_of(shape)(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()
    found = quantized(shape, fused)(ids, lengths)
    assert cosines(found, exact).min() >= (0.999 if "layers" in shape else 0.9999)
    assert (found != exact).any()


@pytest.mark.skipif(not has_bf16_kernel(), reason="this CPU has no fast products of bfloat16")
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_has_the_same_bits_in_any_batch_too(shape: str) -> None:
    encode = QuantizedEncoder(encoder_of(shape), precision="bf16")
    ids, lengths = batch_of([40, 31, 17, 17, 9, 5, 3, 2, 1, 1], 2)
    found = encode(ids, lengths)
    np.testing.assert_array_equal(one_by_one(encode, ids, lengths), found)
    with torch.inference_mode():
        exact = encoder_of(shape)(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()
    assert 0.9999 <= cosines(found, exact).min() < 1


def test_bf16_is_refused_where_nothing_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="only the fused kernel computes in bf16"):
        QuantizedEncoder(encoder_of("mean"), fused=False, precision="bf16")
    monkeypatch.setattr("lengthwise.encoder.quantized.has_bf16_kernel", lambda: False)
    with pytest.raises(ValueError, match="AVX512-BF16"):
        QuantizedEncoder(encoder_of("mean"), precision="bf16")


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_and_numpy_agree(shape: str) -> None:
    """But for the states between two integers, which rounding errors move to either."""
    ids, lengths = batch_of([30, 12, 12, 7, 1])
    found, expected = (quantized(shape, fused)(ids, lengths) for fused in (True, False))
    assert cosines(found, expected).min() >= 0.99999
    assert np.median(np.abs(found - expected)) <= 1e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("fused", KERNELS)
def test_table_per_batch_gives_the_same_bits(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a vocabulary too large for a table."""
    ids, lengths = batch_of([19, 11, 4, 4, 2, 1], 1)
    whole = quantized("mean", fused)(ids, lengths)
    monkeypatch.setattr(layers, "TABLE_BYTES", 0)
    by_batch = QuantizedEncoder(encoder_of("mean"), fused)
    assert by_batch._layers._tables is None
    np.testing.assert_array_equal(by_batch(ids, lengths), whole)
    np.testing.assert_array_equal(one_by_one(by_batch, ids, lengths), whole)


@pytest.mark.parametrize("fused", KERNELS)
def test_threads_do_not_change_a_bit(fused: bool) -> None:
    """Neither those that make the encoder nor those that run it; wide enough for PyTorch to use several."""
    ids, lengths = batch_of([9, 7, 7, 5, 2] * 20)
    before, found = torch.get_num_threads(), []
    shape = "distilled"
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            encode = QuantizedEncoder(encoder_of(shape, 128), fused)
            found.append(encode(ids, lengths))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_tables_of_the_float32_layers_serve_too() -> None:
    encoder = encoder_of("mean")
    exact = StepwiseEncoder(encoder, fused=True)
    shared = QuantizedEncoder(encoder, like=exact.fused_layers)
    assert shared._layers._tables is exact.fused_layers._tables
    ids, lengths = batch_of([8, 3, 1])
    np.testing.assert_array_equal(shared(ids, lengths), quantized("mean", True)(ids, lengths))


def test_later_changes_to_the_encoder_have_no_effect() -> None:
    encoder = seeded_encoder(encoder_of("mean, static").config, 5)
    ids, lengths = batch_of([6, 2])
    for fused in (False, has_kernel()):
        encode = QuantizedEncoder(encoder, fused)
        before = encode(ids, lengths)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.mul_(1.5)
        np.testing.assert_array_equal(encode(ids, lengths), before)


def test_engine_runs_it_beside_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, lengths = batch_of([6, 5, 1])
    engine = TorchEngine(encoder_of("mean"), "auto", "int8")
    assert engine.name == ("torch cpu int8" if has_kernel() else "torch cpu int8 unfused")
    np.testing.assert_array_equal(engine.encode_batch(ids, lengths), quantized("mean", has_kernel())(ids, lengths))
    exact = TorchEngine(encoder_of("mean"))
    np.testing.assert_array_equal(engine.reference.encode_batch(ids, lengths), exact.encode_batch(ids, lengths))
    monkeypatch.setattr("lengthwise.encoder.quantized.has_kernel", lambda: False)
    assert TorchEngine(encoder_of("mean"), "cpu", "int8").name == "torch cpu int8 unfused"
