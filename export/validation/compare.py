"""Comparisons of a runtime with the oracle, and with itself.

With itself: a row alone against the row in its batch, the batch in another order, the batch with more padding.
Differences are |difference| / max(1, largest |value| of the row): absolute for vectors that are normalised or whose
values stay within 1, as pooled LSTM states do under last, mean and max; relative for larger sums and projections.
Beside each stands the tolerance that it takes, which is the difference itself, or less where the errors of a sum over
time (`artifact.oracle`) or the rounding of float32 (`artifact.rounding`) explain it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.artifact.difference import cosines, largest, needed_tolerance, scaled_difference
from lengthwise.export.artifact.oracle import Labels, Oracle
from lengthwise.export.runtimes.base import OUTPUT_NAMES, Outputs, Runtime
from lengthwise.export.validation.cases import Case

MORE_PADDING, ANOTHER_ORDER, ALONE = "more padding", "another order", "a row alone"
WORST = 8
_LONG = 512  # columns; longer batches are compared with the oracle and with more padding only, to save time


@dataclass(frozen=True)
class CaseResult:
    """The largest difference of one comparison.

    Attributes:
        case: the batch, and the batch it was compared with.
        group: the pattern of lengths, or how the batch was changed.
        of_batch: whether the runtime was compared with itself.
        difference: infinite where a value is not a number.
        needed: the smallest tolerance under which it passes; the difference itself where nothing explains it.
    """

    case: str
    group: str
    of_batch: bool
    difference: float
    needed: float


@dataclass(frozen=True)
class RowDeviation:
    """The difference of one vector from PyTorch's."""

    case: str
    row: int
    length: int
    difference: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """The results of all comparisons of a runtime.

    Attributes:
        difference: the largest from PyTorch, over all outputs; infinite if a value is not a number, None if nothing
            was compared.
        batch_difference: the largest of the runtime from itself.
        p99_difference: the 99th percentile over the vectors' values.
        cosine: the smallest of a vector to PyTorch's; None if vectors are single numbers.
        logits: the largest difference of a logit from PyTorch's, as it is; None without labels.
        decided: rows with tokens whose labels were compared with PyTorch's.
        changed: rows of them that got other labels.
        cases: each comparison.
        rows: each vector of the cases in `row_groups`.
    """

    difference: float | None = None
    batch_difference: float | None = None
    p99_difference: float | None = None
    cosine: float | None = None
    logits: float | None = None
    decided: int = 0
    changed: int = 0
    cases: tuple[CaseResult, ...] = ()
    rows: tuple[RowDeviation, ...] = ()

    @property
    def changed_share(self) -> float:
        """The share of rows that got another label."""
        return self.changed / self.decided if self.decided else 0.0

    def worst_cases(self, number: int = WORST) -> list[CaseResult]:
        """The comparisons that need the largest tolerances, and of equal ones those with the largest differences."""
        return sorted(self.cases, key=lambda case: (-case.needed, -case.difference))[:number]

    def worst_by_group(self) -> dict[str, CaseResult]:
        """The first of `worst_cases` per group, in the order of the groups' first cases."""
        found: dict[str, CaseResult] = {case.group: case for case in reversed(self.worst_cases(len(self.cases)))}
        return {case.group: found[case.group] for case in self.cases}

    def needed(self, *, of_batch: bool) -> float | None:
        """The tolerance that it takes; None if nothing was compared."""
        return max((case.needed for case in self.cases if case.of_batch == of_batch), default=None)


class Comparator:
    """Runs comparisons of a runtime and collects their results."""

    def __init__(self, runtime: Runtime, row_groups: Sequence[str] = (), *, in_float32: bool = True) -> None:
        """Start with no results.

        Args:
            runtime: a loaded runtime.
            row_groups: the groups of cases whose rows are recorded one by one.
            in_float32: whether the tolerances against PyTorch are those of float32: rounding is allowed for, and
                differences are relative to a row's largest value. Between batches they always are.
        """
        self._runtime, self._row_groups, self._in_float32 = runtime, row_groups, in_float32
        self._cases: list[CaseResult] = []
        self._rows: list[RowDeviation] = []
        self._differences: list[NDArray[np.float64]] = []
        self._cosine: float | None = None
        self._logits: float | None = None
        self._decided = self._changed = 0

    def compare(self, case: Case, oracle: Oracle) -> None:
        """Run a case; compare it with the oracle, then with its rows in other batches."""
        first = self.compare_with_oracle(case, oracle)
        for group, other, rows in _other_batches(case):
            found = self._run(other)
            name = f"{case.name}: {group}" if group != ALONE else f"{case.name}: row {rows[0]} alone"
            before = [output[rows] for output in first]
            before[1] = _with_columns(before[1], found[1].shape[1])
            self._add(name, group, True, found, before, oracle.take(rows))

    def compare_with_oracle(self, case: Case, oracle: Oracle) -> Outputs:
        """Run a case and compare it with the oracle alone; its outputs."""
        found = self._run(case)
        self._count_labels(case, found[2:], oracle.labels)
        expected = (oracle.vectors, oracle.states, *([] if oracle.labels is None else [oracle.labels.logits]))
        self._add(case.name, case.group, False, found, expected, oracle)
        self._add_rows(case, found[0], oracle)
        return found

    def result(self) -> Comparison:
        """The results of all comparisons so far."""
        return Comparison(
            difference=_largest(self._cases, of_batch=False),
            batch_difference=_largest(self._cases, of_batch=True),
            p99_difference=self._percentile(99),
            cosine=self._cosine,
            logits=self._logits,
            decided=self._decided,
            changed=self._changed,
            cases=tuple(self._cases),
            rows=tuple(self._rows),
        )

    def _run(self, case: Case) -> Outputs:
        outputs = self._runtime.run(case.input_ids, case.attention_mask)
        if any(output.dtype != np.float32 for output in outputs):
            raise TypeError(f"the outputs are {' and '.join(str(output.dtype) for output in outputs)}, not float32")
        return outputs

    def _count_labels(self, case: Case, found: Sequence[NDArray[np.float32]], labels: Labels | None) -> None:
        """Record differences of the logits, and count the labels that changed.

        Raises:
            ValueError: there are logits and no labels, or the other way round.
        """
        if (labels is None) != (not found):
            raise ValueError("there are no logits" if labels else "there are logits, but the encoder has no labels")
        if labels is None or found[0].shape != labels.logits.shape:
            return
        off = np.abs(found[0].astype(np.float64) - labels.logits)
        self._logits = max(self._logits or 0.0, largest(off))
        real = case.lengths > 0
        ours, theirs = (labels.classifier.decisions(values[real]) for values in (found[0], labels.logits))
        self._decided += int(real.sum())
        self._changed += int((ours != theirs).any(axis=1).sum())

    def _add(
        self,
        name: str,
        group: str,
        of_batch: bool,
        found: Sequence[NDArray[np.float32]],
        expected: Sequence[NDArray[np.float32] | None],
        oracle: Oracle,
    ) -> None:
        """Compare the outputs of a batch with what they should be; what the oracle allows is that of its rows."""
        differences, needed = [], []
        in_float32 = self._in_float32 or of_batch
        allowances = oracle.allowances() if in_float32 else oracle.below_float32().allowances()
        for number, (output, right, allowed) in enumerate(zip(found, expected, allowances, strict=True)):
            if right is not None:
                by_length = not in_float32 and number < len(OUTPUT_NAMES)  # logits are no vector
                differences.append(scaled_difference(output, right))
                needed.append(largest(needed_tolerance(output, right, *allowed, by_length=by_length)))
        self._differences.append(differences[0].ravel())
        self._cases.append(CaseResult(name, group, of_batch, max(map(largest, differences)), max(needed)))

    def _add_rows(self, case: Case, found: NDArray[np.floating], oracle: Oracle) -> None:
        expected = oracle.vectors
        if found.shape != expected.shape:
            return
        differences = scaled_difference(found, expected).max(axis=1)
        of_rows = cosines(found, expected)
        real = np.flatnonzero(case.lengths)
        if len(real) and vectors_have_a_direction(expected):
            smallest = float(of_rows[real].min())
            self._cosine = float(np.minimum(smallest if self._cosine is None else self._cosine, smallest))
        if case.group in self._row_groups:
            self._rows += [
                RowDeviation(case.name, int(row), int(case.lengths[row]), float(differences[row]), float(of_rows[row]))
                for row in real
            ]

    def _percentile(self, percent: float) -> float | None:
        if not self._differences:
            return None
        values = np.nan_to_num(np.concatenate(self._differences), nan=np.inf)
        return float(np.percentile(values, percent, method="higher"))


def _other_batches(case: Case) -> Iterator[tuple[str, Case, NDArray[np.int64]]]:
    """Group, batch and row indices of other batches that hold rows of the case."""
    rng = np.random.default_rng(3)
    batch, sequence = case.input_ids.shape
    yield MORE_PADDING, case.pad_to(sequence + 13, rng), np.arange(batch)
    if batch > 1 and sequence <= _LONG:
        shuffled = rng.permutation(batch)
        yield ANOTHER_ORDER, case.select(shuffled), shuffled
        for row in np.unique([0, int(case.lengths.argmin()), int(case.lengths.argmax()), batch - 1]):
            alone = case.select(np.array([row]))
            yield ALONE, alone.pad_to(max(1, int(case.lengths[row])), rng), np.array([row])


def _with_columns(states: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """States of so many columns, [batch, columns, width]: cut, or zeros beyond their own."""
    more = max(0, columns - states.shape[1])
    return np.pad(states[:, :columns], ((0, 0), (0, more), (0, 0)))


def _largest(cases: Sequence[CaseResult], of_batch: bool) -> float | None:
    return max((case.difference for case in cases if case.of_batch == of_batch), default=None)


def vectors_have_a_direction(vectors: NDArray[np.floating]) -> bool:
    """Whether a cosine says something of vectors, [batch, dim]: that of two single numbers is but their signs."""
    return vectors.shape[1] > 1
