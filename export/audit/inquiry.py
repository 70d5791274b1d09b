"""What all questions share: the target, the batches, each row's vector alone, the time that is left, and trials.

The vector of a row alone, at its own length, is the oracle, as it is in validation; the batches are validation's grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.artifact.difference import scaled_difference
from lengthwise.export.audit.answers import Answer, Cell, Example
from lengthwise.export.audit.shrink import shrink
from lengthwise.export.audit.targets.base import NoAnswer, NoLongerAnswered, NotAsked, Padding, Target, Unanswered
from lengthwise.export.validation.cases import Case, grid_cases

Measure = Callable[[Case], NDArray[np.float64]]  # the difference of each row
Differences = NDArray[np.float64]
_ONE_TOKEN, _EMPTY, _LONG, _MANY = "all of one token", "some rows without tokens", "long texts", "many rows"
_QUICK_ROWS = 5
_TRIES, _TRIES_QUICK, _TRIES_LATE = 80, 25, 3  # to make an example smaller
_LONGEST = 512  # tokens of the longest text that is tried by default


class OutOfTime(Exception):
    """The time of a quick audit is over."""


@dataclass(frozen=True)
class Trial:
    """One batch, and how it is measured.

    Attributes:
        case: the batch.
        detail: what is done with it.
        measure: gives the difference of each row; can be repeated on a smaller batch.
        note: what belongs to an example of it, beside the rows.
    """

    case: Case
    detail: str
    measure: Measure
    note: str = ""


@dataclass(frozen=True)
class _Measured:
    """What a trial gave: a difference, or an error."""

    trial: Trial
    difference: float
    error: Unanswered | None = None

    def __str__(self) -> str:
        return f"{self.trial.detail}, {_batch_name(self.trial.case)}: {self.error}"


class Inquiry:
    """A target and what is asked of it.

    Attributes:
        target: the model.
        reference: a model that it should agree with, if there is one.
        quick: whether to ask fewer batches.
        tolerances: of the target's precision.
    """

    def __init__(
        self, target: Target, *, reference: Target | None = None, quick: bool = False, seconds: float | None = None
    ) -> None:
        """`seconds`: after which no more batches are begun; None for no limit."""
        self.target, self.reference, self.quick = target, reference, quick
        self.tolerances = target.tolerances
        self._end = None if seconds is None else time.monotonic() + seconds
        self._encoded: dict[tuple[bytes, bytes], NDArray[np.float32]] = {}
        self._alone: dict[tuple[int, ...], NDArray[np.float32]] = {}

    @cached_property
    def longest(self) -> int:
        """Units of the longest row that is tried: what the files say, or else what the target answers, up to 512."""
        claimed = self.target.longest
        if claimed is not None or not self.target.takes_ids:
            return min(claimed or _LONGEST, _LONGEST)
        return longest_answered(self, _LONGEST)

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() > self._end

    def grid(self) -> list[Case]:
        """The batches of several rows, of lengths that the target takes; without rows of one or no token alone."""
        left_out = {_ONE_TOKEN, _EMPTY, *((_LONG, _MANY) if self.quick or not self.target.takes_ids else ())}
        return [
            self._fitted(case)
            for case in grid_cases(len(self.target.units))
            if len(case.lengths) > 1
            and case.group not in left_out
            and (len(case.lengths) <= _QUICK_ROWS or not self.quick)
        ]

    def of_one_token(self) -> list[Case]:
        """Batches of rows of one token."""
        return [
            case
            for case in grid_cases(len(self.target.units))
            if case.group == _ONE_TOKEN and (len(case.lengths) <= _QUICK_ROWS or not self.quick)
        ]

    def row(self, length: int, seed: int = 0) -> Case:
        """One row of so many units."""
        ids = np.random.default_rng(seed).integers(len(self.target.units), size=(1, max(1, length)))
        return Case(f"{length} tokens", "one row", ids, np.array([length], np.int64), len(self.target.units))

    def alone(self, case: Case) -> NDArray[np.float32]:
        """The vector of each row alone, at its own length: float32[batch, dim]."""
        return np.concatenate([self._row_alone(case, row) for row in range(len(case.lengths))])

    def against_alone(self, case: Case) -> Differences:
        """The difference of each row of a batch from itself alone; infinite where that is no vector of numbers."""
        alone = self.alone(case)
        numbers = np.isfinite(alone).all(axis=1)
        return np.where(numbers, row_differences(self.encode(case), alone), np.inf)

    def ask(
        self, trials: Iterable[Trial], tolerance: float, passes: str, fails: str, *, errors_fail: bool = True
    ) -> Answer:
        """Run trials: the answer passes if no difference is above the tolerance.

        Args:
            passes: the sentence of an answer that passes.
            fails: that of one that fails; `{detail}` and `{batch}` name the worst trial.
            errors_fail: whether a batch that the target does not answer fails; it is left out otherwise, since it
                fails another question.

        Raises:
            NotAsked: no trial can be run.
            OutOfTime: the time is over before the first one.
        """
        trials = list(trials)
        measured = list(self._measure(trials))
        always = (NoAnswer, NoLongerAnswered)
        counted = [each for each in measured if each.error is None or errors_fail or isinstance(each.error, always)]
        if not counted:
            raise NotAsked(
                f"no batch could be compared ({measured[0]})" if measured else "there is no batch to ask it of"
            )
        worst = max(counted, key=lambda each: each.difference)
        cells = tuple(Cell(_batch_name(each.trial.case), each.trial.detail, each.difference) for each in counted)
        if worst.difference <= tolerance:
            late = f"; there was time for {len(measured)} of {len(trials)} batches" * (len(measured) < len(trials))
            return Answer("pass", passes + late, worst.difference, tolerance, cells)
        says = fails.format(detail=worst.trial.detail, batch=_batch_name(worst.trial.case))
        if worst.error is not None:
            says = f"it fails: {worst}"
        # What keeps silent is not asked again only to make the batch smaller.
        example = None if isinstance(worst.error, NoAnswer) else self.example(worst.trial, tolerance)
        return Answer("fail", says, worst.difference, tolerance, cells, example)

    def _measure(self, trials: Iterable[Trial]) -> Iterator[_Measured]:
        """Run trials until the time is over, or until the target can be asked no more."""
        for number, trial in enumerate(trials):
            if self.is_late:
                if number == 0:
                    raise OutOfTime
                return
            try:
                yield _Measured(trial, float(nan_to_inf(trial.measure(trial.case)).max(initial=0)))
            except Unanswered as error:
                yield _Measured(trial, float("inf"), error)
            except NotAsked:
                if number == 0:
                    raise
                return

    def example(self, trial: Trial, tolerance: float) -> Example:
        """The smallest batch that still fails a trial."""

        def difference(case: Case) -> Differences:
            try:
                return nan_to_inf(trial.measure(case))
            except (NoAnswer, NotAsked):  # which shows nothing about this batch
                return np.zeros(len(case.lengths))
            except Unanswered:
                return np.full(len(case.lengths), np.inf)

        tries = _TRIES_LATE if self.is_late else _TRIES_QUICK if self.quick else _TRIES
        case = shrink(trial.case, lambda case: difference(case) > tolerance, tries)
        found = difference(case)
        first = int(found.argmax())
        order = [first, *(row for row in range(len(found)) if row != first)]
        rows = tuple(self.target.describe(case.input_ids[row, : case.lengths[row]].tolist()) for row in order)
        beyond = case.input_ids.shape[1] - int(case.lengths.max(initial=0))
        columns = f"{beyond} column{'s' * (beyond > 1)} of padding"
        padded = columns if beyond and self.target.takes_ids else ""
        return Example(rows, "; ".join(filter(None, (padded, trial.note))), float(found.max()))

    def encode(self, case: Case) -> NDArray[np.float32]:
        """The vectors of a batch, float32[batch, dim]; computed once, for questions that compare it with others."""
        key = (case.input_ids.tobytes(), case.lengths.tobytes())
        if key not in self._encoded:
            self._encoded[key] = self.target.encode(case)
        return self._encoded[key]

    def again(self, case: Case, padding: Padding = Padding()) -> NDArray[np.float32]:
        """The vectors of a batch of a shape that was answered before: float32[batch, dim].

        Raises:
            NoAnswer: the target kept silent.
            NoLongerAnswered: it raised.
        """
        try:
            return self.target.encode(case, padding)
        except NoAnswer:
            raise
        except Unanswered as error:
            raise NoLongerAnswered(str(error)) from error

    def _row_alone(self, case: Case, row: int) -> NDArray[np.float32]:
        length = int(case.lengths[row])
        key = tuple(case.input_ids[row, :length].tolist())
        if key not in self._alone:
            one = replace(case, input_ids=case.input_ids[row : row + 1, : max(1, length)], lengths=case.lengths[[row]])
            self._alone[key] = self.target.encode(one)
        return self._alone[key]

    def _fitted(self, case: Case) -> Case:
        """The case with no row longer than the target takes."""
        beyond = case.input_ids.shape[1] - int(case.lengths.max())
        lengths = np.minimum(case.lengths, self.longest)
        columns = min(int(lengths.max()) + beyond, self.longest)
        return replace(case, input_ids=case.input_ids[:, : max(columns, int(lengths.max()))], lengths=lengths)


def nan_to_inf(values: Differences) -> Differences:
    """Differences, infinite where they are no numbers."""
    return np.where(np.isnan(values), np.inf, values)


def longest_answered(inquiry: Inquiry, most: int) -> int:
    """The longest row, up to `most` units, that the target answers; 1 if it answers none."""

    def is_answered(length: int) -> bool:
        try:
            inquiry.target.encode(inquiry.row(length))
        except Unanswered:
            return False
        return True

    if is_answered(most):
        return most
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_answered(middle) else (low, middle)
    return low


def row_differences(found: NDArray[np.float32], expected: NDArray[np.float32]) -> Differences:
    """How far each row is off, relative to its largest value: float64[batch]; infinite where the shapes differ.

    Infinity and NaN are the same as themselves.
    """
    if found.shape != expected.shape:
        return np.full(max(1, len(found)), np.inf)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    found, expected = (np.where(same & ~np.isfinite(values), 0, values) for values in (found, expected))
    largest = np.abs(expected).max(axis=1, keepdims=True, initial=0)
    scale = np.where(largest > 0, largest, 1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # values that are no numbers stay so
        return scaled_difference(found / scale, expected / scale).max(axis=1)


def _batch_name(case: Case) -> str:
    return "1 row" if len(case.lengths) == 1 else f"{len(case.lengths)} rows"
