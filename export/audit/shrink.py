"""Makes a failing batch smaller while it still fails: fewer rows, then shorter ones, then plain tokens.

The order is that of delta debugging (A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input",
IEEE Transactions on Software Engineering 28(2), 2002): large steps first, and only steps after which it still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.validation.cases import Case

Failing = Callable[[Case], NDArray[np.bool_]]  # which rows of a batch fail


def shrink(case: Case, failing: Failing, tries: int) -> Case:
    """A smaller batch of which some row still fails.

    Args:
        case: a batch of which one fails.
        failing: which rows of a batch fail.
        tries: how often `failing` may be called.
    """
    left = tries
    rows = np.flatnonzero(failing(case))
    if not len(rows):
        return case
    changed = True
    while changed and left > 0:
        changed = False
        for smaller in _smaller(case, int(rows[0])):
            if left == 0:
                break
            left -= 1
            found = np.flatnonzero(failing(smaller))
            if len(found):
                case, rows, changed = smaller, found, True
                break
    return case


def _smaller(case: Case, row: int) -> Iterator[Case]:
    """Smaller batches, the smallest first; all but a few keep the row that fails."""
    batch = len(case.lengths)
    if batch > 1:
        yield _trimmed(case.select(np.array([row])))
    if batch > 2:
        others = [other for other in range(batch) if other != row]
        by_length = sorted(others, key=lambda other: -int(case.lengths[other]))
        for other in dict.fromkeys([by_length[0], by_length[-1], *others[:2]]):
            yield _trimmed(case.select(np.array(sorted((row, other)))))
        half = len(others) // 2
        for kept in (others[:half], others[half:]):
            yield _trimmed(case.select(np.array(sorted([row, *kept]))))
    beyond = case.input_ids.shape[1] - int(case.lengths.max())
    if beyond > 1:
        yield replace(case, input_ids=case.input_ids[:, : int(case.lengths.max()) + beyond // 2])
        yield replace(case, input_ids=case.input_ids[:, : int(case.lengths.max()) + 1])
    for place in np.argsort(-case.lengths).tolist()[:3]:
        length = int(case.lengths[place])
        for shorter in dict.fromkeys([1, length // 2, length - 1]):
            if 0 < shorter < length:
                lengths = case.lengths.copy()
                lengths[place] = shorter
                yield _trimmed(replace(case, lengths=lengths), beyond)


def _trimmed(case: Case, beyond: int | None = None) -> Case:
    """Without columns that no row needs; `beyond` are kept, or as many as there are."""
    columns = int(case.lengths.max()) + (beyond or 0)
    return replace(case, input_ids=case.input_ids[:, : max(1, min(columns, case.input_ids.shape[1]))])
