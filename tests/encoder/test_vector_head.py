"""A text's vector has the same bits in any batch in float32 too, where the fused kernel computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.config import EncoderConfig
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.encoder.vector_head import VectorHead

pytestmark = pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
SHAPES = {
    "mean": dict(pooling="mean"),
    "distilled": dict(pooling="mean_last", projection_dim=40, static_residual=True, normalize=True),
    "dense": dict(pooling="max", dense=({"dim": 24, "activation": "tanh"},), projection_dim=33),
    "sum": dict(pooling="sum", normalize=True),
    "stacked": dict(num_layers=2, projection_dim=17),
}


def encoder_of(shape: str) -> PackedEncoder:
    config = dict(vocab_size=50, embedding_dim=24, hidden_size=40, bidirectional=True)
    return seeded_encoder(EncoderConfig(**{**config, **SHAPES[shape]}), 3)


@pytest.fixture(scope="module")
def encoders() -> dict[str, StepwiseEncoder]:
    return {shape: StepwiseEncoder(encoder_of(shape), fused=True) for shape in SHAPES}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), seed=st.integers(0, 9))
def test_float32_has_the_same_bits_in_any_batch(
    encoders: dict[str, StepwiseEncoder], shape: str, lengths: list[int], seed: int
) -> None:
    sizes = np.array(lengths)
    ids = np.random.default_rng(seed).integers(1, 50, (len(sizes), sizes.max()))
    together = encoders[shape](ids, sizes)
    alone = [encoders[shape](ids[row : row + 1, :size], sizes[row : row + 1]) for row, size in enumerate(lengths)]
    np.testing.assert_array_equal(np.concatenate(alone), together)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_head_is_that_of_the_encoder(shape: str, fused: bool) -> None:
    encoder = encoder_of(shape)
    pooled = np.random.default_rng(0).normal(size=(9, encoder.config.pooled_dim)).astype(np.float32)
    lengths = np.arange(9, 0, -1)
    ids = np.random.default_rng(1).integers(1, 50, (9, 9))
    with torch.inference_mode():
        rows = zip(torch.from_numpy(ids), lengths, strict=True)
        means = torch.stack([encoder.embedding(row[:length]).mean(0) for row, length in rows])
        expected = encoder.finish(torch.from_numpy(pooled), means).numpy()
    np.testing.assert_allclose(VectorHead(encoder, fused)(pooled, ids, lengths), expected, rtol=0, atol=1e-5)


def test_engines_say_whether_bits_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("distilled")
    assert TorchEngine(encoder).batch_invariant
    assert TorchEngine(encoder, precision="int8").batch_invariant
    monkeypatch.setattr("lengthwise.encoder.stepwise.has_kernel", lambda: False)
    assert not TorchEngine(encoder).batch_invariant
