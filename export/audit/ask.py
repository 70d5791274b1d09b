"""Asks every question of an opened target, and looks for causes of what fails."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tqdm import tqdm

from lengthwise.errors import AuditError
from lengthwise.export.audit.answers import Answer, Audit, Cause
from lengthwise.export.audit.causes.find import can_be_inspected, find_causes
from lengthwise.export.audit.inquiry import Inquiry, OutOfTime
from lengthwise.export.audit.questions.names import COMPARING, DISTINCT, REPEAT, THREADS
from lengthwise.export.audit.questions.registry import QUESTIONS
from lengthwise.export.audit.targets.base import NotAsked, Target, Unanswered


def audit_target(
    target: Target,
    *,
    reference: Target | None = None,
    quick: bool = False,
    seconds: float | None = None,
    names: Iterable[str] = tuple(QUESTIONS),
    show_progress: bool = False,
) -> Audit:
    """Audit an opened target.

    Args:
        seconds: after which no more batches are begun; None for no limit.

    Raises:
        AuditError: it gives no vector for a single text.
    """
    inquiry = Inquiry(target, reference=reference, quick=quick, seconds=seconds)
    try:
        dim = inquiry.alone(inquiry.row(min(2, inquiry.longest))).shape[1]
    except (Unanswered, NotAsked) as error:
        raise AuditError(f"{target.name}: gives no vector for one short text: {error}") from error
    answers = dict(_ask_all(inquiry, list(names), show_progress))
    causes = find_causes(target, reference)
    explained = [_explain(answers[name], causes) for name in QUESTIONS if name in answers]
    shown = {cause for answer in explained for cause in answer.causes}
    return Audit(
        model=target.name,
        kind=target.kind,
        precision=target.precision,
        dim=dim,
        answers=tuple(explained),
        unexplained=tuple(cause for cause in causes if cause not in shown and _was_asked(cause, explained)),
        environment=target.environment(),
        quick=quick,
        inspected=can_be_inspected(target),
        exact=target.exact,
    )


def _ask_all(inquiry: Inquiry, names: list[str], show_progress: bool) -> Iterator[tuple[str, Answer]]:
    """The answers; first those without which most others say nothing, and last the one that takes longest."""
    first, last = (REPEAT, DISTINCT), (THREADS,)
    order = [name for name in first if name in names]
    order += [name for name in names if name not in (*first, *last)]
    order += [name for name in last if name in names]
    incomparable = ""
    for name in tqdm(order, "audit", disable=not show_progress):
        start = time.monotonic()
        compared = name in COMPARING
        answer = Answer("not asked", incomparable) if incomparable and compared else _ask(inquiry, name)
        if answer.verdict == "fail" and name == REPEAT:
            incomparable = "the same call gives other vectors each time, so nothing can be compared"
        if answer.verdict == "fail" and name == DISTINCT and answer.example is not None:
            incomparable = incomparable or f"{answer.says.partition(':')[0]}, so nothing can be compared"
        yield name, replace(answer, question=name, seconds=time.monotonic() - start)


def _ask(inquiry: Inquiry, name: str) -> Answer:
    try:
        return QUESTIONS[name].ask(inquiry)
    except NotAsked as error:
        return Answer("not asked", str(error))
    except OutOfTime:
        return Answer("not asked", "there was no time left in a quick audit")
    except Unanswered as error:
        return Answer("fail", f"it fails: {error}", float("inf"))


def _was_asked(cause: Cause, answers: list[Answer]) -> bool:
    """Whether a question that a cause makes fail was put, and did not fail."""
    return any(answer.question in cause.explains and answer.verdict == "pass" for answer in answers)


def _explain(answer: Answer, causes: tuple[Cause, ...]) -> Answer:
    if answer.verdict == "pass" or answer.verdict == "not asked":
        return answer
    return replace(answer, causes=tuple(cause for cause in causes if answer.question in cause.explains))
