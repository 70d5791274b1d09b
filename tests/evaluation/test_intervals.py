"""Intervals by bootstrap: they cover what they should, and differences are paired."""

from __future__ import annotations

import numpy as np
import pytest

from lengthwise.errors import LengthwiseError
from lengthwise.evaluation.intervals import Statistic, difference, mean_of, measure


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = measure(Statistic.mean(values), resamples=2_000)
    error = values.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_intervals_cover_the_truth_as_often_as_they_promise() -> None:
    generator = np.random.default_rng(1)
    found = [measure(Statistic.mean(generator.random(50) < 0.4), 400, seed).interval for seed in range(200)]
    assert 180 <= sum(low <= 0.4 <= high for low, high in found) <= 199


def test_a_small_difference_on_the_same_rows_is_certain_though_the_intervals_overlap() -> None:
    hard = np.random.default_rng(2).random(300)
    better, worse = measure(Statistic.mean(hard + 0.01)), measure(Statistic.mean(hard))
    assert better.interval.low < worse.interval.high
    found = difference(better, worse)
    assert found.value == pytest.approx(0.01)
    assert found.is_certain
    assert not difference(worse, worse).is_certain
    assert difference(worse, better).interval.high < 0


def test_noise_of_no_difference_is_rarely_certain() -> None:
    generator = np.random.default_rng(3)
    certain = 0
    for _ in range(100):
        left, right = generator.random((2, 80)) < 0.5
        certain += difference(measure(Statistic.mean(left), 300), measure(Statistic.mean(right), 300)).is_certain
    assert certain <= 15


def test_the_same_seed_gives_the_same_interval() -> None:
    values = Statistic.mean(np.arange(50) / 50)
    assert measure(values, seed=1).interval == measure(values, seed=1).interval
    assert measure(values, seed=1).interval != measure(values, seed=2).interval


def test_a_mean_of_tasks_is_more_certain_than_each() -> None:
    generator = np.random.default_rng(4)
    tasks = [measure(Statistic.mean(generator.random(100))) for _ in range(4)]
    found = mean_of(tasks)
    assert found.value == pytest.approx(np.mean([one.value for one in tasks]))
    width = found.interval.high - found.interval.low
    assert width == pytest.approx(np.mean([one.interval.high - one.interval.low for one in tasks]) / 2, rel=0.2)


def test_one_row_has_no_width_and_none_is_refused() -> None:
    assert measure(Statistic.mean(np.array([0.5]))).interval == (0.5, 0.5)
    with pytest.raises(LengthwiseError, match="a task has no rows"):
        measure(Statistic.mean(np.array([], np.float64)))


def test_metrics_of_other_rows_have_no_difference() -> None:
    with pytest.raises(ValueError, match="of 3 and 4 rows have no paired difference"):
        difference(measure(Statistic.mean(np.ones(3))), measure(Statistic.mean(np.ones(4))))


def test_the_interval_of_a_biased_statistic_contains_it() -> None:
    """The number of distinct values of rows drawn with replacement is always lower than that of all rows."""
    values = np.arange(300) // 2
    found = measure(Statistic(300, lambda rows: float(len(set(values[rows].tolist())))), 300)
    assert found.value == 150
    assert found.interval.low < 150 < found.interval.high
