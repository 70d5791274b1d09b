"""Differences: relative to what, and what an allowance leaves of them."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from lengthwise.export.artifact.difference import LARGEST, Allowance, largest, needed_tolerance, scaled_difference


def test_differences_are_absolute_up_to_one_and_relative_above() -> None:
    right = np.array([[0.5, 0.1], [100.0, 0.0]], np.float32)
    found = right + np.float32(0.25)
    np.testing.assert_allclose(scaled_difference(found, right), [[0.25, 0.25], [0.0025, 0.0025]])
    assert scaled_difference(found[:1], right).tolist() == [np.inf]


def test_fixed_part_of_an_allowance_is_subtracted_and_its_scale_divides() -> None:
    right = np.array([[0.5, 4.0, 0.0]])
    found = right + np.array([[0.5, -0.5, 0.5]])
    allowance = Allowance(np.array([[10.0, 10.0, 0.5]]), np.array([[0.25, 0.75, 0.25]]))
    # Of the last value the usual measure, by the row's largest value of 4, is smaller.
    np.testing.assert_allclose(needed_tolerance(found, right, allowance), [[0.025, 0, 0.125]])
    assert largest(needed_tolerance(found, right, allowance)) == 0.125
    np.testing.assert_allclose(needed_tolerance(found, right), scaled_difference(found, right))


NUMBERS = st.floats(0, 10)


@given(NUMBERS, NUMBERS, NUMBERS, st.floats(0, 2), st.sampled_from([1e-6, 1e-3, 0.05]))
def test_value_passes_within_the_larger_of_both_allowances(
    size: float, scale: float, fixed: float, part: float, tolerance: float
) -> None:
    assume(abs(part - 1) > 1e-3)
    fixed *= tolerance  # as large as the rest
    difference = part * max(tolerance * max(1, size), tolerance * scale + fixed)
    allowance = Allowance(np.full((1, 1), scale), np.full((1, 1), fixed))
    found = needed_tolerance(np.array([[size + difference]]), np.array([[size]]), allowance)
    assert (found[0, 0] <= tolerance) == (part < 1)


def test_value_that_is_not_a_number_has_an_infinite_difference_under_any_allowance() -> None:
    right = np.zeros((1, 2))
    much = Allowance(np.full((1, 2), 1e9), np.full((1, 2), 1e9))
    assert largest(needed_tolerance(np.array([[0.0, np.nan]]), right, much, np.array([1e9]))) == np.inf


@given(NUMBERS, st.floats(0, 2 * LARGEST), st.floats(0, 2), st.sampled_from([1e-6, 1e-5]))
def test_value_passes_within_its_rounding_or_its_tolerance(
    size: float, rounding: float, part: float, tolerance: float
) -> None:
    assume(abs(part - 1) > 1e-3)
    sizes = max(1, size)
    difference = part * max(tolerance * sizes, min(rounding, LARGEST * sizes))
    found = needed_tolerance(
        np.array([[size + difference]]), np.array([[size]]), rounding=np.array([rounding], np.float64)
    )
    assert (found[0, 0] <= tolerance) == (part < 1)


def test_below_float32_a_difference_is_relative_to_the_length_of_a_vector() -> None:
    right, found = np.full((1, 100), 2.0), np.full((1, 100), 2.5)  # of the length 20
    np.testing.assert_allclose(needed_tolerance(found, right, by_length=True), np.full((1, 100), 0.5 / 20))
    np.testing.assert_allclose(needed_tolerance(found, right), np.full((1, 100), 0.25))
    short = np.zeros((1, 2))
    np.testing.assert_allclose(needed_tolerance(short + 0.5, short, by_length=True), [[0.5, 0.5]])
    nan = needed_tolerance(np.array([[np.nan, 0.0]]), short, by_length=True)
    assert largest(nan) == np.inf


def test_rounding_of_a_row_is_that_of_each_of_its_states() -> None:
    right, found = np.zeros((2, 3, 4)), np.full((2, 3, 4), 1e-5)
    needed = needed_tolerance(found, right, rounding=np.array([2e-5, 1e-6]))
    assert not needed[0].any()
    np.testing.assert_allclose(needed[1], 1e-5)


def test_allowances_add_up_and_rows_are_taken() -> None:
    one = Allowance(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]]))
    both = (one + one).take(np.array([1]))
    assert (both.scale.tolist(), both.fixed.tolist()) == ([[4.0]], [[8.0]])
