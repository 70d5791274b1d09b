"""Confidence intervals by bootstrap, and differences between models on the same resampled rows.

Decisions:
- A statistic is a function of row numbers: of all rows it is the metric, of rows drawn with replacement one sample of
  its distribution. So means, rank correlations and clusterings get their intervals in the same way.
- The seed and the number of rows decide which rows are drawn. Two models on the same task are therefore compared on the
  same samples, and their difference is a paired one, which is far narrower than the intervals of the two suggest.
- Intervals are percentiles (scipy's `bootstrap`, method="percentile") at 95 %, after the samples were shifted so that
  their mean is the metric. A mean needs no shift; a v-measure of rows that are drawn twice is higher than that of all
  rows (the bootstrap's estimate of bias: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import LengthwiseError

CONFIDENCE = 0.95
RESAMPLES = 1_000
_BATCH_CELLS = 20_000_000  # row numbers drawn at a time


@dataclass(frozen=True)
class Statistic:
    """A metric of rows that can be drawn again.

    Attributes:
        rows: how many there are.
        of: float, of int64[n] row numbers.
    """

    rows: int
    of: Callable[[NDArray[np.int64]], float]

    @classmethod
    def mean(cls, values: NDArray[np.floating] | NDArray[np.bool_]) -> Statistic:
        """The mean of one value per row."""
        return cls(len(values), lambda rows: float(values[rows].mean()))


class Interval(NamedTuple):
    """Where a metric or a difference lies with a confidence of 95 %."""

    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A metric.

    Attributes:
        value: of all rows.
        interval: its confidence interval.
        samples: float64[resamples], its values on rows drawn with replacement, shifted to the mean `value`.
        rows: how many rows there are.
    """

    value: float
    interval: Interval
    samples: NDArray[np.float64]
    rows: int


class Difference(NamedTuple):
    """How much better a model is than another one: on the same rows, so that what both find hard cancels out."""

    value: float
    interval: Interval

    @property
    def is_certain(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.interval.low > 0 or self.interval.high < 0


def measure(statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0) -> Measured:
    """A metric and its interval.

    Args:
        statistic: what is measured; with less than two rows the interval is that one value.
        resamples: how often rows are drawn.
        seed: of the draws.

    Raises:
        LengthwiseError: scipy is not installed, or there are no rows.
    """
    if not statistic.rows:
        raise LengthwiseError("a task has no rows; give it a file with some")
    everything = np.arange(statistic.rows)
    value = statistic.of(everything)
    if statistic.rows == 1:
        return Measured(value, Interval(value, value), np.full(resamples, value), 1)
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise LengthwiseError(f"evaluation needs scipy ({error}); install lengthwise[evaluate]") from error
    found = bootstrap(
        (everything,),
        lambda rows: statistic.of(rows.astype(np.int64)),
        vectorized=False,
        n_resamples=resamples,
        batch=max(1, _BATCH_CELLS // statistic.rows),
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    )
    samples = np.asarray(found.bootstrap_distribution, np.float64)
    samples += value - samples.mean()
    return Measured(value, _percentiles(samples), samples, statistic.rows)


def difference(measured: Measured, baseline: Measured) -> Difference:
    """`measured` less `baseline`, which are of the same rows, resamples and seed.

    Raises:
        ValueError: they are not.
    """
    if measured.rows != baseline.rows or len(measured.samples) != len(baseline.samples):
        raise ValueError(f"metrics of {measured.rows} and {baseline.rows} rows have no paired difference")
    return Difference(measured.value - baseline.value, _percentiles(measured.samples - baseline.samples))


def mean_of(measured: list[Measured]) -> Measured:
    """The mean of metrics of several tasks, whose rows are drawn apart from each other.

    Args:
        measured: at least one, all of the same number of resamples.
    """
    samples = np.mean([_reordered(one.samples, number) for number, one in enumerate(measured)], axis=0)
    value = float(np.mean([one.value for one in measured]))
    return Measured(value, _percentiles(samples), samples, sum(one.rows for one in measured))


def _reordered(samples: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Samples in an order of their own: tasks with as many rows as each other were drawn alike, and are not related."""
    return samples[np.random.default_rng(number).permutation(len(samples))]


def _percentiles(samples: NDArray[np.float64]) -> Interval:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return Interval(float(low), float(high))
