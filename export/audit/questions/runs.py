"""Does a vector depend on when and how it is computed: repeated, after a long text, by other threads?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lengthwise.export.audit.answers import Answer
from lengthwise.export.audit.inquiry import Differences, Inquiry, Trial, row_differences
from lengthwise.export.audit.targets.base import NoLongerAnswered, NotAsked, Unanswered
from lengthwise.export.validation.cases import Case

_TIMES = 3
_CALLERS = 4
_LENGTH = 6


def ask_repeat(inquiry: Inquiry) -> Answer:
    """The same call several times."""
    target = inquiry.target

    def measure(case: Case) -> Differences:
        first = target.encode(case)
        repeated = [row_differences(inquiry.again(case), first) for _ in range(_TIMES - 1)]
        return np.maximum.reduce(repeated)

    cases = [inquiry.row(min(_LENGTH, inquiry.longest)), *inquiry.grid()[: 1 if inquiry.quick else 3]]
    return inquiry.ask(
        (Trial(case, f"{_TIMES} times", measure, "the same call again") for case in cases),
        inquiry.tolerances.same_shape,
        "the same call gives the same vectors each time",
        "the same call gives other vectors each time ({batch})",
        errors_fail=False,
    )


def ask_after_long(inquiry: Inquiry) -> Answer:
    """A short text before and after a long one: buffers and states that outlive a call."""
    target = inquiry.target
    long = inquiry.row(min(inquiry.longest, 128) if inquiry.quick else inquiry.longest, seed=1)

    def measure(case: Case) -> Differences:
        before = target.encode(case)
        with contextlib.suppress(NoLongerAnswered):  # an error leaves a state behind too
            inquiry.again(long)
        return row_differences(inquiry.again(case), before)

    short = [inquiry.row(min(length, inquiry.longest)) for length in (1, _LENGTH)]
    return inquiry.ask(
        (Trial(case, f"before and after a text of {int(long.lengths[0])}", measure) for case in short),
        inquiry.tolerances.same_shape,
        "a vector is the same before and after a long text",
        "a vector is another one after a long text than before it ({detail})",
        errors_fail=False,
    )


def ask_threads(inquiry: Inquiry) -> Answer:
    """One thread against all of them; and several callers at once, where the model can take them."""
    target = inquiry.target
    cases = inquiry.grid()[-2 if inquiry.quick else -6 :]
    trials: list[Trial] = []
    reason = "it cannot be called from several threads"
    try:
        single = target.with_one_thread()
    except NotAsked as error:
        reason = str(error)
    else:

        def with_other_threads(case: Case) -> Differences:
            before = inquiry.encode(case)
            try:
                return row_differences(single.encode(case), before)
            except Unanswered as error:
                raise NoLongerAnswered(str(error)) from error

        trials += [Trial(case, "one thread", with_other_threads) for case in cases]
    if target.concurrent:
        trials += _at_once(inquiry, cases)
    if not trials:
        raise NotAsked(reason)
    return inquiry.ask(
        trials,
        inquiry.tolerances.other_shape,
        "a vector is the same with any number of threads" + (", and of callers at once" if target.concurrent else ""),
        "a vector changes with the threads ({batch}, {detail})",
        errors_fail=False,
    )


def _at_once(inquiry: Inquiry, cases: list[Case]) -> Iterator[Trial]:
    """Each batch while others are computed."""
    rows = [inquiry.row(min(length, inquiry.longest), seed=length) for length in (1, 2, 5, 9)]

    def measure(case: Case) -> Differences:
        expected = inquiry.encode(case)
        for row in rows:  # what is no text for it is not blamed on the threads
            inquiry.encode(row)
        with ThreadPoolExecutor(_CALLERS) as pool:
            first = pool.submit(inquiry.again, case)  # before others occupy all threads
            others = [pool.submit(inquiry.again, row) for row in rows]
            found = [first, pool.submit(inquiry.again, case)]
            for each in others:
                each.result()  # raises what it raised
            return np.maximum.reduce([row_differences(each.result(), expected) for each in found])

    for case in [*rows[-1:], *cases]:
        yield Trial(case, f"{_CALLERS} callers at once", measure, "while other texts are encoded")
