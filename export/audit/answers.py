"""What an audit found: one answer for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Verdict = Literal["pass", "limit", "fail", "not asked"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]
VERDICTS: tuple[Verdict, ...] = ("fail", "limit", "not asked", "pass")


class Cell(NamedTuple):
    """One measurement.

    Attributes:
        batch: the batch in a word, such as "5 rows".
        detail: what was done with it.
        difference: infinite where a value is not a number, or the model raised.
    """

    batch: str
    detail: str
    difference: float


@dataclass(frozen=True)
class Example:
    """The smallest input that was found to show a failure.

    Attributes:
        rows: the texts, or ids, of the batch; the first is the one whose vector changes.
        note: what else belongs to it, such as the padding.
        difference: of the first row's vector.
    """

    rows: tuple[str, ...]
    note: str
    difference: float


@dataclass(frozen=True)
class Cause:
    """What in a model explains failures.

    Attributes:
        what: the cause.
        remedy: what to do about it.
        where: the nodes, or settings.
        explains: names of questions that fail through it.
        rewrite: the rewrite that removes it, see `fix`; empty where there is none.
    """

    what: str
    remedy: str
    where: tuple[str, ...]
    explains: frozenset[str]
    rewrite: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        verdict: `limit` is a property that users should know of, and that breaks nothing which the files claim.
        says: the answer in one sentence.
        value: what was measured, usually the largest difference.
        tolerance: the largest value that passes.
        cells: the measurements.
        example: of a failure.
        causes: of a failure, as far as they can be told.
        question: its name.
        seconds: that the answer took.
    """

    verdict: Verdict
    says: str
    value: float | None = None
    tolerance: float | None = None
    cells: tuple[Cell, ...] = ()
    example: Example | None = None
    causes: tuple[Cause, ...] = ()
    question: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Fix:
    """A graph that was rewritten so that it passes the audit.

    Attributes:
        path: where it was written.
        rewrites: what was done.
        audit: of the new graph.
        moved: the largest change of the vector of a text alone, relative to its largest value.
        cosine: the smallest cosine of such a vector to the one before.
    """

    path: str
    rewrites: tuple[str, ...]
    audit: Audit
    moved: float
    cosine: float


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        model: as it was named.
        kind: what it is.
        precision: in which it computes.
        dim: of its vectors.
        answers: one for each question, in the order of the report.
        unexplained: causes that were seen in the graph, and that no answer shows an effect of.
        environment: versions, and what was taken.
        quick: whether fewer batches were asked.
        seconds: that it took.
        inspected: whether causes could be looked for in its files.
        exact: whether batches of one shape are computed by the same operations, and held to the smaller tolerance.
        fix: the fixed graph, if one was wanted and made.
        not_fixed: why there is none, if one was wanted.
    """

    model: str
    kind: str
    precision: Precision
    dim: int
    answers: tuple[Answer, ...]
    unexplained: tuple[Cause, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    seconds: float = 0.0
    inspected: bool = True
    exact: bool = True
    fix: Fix | None = None
    not_fixed: str = ""

    def by_verdict(self, verdict: Verdict) -> tuple[Answer, ...]:
        """The answers with a verdict."""
        return tuple(answer for answer in self.answers if answer.verdict == verdict)

    @property
    def failed(self) -> tuple[Answer, ...]:
        """The answers that fail."""
        return self.by_verdict("fail")

    @property
    def passed(self) -> bool:
        """Whether no answer fails, and at least one question could be asked."""
        return not self.failed and any(answer.verdict == "pass" for answer in self.answers)

    def answer(self, question: str) -> Answer:
        """The answer to a question.

        Raises:
            KeyError: it is not among them.
        """
        for answer in self.answers:
            if answer.question == question:
                return answer
        raise KeyError(question)

    def violations(self, fail_on: Sequence[str] = ("fail",)) -> tuple[Answer, ...]:
        """The answers that should stop a build.

        Args:
            fail_on: verdicts, and names of questions that have to pass.
        """
        return tuple(
            answer
            for answer in self.answers
            if answer.verdict in fail_on or (answer.question in fail_on and answer.verdict != "pass")
        )

    def check(self, fail_on: Sequence[str] = ("fail",)) -> Audit:
        """The audit itself, if nothing in it should stop a build: for a test.

        Raises:
            AssertionError: something should; the message says what, why, and shows the smallest example.
        """
        broken = self.violations(fail_on)
        if not broken and self.by_verdict("pass"):
            return self
        lines = [f"{answer.question}: {answer.says}{_reasons(answer)}" for answer in broken]
        raise AssertionError(
            "\n".join([f"{self.model} does not pass the audit", *(lines or ["nothing could be asked"])])
        )


def _reasons(answer: Answer) -> str:
    """The causes of an answer and its example, on lines of their own."""
    lines = [f"cause: {cause.what}; remedy: {cause.remedy}" for cause in answer.causes]
    if answer.example is not None:
        lines.append(f"example: {' | '.join(answer.example.rows)} {answer.example.note}".rstrip())
    return "".join(f"\n    {line}" for line in lines)
