"""Poolings, Dense layers and labels equal their definition in loops, text by text, in every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.definition import ACTIVATIONS, ALL_POOLINGS, define
from lengthwise.config import EncoderConfig
from lengthwise.encoder.classify import LabelClassifier
from lengthwise.encoder.kernel import has_bf16_kernel, has_kernel
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.quantized import QuantizedEncoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.util.settings import parse_settings

VOCABULARY, OUTSIDE = 30, 1_000_000
LENGTHS = [4, 1, 9, 9, 2, 1, 6]
KERNELS = [pytest.param(True, marks=pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")), False]
SHAPES: dict[str, dict[str, Any]] = {
    **{pooling: {"pooling": pooling, "bidirectional": True} for pooling in ALL_POOLINGS},
    "forward": {"pooling": "first_end_last"},
    "attention, tanh layer": {"pooling": "attention", "attention_dim": 7, "bidirectional": True, "num_layers": 2},
    "attention and mean": {"pooling": "attention_mean", "attention_dim": 1, "static_residual": True},
    "dense": {"dense": [{"dim": 7}, {"dim": 5, "activation": "relu", "bias": False}], "bidirectional": True},
    "dense, projected": {
        "pooling": "last_mean_max",
        "dense": [{"dim": 9, "activation": "gelu"}],
        "projection_dim": 3,
        "static_residual": True,
        "normalize": True,
    },
    **{name: {"dense": [{"dim": 6, "activation": name}]} for name in ACTIVATIONS},
    "labels": {"classifier": {"labels": ["a", "b", "c"]}, "pooling": "sum"},
    "labels, dense": {
        "classifier": {"labels": ["a", "b"], "dense": [{"dim": 8, "activation": "elu"}], "activation": "sigmoid"},
        "normalize": True,
    },
}


def make_encoder(shape: dict[str, Any], scale: float = 2.0) -> PackedEncoder:
    """With weights twice as large as seeded ones, so that gates and attention do something."""
    small = {"vocab_size": VOCABULARY, "embedding_dim": 5, "hidden_size": 4}
    encoder = seeded_encoder(parse_settings(EncoderConfig, {**small, **shape}, "test"), 3)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name != "embedding.weight":
                weight.mul_(scale)
    return encoder


def batch_of(lengths: list[int], columns: int = 3, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (len(lengths), max(lengths) + columns))
    ids[np.arange(ids.shape[1]) >= np.array(lengths)[:, None]] = OUTSIDE
    return ids, np.array(lengths, np.int64)


def definitions(encoder: PackedEncoder, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    weights = {name: weight.numpy() for name, weight in encoder.state_dict().items()}
    rows = zip(ids, lengths, strict=True)
    return np.stack([define(encoder.config, weights, row[:length].tolist()).vector for row, length in rows])


def assert_close(found: NDArray[Any], expected: NDArray[Any], tolerance: float = 1e-6) -> None:
    scale = np.maximum(1, np.abs(expected).max(axis=1, keepdims=True))
    assert found.shape == expected.shape
    assert np.abs((found - expected) / scale).max() <= tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_encoder_equals_the_definition(shape: str) -> None:
    encoder, batch = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    with torch.inference_mode():
        found = encoder(*map(torch.from_numpy, batch)).numpy()
    assert_close(found, definitions(encoder, *batch))


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_stepwise_encoder_equals_the_definition(shape: str, fused: bool) -> None:
    encoder, batch = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    assert_close(StepwiseEncoder(encoder, fused)(*batch), definitions(encoder, *batch))


@pytest.mark.parametrize("shape", ["attention", "first_last", "dense", "dense, projected", "attention, tanh layer"])
def test_small_states_are_exact(shape: str) -> None:
    """Such rows are computed again in float64."""
    encoder, batch = make_encoder(SHAPES[shape], 0.02), batch_of(LENGTHS)
    assert_close(StepwiseEncoder(encoder)(*batch), definitions(encoder, *batch))


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_near_the_definition_and_the_same_alone(shape: str, fused: bool) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    quantized = QuantizedEncoder(encoder, fused)
    found = quantized(ids, lengths)
    assert_close(found, definitions(encoder, ids, lengths), 0.05)
    alone = [quantized(ids[row : row + 1, :length], lengths[row : row + 1])[0] for row, length in enumerate(lengths)]
    np.testing.assert_array_equal(found, np.stack(alone))


@pytest.mark.skipif(not has_bf16_kernel(), reason="this CPU has no AVX512-BF16, or there is no fused kernel")
@pytest.mark.parametrize("shape", ["attention", "first_last", "last_mean_max", "dense, projected"])
def test_bf16_is_near_the_definition_and_the_same_alone(shape: str) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    quantized = QuantizedEncoder(encoder, precision="bf16")
    found = quantized(ids, lengths)
    assert_close(found, definitions(encoder, ids, lengths), 0.03)
    alone = [quantized(ids[row : row + 1, :length], lengths[row : row + 1])[0] for row, length in enumerate(lengths)]
    np.testing.assert_array_equal(found, np.stack(alone))


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    columns=st.integers(0, 5),
    shape=st.sampled_from(list(SHAPES)),
    seed=st.integers(0, 3),
)
def test_row_alone_equals_row_in_any_batch(lengths: list[int], columns: int, shape: str, seed: int) -> None:
    encoder, (ids, counts) = make_encoder(SHAPES[shape]), batch_of(lengths, columns, seed)
    encode = StepwiseEncoder(encoder)
    together = encode(ids, counts)
    alone = [encode(ids[row : row + 1, :length], counts[row : row + 1])[0] for row, length in enumerate(counts)]
    assert_close(together, np.stack(alone))


def test_attention_weights_that_are_large_are_exact() -> None:
    """Scores of some hundreds amplify the errors of the states, so that all rows are computed in float64."""
    encoder, batch = make_encoder(SHAPES["attention"]), batch_of([40, 33, 7])
    with torch.no_grad():
        encoder.attention.score.weight.mul_(300)
    assert_close(StepwiseEncoder(encoder)(*batch), definitions(encoder, *batch))


@pytest.mark.parametrize("shape", ["labels", "labels, dense"])
def test_logits_equal_the_definition(shape: str) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    weights = {name: weight.numpy() for name, weight in encoder.state_dict().items()}
    rows = [define(encoder.config, weights, ids[row, :length].tolist()) for row, length in enumerate(lengths)]
    vectors, expected = (np.stack(values) for values in zip(*[(row.vector, row.logits) for row in rows], strict=True))
    classifier = LabelClassifier(encoder.config, weights)
    logits = classifier.logits(vectors)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    with torch.inference_mode():
        of_torch = encoder.classifier(torch.from_numpy(vectors.astype(np.float32))).numpy()
    np.testing.assert_allclose(of_torch, expected, atol=1e-6 * np.abs(expected).max())
    assert classifier.best(logits) == [encoder.config.labels[number] for number in expected.argmax(axis=1)]
    exponents = np.exp(expected)
    right = exponents / exponents.sum(axis=1, keepdims=True) if shape == "labels" else exponents / (1 + exponents)
    np.testing.assert_allclose(classifier.probabilities(logits), right, rtol=1e-5)
    assert classifier.logits(vectors[:0]).shape == (0, len(encoder.config.labels))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(scale=st.floats(1e-7, 0.1), seed=st.integers(0, 99))
def test_logits_are_not_off_by_more_than_the_bound(activation: str, scale: float, seed: int) -> None:
    classifier_settings = {"labels": ["a", "b", "c"], "dense": [{"dim": 8, "activation": activation}]}
    encoder = make_encoder({"classifier": classifier_settings})
    classifier = LabelClassifier(encoder.config, {name: each.numpy() for name, each in encoder.state_dict().items()})
    rng = np.random.default_rng(seed)
    vectors, errors = rng.normal(size=(2, 5, 4))
    off = np.abs(classifier.logits(vectors + scale * np.sign(errors)) - classifier.logits(vectors))
    bound = classifier.error_scale(np.full(vectors.shape, scale))
    assert (off <= bound + 1e-6).all()
    assert off.max() > bound.max() / 1000


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"pooling": "mean_mean"}, "a part is there twice; write one of last, first, end, mean, max, sum, attention"),
        ({"pooling": "median"}, "'median' is none of them"),
        ({"attention_dim": 3}, "the pooling is mean, without attention; leave it out"),
        ({"dense": [{"dim": 3, "activation": "softmax"}]}, "dense.0.activation = 'softmax'"),
        ({"classifier": {"labels": []}}, "classifier.labels is empty; name the labels"),
        ({"classifier": {"labels": ["a", "b", "a"]}}, "classifier.labels has 'a' twice"),
    ],
)
def test_bad_settings_are_refused(shape: dict[str, Any], message: str) -> None:
    from lengthwise.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        make_encoder(shape)
    assert message in str(caught.value)
