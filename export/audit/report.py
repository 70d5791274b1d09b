"""An audit as plain text, Markdown, JSON and a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise import __version__
from lengthwise.errors import LengthwiseError
from lengthwise.export.audit.answers import Answer, Audit, Cause, Example, Fix
from lengthwise.export.audit.questions.registry import QUESTIONS
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.util.files import write_atomically
from lengthwise.util.json_text import to_json
from lengthwise.util.markdown import markdown_table
from lengthwise.util.plots import figure_to_png
from lengthwise.util.system import cpu_count, cpu_model

if TYPE_CHECKING:
    from lengthwise.export.validation.plots import Row

REPORT_FILES = ("audit.md", "audit.json", "audit.png")
_PROMISE = "A text's vector depends on the text and the model alone."
_TITLE = "Does a text's vector depend on the text alone?"
_EXPLAINED = (
    "Each figure is the largest difference of a vector from itself, relative to its largest value. ✗: above the"
    " tolerance of that question."
)
_HEADS = {False: "by the number of texts in the batch", True: ""}
_METHOD = (
    "A difference is |value - value alone| / the largest value of that vector. The vector of a text alone, at its own"
    " length, is the reference for every batch. {tolerances} A limit is a property that users should know of, and that"
    " breaks nothing which the files claim."
)
_EXACT = (
    "In batches of one shape the arithmetic of a row is the same whatever the others hold, so {same:.0e} passes there;"
    " in batches of other shapes, where kernels add up in another order, {other:.0e} passes in {precision}."
)
_INEXACT = "What is audited forms its batches itself, so {other:.0e} passes in {precision} for all of them."
_MANY = 1e9  # larger values are no numbers of tokens
_SIGNS = {"pass": "✓", "limit": "!", "fail": "✗", "not asked": "–"}


def write_report(audit: Audit, folder: str | Path) -> list[Path]:
    """Write `REPORT_FILES`; the picture only where matplotlib is installed.

    Returns:
        the files.

    Raises:
        StoreError: they cannot be written.
    """
    markdown, data, picture = (Path(folder) / name for name in REPORT_FILES)
    try:
        image = draw_heat_map(audit)
    except LengthwiseError:  # matplotlib is not installed
        image = None
    write_atomically(markdown, audit_to_markdown(audit, picture.name if image else None).encode())
    write_atomically(data, audit_to_json(audit).encode())
    if image is None:
        return [markdown, data]
    write_atomically(picture, image)
    return [markdown, data, picture]


def audit_to_text(audit: Audit) -> str:
    """Plain text: one line for each question, and the causes and examples of what fails."""
    lines = [f"audit       {audit.model}: {audit.kind}, {audit.precision}, {audit.dim} values", _headline(audit), ""]
    first = _first_with_causes(audit)
    for answer in audit.answers:
        figure = "" if answer.value is None else f" [{_figure(answer.value)}]"
        lines.append(f"{_SIGNS[answer.verdict]} {answer.verdict:10} {answer.question:18} {answer.says}{figure}")
        lines += [f"  {'':29} {line}" for line in _details(answer, first[answer.causes], audit.inspected)]
    if audit.unexplained:
        lines += ["", *(f"seen, without an effect in this audit: {cause.what}" for cause in audit.unexplained)]
    if audit.fix or audit.not_fixed:
        lines += ["", f"fix         {_fix_sentence(audit)}"]
    return "\n".join(lines)


def audit_to_markdown(audit: Audit, heat_map: str | None = None) -> str:
    """A report to paste into an issue: the verdicts, what fails with its cause and an example, then every figure.

    Args:
        heat_map: the file name of the picture, if there is one.
    """
    first = _first_with_causes(audit)
    sections = [
        f"# Audit of {audit.model}",
        f"> {_PROMISE}",
        f"**{_headline(audit)}**",
        f"{audit.kind}; {audit.precision}; {audit.dim} values per vector; {_environment(audit)}.",
        _table(audit),
        f"![The largest difference by question and batch]({heat_map})" if heat_map else "",
        *(_failure_section(a, first[a.causes], audit.inspected) for a in audit.answers if _has_section(a)),
        _unexplained_section(audit),
        f"## Fix\n\n{_fix_sentence(audit)}." if audit.fix or audit.not_fixed else "",
        f"## How it was measured\n\n{_method(audit)}",
        _cells_table(audit),
        f"lengthwise {__version__}, {cpu_model()}, {cpu_count()} cores{', quick' * audit.quick}.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def audit_to_json(audit: Audit) -> str:
    """Everything that was found, for programs; figures that are not finite are written as strings."""
    record: dict[str, Any] = {
        "lengthwise": __version__,
        "passed": audit.passed,
        "machine": {"processor": cpu_model(), "cores": cpu_count()},
        **asdict(audit),
        "answers": [_answer_record(answer) for answer in audit.answers],
        "unexplained": [_cause_record(cause) for cause in audit.unexplained],
        "fix": None if audit.fix is None else _fix_record(audit.fix),
    }
    return to_json(record)


def draw_heat_map(audit: Audit) -> bytes:
    """The largest differences by question and number of texts in the batch, as the bytes of a PNG file.

    Raises:
        LengthwiseError: matplotlib is not installed.
    """
    from lengthwise.export.validation.plots import rows_figure

    sections: dict[str, list[Row]] = {}
    for answer in audit.answers:
        family = QUESTIONS[answer.question].family
        sections.setdefault(family, []).append(_row(answer))
    batches = sorted({cell.batch for answer in audit.answers for cell in answer.cells}, key=_rows_of)
    tolerances: dict[float, list[str]] = {}
    for answer in audit.answers:
        if answer.cells and answer.tolerance:
            tolerances.setdefault(answer.tolerance, []).append(answer.question)
    groups = dict.fromkeys(batches, False)
    return figure_to_png(rows_figure(sections, groups, tolerances, _TITLE, _EXPLAINED, _HEADS, "tolerance"))


def _row(answer: Answer) -> Row:
    from lengthwise.export.validation.plots import Row

    worst: dict[str, float] = {}
    for cell in answer.cells if answer.tolerance is not None else ():
        worst[cell.batch] = max(worst.get(cell.batch, 0.0), cell.difference)
    limit = answer.tolerance or 0.0
    words = "not asked" if answer.verdict == "not asked" else "no difference to show"
    verdict = {"pass": "✓ passes", "fail": "✗ fails", "limit": "! limit", "not asked": "–"}[answer.verdict]
    return Row(answer.question, worst, "" if worst else words, verdict, False, Tolerances(limit, limit, 0.0))


def _rows_of(batch: str) -> int:
    number = batch.partition(" ")[0]
    return int(number) if number.isdigit() else 0


def _headline(audit: Audit) -> str:
    if audit.failed:
        return f"Fails {len(audit.failed)} of {_asked(audit)} questions: {', '.join(a.question for a in audit.failed)}."
    if not audit.passed:
        return "No question could be asked: this says nothing about the model."
    limits = audit.by_verdict("limit")
    rest = f", with limits: {', '.join(answer.question for answer in limits)}" if limits else ""
    return f"Keeps the promise in all {_asked(audit)} questions that were asked{rest}."


def _asked(audit: Audit) -> int:
    return len(audit.answers) - len(audit.by_verdict("not asked"))


def _no_cause(inspected: bool) -> str:
    return "not found by looking at the files" if inspected else "not to be seen from outside; audit the model's files"


def _has_section(answer: Answer) -> bool:
    """Whether an answer gets a section of its own."""
    return answer.verdict in ("fail", "limit")


def _first_with_causes(audit: Audit) -> dict[tuple[Cause, ...], str]:
    """By causes, the first question that has them: where they are written out."""
    found: dict[tuple[Cause, ...], str] = {}
    for answer in audit.answers:
        found.setdefault(answer.causes, answer.question)
    return found


def _details(answer: Answer, first: str, inspected: bool) -> Iterator[str]:
    if answer.causes and first != answer.question:
        yield f"cause: as of {first}"
    for cause in answer.causes if first == answer.question else ():
        yield f"cause: {cause.what}{_where(cause)}"
        yield f"remedy: {cause.remedy}"
    if answer.verdict == "fail" and not answer.causes:
        yield f"cause: {_no_cause(inspected)}"
    if answer.example is not None:
        yield f"example: {_example(answer.example)}"


def _example(example: Example) -> str:
    parts = [" | ".join(example.rows), example.note]
    shown = "; ".join(part for part in parts if part)
    return shown if math.isinf(example.difference) else f"{shown} ({_figure(example.difference)})"


def _where(cause: Cause) -> str:
    return f" ({', '.join(cause.where)})" if cause.where else ""


def _table(audit: Audit) -> str:
    rows = [
        (
            answer.question,
            QUESTIONS[answer.question].asks,
            f"{_SIGNS[answer.verdict]} {answer.verdict}",
            "" if answer.value is None else _figure(answer.value),
            "" if answer.tolerance is None else _figure(answer.tolerance),
            answer.says,
        )
        for answer in audit.answers
    ]
    return markdown_table(("question", "asks", "verdict", "measured", "tolerance", "answer"), rows)


def _failure_section(answer: Answer, first: str, inspected: bool) -> str:
    lines = [f"## {answer.question}: {answer.verdict}", f"{answer.says[:1].upper()}{answer.says[1:]}."]
    if answer.causes and first != answer.question:
        lines.append(f"- Cause: as of {first}.")
    for cause in answer.causes if first == answer.question else ():
        where = ", ".join(f"`{name}`" for name in cause.where)
        lines.append(f"- Cause: {cause.what}.{f' Where: {where}.' if where else ''}\n- Remedy: {cause.remedy}.")
    if answer.verdict == "fail" and not answer.causes:
        lines.append(f"- Cause: {_no_cause(inspected)}.")
    if answer.example is not None and (answer.example.rows or answer.example.note):
        rows = "\n".join(f"    {row}" for row in answer.example.rows)
        note = f" ({answer.example.note})" if answer.example.note else ""
        lines.append(f"The smallest input found that shows it{note}:" + (f"\n\n{rows}" if rows else ""))
    return "\n\n".join(lines)


def _unexplained_section(audit: Audit) -> str:
    if not audit.unexplained:
        return ""
    lines = [f"- {cause.what}{_where(cause)}" for cause in audit.unexplained]
    return "## Seen in the files, without an effect in this audit\n\n" + "\n".join(lines)


def _fix_sentence(audit: Audit) -> str:
    if audit.fix is None:
        return audit.not_fixed
    fix = audit.fix
    return (
        f"{fix.path} passes the same audit, with {' and '.join(fix.rewrites)}; the vector of a text alone moves by up"
        f" to {_figure(fix.moved)} (cosine at least {fix.cosine:.6f})"
    )


def _method(audit: Audit) -> str:
    from lengthwise.export.audit.targets.base import TOLERANCES

    same, other = TOLERANCES[audit.precision]
    tolerances = (_EXACT if audit.exact else _INEXACT).format(same=same, other=other, precision=audit.precision)
    return _METHOD.format(tolerances=tolerances)


def _cells_table(audit: Audit) -> str:
    rows = [
        (answer.question, cell.batch, cell.detail, _figure(cell.difference))
        for answer in audit.answers
        for cell in answer.cells
    ]
    return markdown_table(("question", "batch", "how", "difference"), rows) if rows else ""


def _environment(audit: Audit) -> str:
    return ", ".join(f"{name} {value}" for name, value in audit.environment.items()) or "seen from outside"


def _answer_record(answer: Answer) -> dict[str, Any]:
    cells = [cell._asdict() for cell in answer.cells]
    return {**asdict(answer), "cells": cells, "causes": [_cause_record(cause) for cause in answer.causes]}


def _fix_record(fix: Fix) -> dict[str, Any]:
    return {"path": fix.path, "rewrites": fix.rewrites, "moved": fix.moved, "cosine": fix.cosine}


def _cause_record(cause: Cause) -> dict[str, Any]:
    return {**asdict(cause), "explains": sorted(cause.explains)}


def _figure(value: float) -> str:
    if math.isinf(value):
        return "error or NaN"
    return f"{value:.0f}" if 2 <= value < _MANY and value == round(value) else f"{value:.1e}"
