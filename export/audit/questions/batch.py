"""Does a row's vector depend on the batch: its neighbours, their lengths, their number, its place?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lengthwise.export.audit.answers import Answer
from lengthwise.export.audit.inquiry import Differences, Inquiry, Trial, row_differences
from lengthwise.export.validation.cases import GRID_BATCHES, Case

_COPIED_LENGTH = 7
_REPLACEMENTS, _REPLACEMENTS_QUICK = 3, 1
_EQUAL = "equal lengths"


def ask_neighbours(inquiry: Inquiry) -> Answer:
    """The first and the last row stay, and all others hold something else; every length stays as it is."""
    rng = np.random.default_rng(11)

    def measure(case: Case) -> Differences:
        before = inquiry.encode(case)
        found = np.zeros(len(case.lengths))
        for row in {0, len(case.lengths) - 1} if len(case.lengths) > 1 else ():
            for _ in range(_REPLACEMENTS_QUICK if inquiry.quick else _REPLACEMENTS):
                ids = rng.integers(case.vocab_size, size=case.input_ids.shape)
                ids[row] = case.input_ids[row]
                after = inquiry.again(replace(case, input_ids=ids))
                found[row] = max(found[row], row_differences(after, before)[row])
        return found

    return inquiry.ask(
        (Trial(case, case.group, measure, "other texts in place of the others") for case in inquiry.grid()),
        inquiry.tolerances.same_shape,
        "a vector is the same whatever the other texts of its batch are",
        "a vector changes with the other texts of its batch, at the same lengths and places ({batch}, {detail})",
        errors_fail=False,
    )


def ask_mixed_lengths(inquiry: Inquiry) -> Answer:
    """Each row of a batch of mixed lengths against itself alone."""
    return inquiry.ask(
        (Trial(case, case.group, inquiry.against_alone) for case in inquiry.grid() if case.group != _EQUAL),
        inquiry.tolerances.other_shape,
        "a vector is the same alone and beside shorter and longer texts",
        "a vector alone is another one than in a batch of mixed lengths ({batch}, {detail})",
    )


def ask_batch_size(inquiry: Inquiry) -> Answer:
    """A row against the same row beside copies of itself: nothing is padded, and no neighbour differs."""
    sizes = [size for size in GRID_BATCHES if size > 1][: 2 if inquiry.quick else None]
    row = inquiry.row(min(_COPIED_LENGTH, inquiry.longest))

    def copies(size: int) -> Case:
        return row.select(np.zeros(size, np.int64))

    return inquiry.ask(
        (Trial(copies(size), "copies of one text", inquiry.against_alone) for size in sizes),
        inquiry.tolerances.other_shape,
        "a vector is the same in batches of any size",
        "a vector changes with the number of texts in the batch, although all are the same ({batch})",
    )


def ask_order(inquiry: Inquiry) -> Answer:
    """A batch against the same batch in another order."""

    def measure(case: Case) -> Differences:
        order = np.roll(np.arange(len(case.lengths)), 1)
        before = inquiry.encode(case)
        found = np.zeros(len(order))
        found[order] = row_differences(inquiry.again(case.select(order)), before[order])
        return found

    return inquiry.ask(
        (Trial(case, case.group, measure, "in another order") for case in inquiry.grid()),
        inquiry.tolerances.other_shape,
        "a vector is the same at any place of its batch",
        "a vector changes with its place in the batch ({batch}, {detail})",
        errors_fail=False,
    )
