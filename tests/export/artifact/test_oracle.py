"""The oracle: each row alone, and how far the errors of states can move a sum over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact import oracle
from lengthwise.export.artifact.difference import Allowance
from lengthwise.export.artifact.oracle import accumulated_error, compute_oracle, mean_error

IDS = np.random.default_rng(0).integers(0, 10, (4, 9))
LENGTHS = np.array([9, 1, 0, 4])


def float32_sum(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sums of the columns, from the first row to the last in float32."""
    total = np.zeros(values.shape[1], np.float32)
    for row in values:
        total += row
    return total.astype(np.float64)


def test_accumulated_error_of_known_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums, of 3 and of -4, over 16 states: sqrt(16 + 9) = 5, sqrt(16 + 16) = 5.66. Summing them rounds nothing."""
    monkeypatch.setattr(oracle, "_FACTORS", (1,))
    states = np.full((16, 2), [3 / 16, -4 / 16], np.float32)
    found = accumulated_error(states, np.eye(2))
    np.testing.assert_allclose(found.scale, [5, 32**0.5])
    np.testing.assert_array_equal(found.fixed, 0)
    found = accumulated_error(states, np.array([[1.0, 0.0], [2.0, -2.0]]))
    np.testing.assert_allclose(found.scale, [5, (4 * 25 + 4 * 32) ** 0.5])
    np.testing.assert_array_equal(found.fixed, 0)


def test_accumulated_error_of_a_repeated_state_has_the_rounding_of_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 512 steps rounds the sum the same way, so the errors of the steps do not cancel.

    The rounding is one of float32, so it is a part of its own that no tolerance multiplies.
    """
    states = np.full((512, 3), np.float32(0.3))
    weights = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
    sums = 512 * float(np.float32(0.3))
    found = accumulated_error(states, weights)
    np.testing.assert_allclose(found.scale, [(3 * (512 + sums**2)) ** 0.5, (2 * (512 + sums**2)) ** 0.5])
    assert found.fixed[1] == 0  # the same rounding twice cancels
    for factor in (1, 1.0002, 0.9997):
        scaled = states * np.float32(factor)
        exact = weights @ scaled.sum(axis=0, dtype=np.float64)
        assert (np.abs(exact - weights @ float32_sum(scaled)) <= found.fixed + 1e-12).all()
    monkeypatch.setattr(oracle, "_FACTORS", (1,))
    rounding = abs(float32_sum(states)[0] - sums)
    assert rounding > 1e-6 * sums  # many times the rounding of one step
    np.testing.assert_allclose(accumulated_error(states, weights).fixed, [2 * 3 * rounding, 0])


@pytest.mark.parametrize("value", [0.1, 0.3, 0.45, 0.7, 0.9])
def test_rounding_of_a_sum_is_allowed_for_states_of_other_last_bits(value: float) -> None:
    """The last bits of a state decide how its sum is rounded, and they differ between runtimes."""
    states = np.full((512, 1), np.float32(value))
    others = np.linspace(0.999, 1.001, 101).astype(np.float32)
    exact = (states * others).sum(axis=0, dtype=np.float64)
    largest = np.abs(float32_sum(states * others) - exact).max()
    assert largest <= accumulated_error(states, np.eye(1)).fixed[0] <= 2.5 * largest


def test_error_of_a_mean_is_its_rounding() -> None:
    """Means of 3 and of -4 are known but for a rounding each; a repeated value has that of its sum besides."""
    values = np.tile(np.array([3.0, -4.0], np.float32), (16, 1))
    found = mean_error(values, np.array([[1.0, 0.0], [2.0, -2.0]]))
    np.testing.assert_allclose(found.scale, [3, 10])
    np.testing.assert_array_equal(found.fixed, 0)
    repeated = np.full((512, 2), np.float32(0.3))
    rounding = np.abs(repeated.mean(axis=0, dtype=np.float64) - float32_sum(repeated) / 512)[0]
    assert rounding > 0.3 * 1e-6
    found = mean_error(repeated, np.array([[1.0, 0.0], [-2.0, 0.0], [1.0, 1.0], [1.0, -1.0]]))
    np.testing.assert_allclose(found.scale, np.array([1, 2, 2**0.5, 2**0.5]) * float(np.float32(0.3)))
    np.testing.assert_allclose(found.fixed, np.array([2, 4, 4, 0]) * rounding)


@pytest.mark.parametrize(("projection", "static"), [(None, False), (3, False), (3, True)])
def test_oracle_has_the_accumulated_error_of_sums(
    projection: int | None, static: bool, encoder_config: Callable[..., EncoderConfig]
) -> None:
    shape = {"pooling": "sum", "bidirectional": True, "projection_dim": projection, "static_residual": static}
    encoder = seeded_encoder(encoder_config(**shape), 0)
    found = compute_oracle(encoder, IDS, LENGTHS)
    assert found.states is not None
    assert found.allowance is not None
    for part in (found.allowance.scale, found.allowance.fixed):
        assert part.shape == found.vectors.shape
        assert not part[2].any()
    weights = np.eye(12) if encoder.projection is None else encoder.projection.weight.detach().double().numpy()
    expected = accumulated_error(found.states[3, :4], weights)
    if encoder.static_projection is not None:
        embeddings = encoder.embedding(torch.from_numpy(IDS[3, :4])).detach().numpy()
        of_mean = mean_error(embeddings, encoder.static_projection.weight.detach().double().numpy())
        assert of_mean.scale.all()
        assert of_mean.fixed.any()
        expected = Allowance(expected.scale + of_mean.scale, expected.fixed + of_mean.fixed)
    assert expected.fixed.any()
    np.testing.assert_array_equal(found.allowance.scale[3], expected.scale)
    np.testing.assert_array_equal(found.allowance.fixed[3], expected.fixed)


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
    assert compute_oracle(seeded_encoder(encoder_config(**changes), 0), IDS, LENGTHS).allowance is None


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
    assert (np.abs(moved) <= 4 * error * accumulated_error(states, weights).scale).all()


def test_rows_are_encoded_alone(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(pooling="sum", bidirectional=True), 0)
    found = compute_oracle(encoder, IDS, LENGTHS)
    with torch.inference_mode():
        alone = encoder(torch.from_numpy(IDS[:1]), torch.tensor([9])).numpy()
    np.testing.assert_array_equal(found.vectors[:1], alone)
    assert not found.vectors[2].any()
