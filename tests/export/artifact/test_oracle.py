"""The oracle: each row alone, and how far the errors of states can move a sum over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact import oracle
from lengthwise.export.artifact.oracle import accumulated_error, compute_oracle, mean_error

IDS = np.random.default_rng(0).integers(0, 10, (4, 9))
LENGTHS = np.array([9, 1, 0, 4])


def test_accumulated_error_of_known_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums, of 3 and of -4, over 16 states: sqrt(16 + 9) = 5, sqrt(16 + 16) = 5.66. Summing them rounds nothing."""
    monkeypatch.setattr(oracle, "_FACTORS", (1,))
    states = np.full((16, 2), [3 / 16, -4 / 16], np.float32)
    np.testing.assert_allclose(accumulated_error(states, np.eye(2)), [5, 32**0.5])
    weights = np.array([[1.0, 0.0], [2.0, -2.0]])
    np.testing.assert_allclose(accumulated_error(states, weights), [5, (4 * 25 + 4 * 32) ** 0.5])


def test_accumulated_error_of_a_repeated_state_has_the_rounding_of_its_sum() -> None:
    """Each of 512 steps rounds the sum the same way, so the errors of the steps do not cancel."""
    states = np.full((512, 3), np.float32(0.3))
    weights = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
    sums = 512 * float(np.float32(0.3))
    independent = [(3 * (512 + sums**2)) ** 0.5, (2 * (512 + sums**2)) ** 0.5]
    found = accumulated_error(states, weights)
    assert found[0] > independent[0] + 2 * 3 * 1e-5 / 1e-6
    assert found[1] == pytest.approx(independent[1])  # the same rounding twice cancels
    for factor in (1, 1.0002, 0.9997):
        scaled = states * np.float32(factor)
        exact = weights @ scaled.sum(axis=0, dtype=np.float64)
        in_order = weights @ np.cumsum(scaled, axis=0, dtype=np.float32)[-1].astype(np.float64)
        assert (np.abs(exact - in_order) <= 1e-6 * accumulated_error(states, weights)).all()


def test_error_of_a_mean_is_its_rounding() -> None:
    """Means of 3 and of -4 are known but for a rounding each; a repeated value has that of its sum besides."""
    values = np.tile(np.array([3.0, -4.0], np.float32), (16, 1))
    weights = np.array([[1.0, 0.0], [2.0, -2.0]])
    np.testing.assert_allclose(mean_error(values, weights), [3, 10])
    repeated = np.full((512, 1), np.float32(0.3))
    exact = repeated.mean(axis=0, dtype=np.float64)
    in_order = np.cumsum(repeated, axis=0, dtype=np.float32)[-1] / np.float64(512)
    assert 0.3 * 1e-6 < np.abs(exact - in_order)[0] <= 1e-6 * mean_error(repeated, np.eye(1))[0]


@pytest.mark.parametrize(("projection", "static"), [(None, False), (3, False), (3, True)])
def test_oracle_has_the_accumulated_error_of_sums(
    projection: int | None, static: bool, encoder_config: Callable[..., EncoderConfig]
) -> None:
    shape = {"pooling": "sum", "bidirectional": True, "projection_dim": projection, "static_residual": static}
    encoder = seeded_encoder(encoder_config(**shape), 0)
    found = compute_oracle(encoder, IDS, LENGTHS)
    assert found.states is not None
    assert found.accumulated is not None
    assert found.accumulated.shape == found.vectors.shape
    assert not found.accumulated[2].any()
    weights = np.eye(12) if encoder.projection is None else encoder.projection.weight.detach().double().numpy()
    expected = accumulated_error(found.states[3, :4], weights)
    if encoder.static_projection is not None:
        embeddings = encoder.embedding(torch.from_numpy(IDS[3, :4])).detach().numpy()
        expected = expected + mean_error(embeddings, encoder.static_projection.weight.detach().double().numpy())
    np.testing.assert_array_equal(found.accumulated[3], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "last"},
        {"pooling": "max"},
        {"pooling": "mean", "projection_dim": 1},
        {"pooling": "mean_last", "static_residual": True},
        {"pooling": "sum", "normalize": True},
    ],
)
def test_other_vectors_have_no_accumulated_error(
    changes: dict[str, Any], encoder_config: Callable[..., EncoderConfig]
) -> None:
    """They are judged by their own size; a sum of length 1 is the mean of length 1."""
    assert compute_oracle(seeded_encoder(encoder_config(**changes), 0), IDS, LENGTHS).accumulated is None


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 400), width=st.integers(1, 40), size=st.floats(0, 1), seed=st.integers(0, 99))
def test_independent_errors_of_states_stay_within_a_few_accumulated_errors(
    tokens: int, width: int, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    states = (size * rng.uniform(-1, 1, (tokens, width))).astype(np.float32)
    weights = rng.normal(size=(3, width))
    error = 1e-7
    moved = weights @ rng.uniform(-error, error, states.shape).sum(axis=0)
    assert (np.abs(moved) <= 4 * error * accumulated_error(states, weights)).all()


def test_rows_are_encoded_alone(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(pooling="sum", bidirectional=True), 0)
    found = compute_oracle(encoder, IDS, LENGTHS)
    with torch.inference_mode():
        alone = encoder(torch.from_numpy(IDS[:1]), torch.tensor([9])).numpy()
    np.testing.assert_array_equal(found.vectors[:1], alone)
    assert not found.vectors[2].any()
