"""Comparisons: what counts as a difference, and that every kind of it is found."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from helpers.engines import FunctionRuntime, RunFunction
from lengthwise.export.artifact.oracle import Oracle
from lengthwise.export.runtimes import Outputs
from lengthwise.export.validation.cases import GOLDEN, Case
from lengthwise.export.validation.compare import (
    ALONE,
    ANOTHER_ORDER,
    MORE_PADDING,
    Comparator,
    Comparison,
)


def sums(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
    """Two states a token, an id over 10 and its negative; their sum is the vector."""
    states = (input_ids * attention_mask)[:, :, None] / 10 * np.array([1.0, -1.0])
    return states.sum(axis=1).astype(np.float32), states.astype(np.float32)


CASE = Case("three rows", GOLDEN, np.array([[1, 2, 3], [4, 9, 9], [0, 0, 0]]), np.array([3, 1, 0]), 10)
ORACLE = Oracle(*sums(CASE.input_ids, CASE.attention_mask))


def compared(answer: RunFunction, row_groups: tuple[str, ...] = ()) -> Comparison:
    comparator = Comparator(FunctionRuntime(answer), row_groups)
    comparator.compare(CASE, ORACLE)
    return comparator.result()


def test_correct_runtime_has_no_difference_in_any_comparison() -> None:
    found = compared(sums)
    assert (found.difference, found.batch_difference, found.p99_difference) == (0, 0, 0)
    assert found.cosine is not None
    assert math.isclose(found.cosine, 1)
    assert [(result.group, result.of_batch) for result in found.cases] == [
        (GOLDEN, False),
        (MORE_PADDING, True),
        (ANOTHER_ORDER, True),
        *[(ALONE, True)] * 2,
    ]
    assert {result.case for result in found.cases} >= {"three rows: row 0 alone", "three rows: row 2 alone"}


def test_constant_error_differs_from_the_oracle_only() -> None:
    def off(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        vectors, states = sums(input_ids, attention_mask)
        return vectors + np.float32(0.25), states

    found = compared(off)
    assert (found.difference, found.batch_difference) == (0.25, 0)


def test_batch_dependence_differs_between_batches_only() -> None:
    def off(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        vectors, states = sums(input_ids, attention_mask)
        return vectors + np.float32(0.25) * (len(input_ids) != 3), states

    found = compared(off)
    assert (found.difference, found.batch_difference) == (0, 0.25)
    assert all(result.difference == 0 for result in found.cases if result.group != ALONE)


def test_rows_of_the_named_groups_are_recorded() -> None:
    assert compared(sums).rows == ()
    rows = compared(sums, (GOLDEN,)).rows
    assert [(row.case, row.row, row.length, row.difference) for row in rows] == [
        ("three rows", 0, 3, 0),
        ("three rows", 1, 1, 0),
    ]
    assert all(math.isclose(row.cosine, 1) for row in rows)


def test_comparator_without_cases_has_no_result() -> None:
    assert Comparator(FunctionRuntime(sums)).result() == Comparison()
