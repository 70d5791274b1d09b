"""The encoder: a worked example first, then exactness over all shapes and poolings."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.definition import POOLINGS
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder

EXAMPLE = ([1, 2, 3], [4, 5], [6, 7, 8, 9, 10])
SHAPES = list(itertools.product((1, 2, 3), (False, True), POOLINGS))
OUTSIDE = 1_000  # an id that no vocabulary here has, so that reading it is an error


def padded(rows: tuple[list[int], ...], fill: int = 0) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    return (
        torch.tensor([row + [fill] * (longest - len(row)) for row in rows]),
        torch.tensor([len(row) for row in rows]),
    )


@pytest.fixture
def example_encoder() -> PackedEncoder:
    return seeded_encoder(EncoderConfig(vocab_size=11, embedding_dim=6, hidden_size=2, pooling="last"), seed=0)


class TestWorkedExample:
    def test_pack_sorts_rows_and_keeps_only_real_ids(self, example_encoder: PackedEncoder) -> None:
        packed = example_encoder.pack(*padded(EXAMPLE))
        assert packed.batch_sizes.tolist() == [3, 3, 2, 1, 1]
        assert packed.sorted_indices.tolist() == [2, 0, 1]
        assert packed.unsorted_indices.tolist() == [1, 2, 0]
        assert packed.data.tolist() == [6, 1, 4, 7, 2, 5, 8, 3, 9, 10]

    def test_padding_is_not_computed(self, example_encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        embedded, recurrent = [], []
        example_encoder.embedding.register_forward_hook(lambda _, given, out: embedded.append(out.shape))
        example_encoder.lstm.register_forward_hook(lambda _, given, out: recurrent.append(out[0].data.shape))
        example_encoder(*padded(EXAMPLE))
        assert embedded == [(10, 6)]
        assert recurrent == [(10, 2)]

    def test_states_in_the_padding_are_zero(self, example_encoder: PackedEncoder) -> None:
        states = example_encoder.token_states(*padded(EXAMPLE)).states
        assert states.shape == (3, 5, 2)
        for row, ids in enumerate(EXAMPLE):
            assert (states[row, len(ids) :] == 0).all()
            assert (states[row, : len(ids)] != 0).all()

    def test_vector_is_the_state_at_the_last_real_token(self, example_encoder: PackedEncoder) -> None:
        input_ids, lengths = padded(EXAMPLE)
        states, last, embeddings = example_encoder.token_states(input_ids, lengths)
        assert embeddings is None  # nothing reads them
        for row, ids in enumerate(EXAMPLE):
            assert torch.equal(last[row], states[row, len(ids) - 1])
        assert torch.equal(example_encoder(input_ids, lengths), last)

    def test_vector_equals_that_of_a_plain_lstm(self, example_encoder: PackedEncoder) -> None:
        vectors = example_encoder(*padded(EXAMPLE))
        for row, ids in enumerate(EXAMPLE):
            _, (hidden, _) = example_encoder.lstm(example_encoder.embedding(torch.tensor([ids])))
            torch.testing.assert_close(vectors[row], hidden[-1, 0], atol=1e-7, rtol=0)


def reference_vector(encoder: PackedEncoder, ids: list[int]) -> Tensor:
    """One row's vector from a plain nn.LSTM on the row alone."""
    config = encoder.config
    embeddings = encoder.embedding(torch.tensor([ids]))
    states, (hidden, _) = encoder.lstm(embeddings)
    last = torch.cat([hidden[i, 0] for i in range(-config.directions, 0)])
    parts = {
        "last": last,
        "first": states[0, 0],
        "end": states[0, -1],
        "mean": states[0].mean(0),
        "max": states[0].max(0).values,
        "sum": states[0].sum(0),
    }
    if encoder.attention is not None:
        shares = (encoder.attention.score.weight @ states[0].T).softmax(1)
        parts["attention"] = (shares @ states[0])[0]
    pooled = torch.cat([parts[part] for part in config.pooling.split("_")])
    if encoder.projection is not None:
        pooled = encoder.projection(pooled)
    if config.static_residual:
        pooled = pooled + embeddings[0].mean(0) @ encoder.static_projection.weight.T
    return nn.functional.normalize(pooled, dim=0) if config.normalize else pooled


@pytest.mark.parametrize(("layers", "bidirectional", "pooling"), SHAPES)
@pytest.mark.parametrize(
    ("projection", "normalize", "static"),
    [(None, False, False), (5, True, False), (None, True, True), (5, False, True)],
)
def test_every_shape_equals_a_plain_lstm_per_row(
    layers: int,
    bidirectional: bool,
    pooling: str,
    projection: int | None,
    normalize: bool,
    static: bool,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    shape = {"num_layers": layers, "bidirectional": bidirectional, "pooling": pooling}
    config = encoder_config(**shape, projection_dim=projection, normalize=normalize, static_residual=static)
    encoder = seeded_encoder(config, seed=1)
    rows = ([3], *EXAMPLE, [9, 9, 1, 2, 3, 4, 5, 6, 7], [2])
    vectors = encoder(*padded(rows, fill=OUTSIDE))
    assert vectors.shape == (len(rows), config.dim)
    for row, ids in enumerate(rows):
        torch.testing.assert_close(vectors[row], reference_vector(encoder, ids), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=12), min_size=1, max_size=9),
    extra=st.integers(0, 5),
    pooling=st.sampled_from(POOLINGS),
    static=st.booleans(),
    seed=st.integers(0, 3),
)
def test_row_alone_equals_row_in_any_batch(
    rows: list[list[int]], extra: int, pooling: str, static: bool, seed: int
) -> None:
    shape = {"vocab_size": 20, "embedding_dim": 5, "hidden_size": 3, "bidirectional": True, "pooling": pooling}
    encoder = seeded_encoder(EncoderConfig(**shape, static_residual=static), seed)
    input_ids, lengths = padded(tuple(rows), OUTSIDE)
    wider = torch.nn.functional.pad(input_ids, (0, extra), value=OUTSIDE)
    vectors = encoder(wider, lengths)
    for row, ids in enumerate(rows):
        alone = encoder(torch.tensor([ids]), torch.tensor([len(ids)]))[0]
        torch.testing.assert_close(vectors[row], alone, atol=1e-6, rtol=0)


def test_gradients_reach_every_weight(encoder_config: Callable[..., EncoderConfig]) -> None:
    head = {"projection_dim": 3, "static_residual": True, "normalize": True}
    encoder = PackedEncoder(encoder_config(num_layers=2, bidirectional=True, **head))
    encoder(*padded(EXAMPLE)).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in encoder.parameters())


def test_weights_depend_on_the_seed(encoder_config: Callable[..., EncoderConfig]) -> None:
    first, again, other = (seeded_encoder(encoder_config(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_seeded_weights_are_filled_and_within_bounds(encoder_config: Callable[..., EncoderConfig]) -> None:
    shape = {"hidden_size": 16, "embedding_dim": 25, "pooling": "mean_last", "projection_dim": 4}
    weights = seeded_encoder(encoder_config(**shape, static_residual=True), 0).state_dict()
    bounds = {"lstm": 16**-0.5, "projection": 32**-0.5, "static_projection": 25**-0.5}
    for name, weight in weights.items():
        assert weight.std() > 0.01, name
        if name != "embedding.weight":
            assert weight.abs().max() <= bounds[name.partition(".")[0]], name


def test_static_residual_leaves_the_other_seeded_weights(encoder_config: Callable[..., EncoderConfig]) -> None:
    without, residual = (
        seeded_encoder(encoder_config(projection_dim=3, static_residual=static), 0).state_dict()
        for static in (False, True)
    )
    assert set(residual) - set(without) == {"static_projection.weight"}
    assert residual["static_projection.weight"].shape == (3, 8)
    assert all(torch.equal(without[name], residual[name]) for name in without)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_computes_in_at_least_float32(encoder_config: Callable[..., EncoderConfig], pooling: str) -> None:
    encoder = seeded_encoder(encoder_config(pooling=pooling, projection_dim=3, static_residual=True), 0)
    exact = encoder(*padded(EXAMPLE))
    encoder.embedding.to(torch.bfloat16)
    encoder.lstm.to(torch.bfloat16)
    vectors = encoder(*padded(EXAMPLE))
    assert vectors.dtype == torch.float32
    assert 0 < (vectors - exact).abs().max() < 0.05
    assert encoder.double()(*padded(EXAMPLE)).dtype == torch.float64


@pytest.mark.parametrize(("layers", "bidirectional", "pooling"), SHAPES)
def test_forward_equal_lengths_equals_packing(
    encoder_config: Callable[..., EncoderConfig], layers: int, bidirectional: bool, pooling: str
) -> None:
    shape = {"num_layers": layers, "bidirectional": bidirectional, "pooling": pooling}
    input_ids = torch.arange(20).reshape(4, 5)
    for static in (False, True):
        head = {"projection_dim": 3, "normalize": True, "static_residual": static}
        encoder = seeded_encoder(encoder_config(vocab_size=20, **head, **shape), 0)
        found = encoder.forward_equal_lengths(input_ids)
        torch.testing.assert_close(found, encoder(input_ids, torch.full((4,), 5)), atol=1e-6, rtol=0)
