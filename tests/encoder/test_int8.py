"""Rounding to 8 bits, and the products without the fused kernel, against integers in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from lengthwise.encoder import int8
from lengthwise.encoder.int8 import EXACT_INPUTS, Float64Linear, Float64Mean, Product, quantize_rows
from lengthwise.util.compat import cpu_has_vnni

PRODUCTS = [int8._float_product, *([int8.vnni_product] if cpu_has_vnni() else [])]
MakeProduct = Callable[[NDArray[np.int8]], Product]


@given(arrays(np.float64, (3, 7), elements=st.floats(-1e6, 1e6, width=32)))
def test_rounding_error_is_at_most_half_a_step(weights: NDArray[np.float64]) -> None:
    rounded, scales = quantize_rows(weights)
    assert np.abs(rounded).max() <= 127
    assert (rounded == np.rint(rounded)).all()
    assert (np.abs(rounded * scales[:, None] - weights) <= 0.5 * scales[:, None] * (1 + 1e-9)).all()


def test_row_of_zeros_stays_zero() -> None:
    rounded, scales = quantize_rows(np.zeros((2, 3)))
    assert not rounded.any()
    assert not scales.any()


@pytest.mark.parametrize("make_product", PRODUCTS)
@pytest.mark.parametrize("inputs", [1, 4, 64, 512, EXACT_INPUTS, EXACT_INPUTS + 1, 3 * EXACT_INPUTS + 5])
@pytest.mark.parametrize(("weight", "state"), [(127, 255), (-127, 255), (127, 1), (-127, 1), (None, None)])
def test_products_equal_those_of_integers(
    make_product: MakeProduct, inputs: int, weight: int | None, state: int | None
) -> None:
    """At the extremes, where sums of two products exceed 16 bits, and in between."""
    random = np.random.default_rng(inputs)
    weights = random.integers(-127, 128, (5, inputs)).astype(np.int8)
    states = random.integers(1, 256, (3, inputs)).astype(np.uint8)
    if weight is not None and state is not None:
        weights[:], states[:] = weight, state
        weights[1, ::2] = -weight  # of alternating signs
    found = make_product(weights)(states)
    expected = (states.astype(np.int64) - 128) @ weights.T.astype(np.int64)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_float64_products_and_means_are_those_of_the_rows_alone() -> None:
    random = np.random.default_rng(0)
    weight, bias, rows = random.normal(size=(9, 31)), random.normal(size=9), random.normal(size=(40, 31))
    linear, rows = Float64Linear(weight, bias), rows.astype(np.float32)
    np.testing.assert_allclose(linear(rows), rows @ weight.T + bias, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(linear(rows), np.concatenate([linear(rows[k : k + 1]) for k in range(40)]))
    ids, lengths = random.integers(0, 40, (4, 6)), np.array([6, 3, 2, 1])
    expected = np.stack([rows[ids[k, :length]].mean(axis=0) for k, length in enumerate(lengths)])
    np.testing.assert_allclose(Float64Mean(rows)(ids, lengths), expected, rtol=1e-6, atol=1e-6)
