"""Does a row's vector depend on the padding: its width, what it holds, its side? Asked where padding can be chosen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lengthwise.export.audit.answers import Answer
from lengthwise.export.audit.inquiry import Differences, Inquiry, Trial, row_differences
from lengthwise.export.audit.targets.base import NotAsked, Padding, Unanswered
from lengthwise.export.validation.cases import Case

_LENGTHS, _WIDTHS = (1, 6), (1, 13)
_LONG_WIDTH = 128  # columns, in a quick audit
_CHOSEN_ELSEWHERE = "it takes texts, and pads them itself"


def ask_padding_width(inquiry: Inquiry) -> Answer:
    """Single rows with more and more padding, up to the maximum."""
    _check_ids(inquiry)
    columns = getattr(inquiry.target, "fixed", (None, None))[1]
    if columns is not None:
        return Answer(
            "fail", f"the graph takes exactly {columns} columns: a text has to be padded to them, and may not be longer"
        )
    most = min(inquiry.longest, _LONG_WIDTH) if inquiry.quick else inquiry.longest
    return inquiry.ask(
        _padded_rows(inquiry, (*_WIDTHS, most)),
        inquiry.tolerances.other_shape,
        f"a vector is the same at every padded width, up to {most + inquiry.target.special_tokens} columns",
        "a vector changes when its text is padded ({detail})",
    )


def ask_padding_contents(inquiry: Inquiry) -> Answer:
    """The same batches with the pad id and with other ids in the padding, which the mask leaves out."""
    _check_ids(inquiry)
    if not getattr(inquiry.target, "has_mask", True):
        raise NotAsked("the graph takes no attention_mask: the pad id itself says where the padding is")

    def measure(case: Case) -> Differences:
        before = inquiry.encode(case)
        return row_differences(inquiry.again(case, Padding(random=True)), before)

    batches = [Trial(case, case.group, measure, "other ids in the padding") for case in inquiry.grid() if _padded(case)]
    rows = [Trial(t.case, t.detail, measure, "other ids in the padding") for t in _padded_rows(inquiry, _WIDTHS)]
    return inquiry.ask(
        [*rows, *batches],
        inquiry.tolerances.same_shape,
        "a vector is the same whatever ids fill the padding",
        "a vector changes with the ids that fill the padding, although the mask leaves them out ({batch}, {detail})",
        errors_fail=False,
    )


def ask_left_padding(inquiry: Inquiry) -> Answer:
    """Padding on the side on which the tokenizer does not put it: a limit, and no failure."""
    _check_ids(inquiry)
    target, usual = inquiry.target, inquiry.target.claims.side
    other = Padding("left" if usual == "right" else "right")

    def measure(case: Case) -> Differences:
        return row_differences(target.encode(case, other), inquiry.alone(case))

    trials = [
        *(Trial(trial.case, trial.detail, measure) for trial in _padded_rows(inquiry, _WIDTHS)),
        *(Trial(case, case.group, measure) for case in inquiry.grid()[: 1 if inquiry.quick else 4]),
    ]
    passes = f"padding on the {other.side} gives the same vectors"
    answer = inquiry.ask(trials, inquiry.tolerances.other_shape, passes, "", errors_fail=False)
    if answer.verdict == "pass":
        return answer
    says = f"pad on the {usual}, as its tokenizer does: padding on the {other.side} gives other vectors"
    return Answer("limit", says, answer.value, answer.tolerance, answer.cells)


def _check_ids(inquiry: Inquiry) -> None:
    if not inquiry.target.takes_ids:
        raise NotAsked(_CHOSEN_ELSEWHERE)
    try:
        inquiry.alone(inquiry.row(1))
    except Unanswered as error:
        raise NotAsked(f"a text of one token has no vector ({error})") from error


def _padded_rows(inquiry: Inquiry, widths: tuple[int, ...]) -> Iterator[Trial]:
    """Rows of few tokens, with so many columns more, or up to as many columns as the last width says."""
    rng = np.random.default_rng(12)
    for length in _LENGTHS:
        if length >= inquiry.longest:
            continue
        row = inquiry.row(length)
        for number, width in enumerate(widths):
            columns = width if number == 2 else min(length + width, inquiry.longest)
            if columns > length:
                special = inquiry.target.special_tokens
                detail = f"{length + special} of {columns + special} columns are tokens"
                yield Trial(row.pad_to(columns, rng), detail, inquiry.against_alone)


def _padded(case: Case) -> bool:
    return bool((case.lengths < case.input_ids.shape[1]).any())
