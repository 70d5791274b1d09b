"""Verdicts as `validation.json`, for programs, and `validation.md`, for people."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from export.validate import Validation, Verdict

_WORST_SHOWN = 8


def validation_to_json(validation: Validation) -> str:
    """Everything that was measured; differences that are not finite are written as strings."""
    record: dict[str, Any] = {
        "passed": validation.passed,
        "machine": {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()},
        **asdict(validation),
    }
    return json.dumps(_finite(record), indent=1, allow_nan=False) + "\n"


def validation_to_markdown(validation: Validation) -> str:
    """A table of verdicts, what the control showed, then each runtime's environment and worst cases."""
    ran = [verdict for verdict in validation.verdicts if verdict.cases]
    lines = ["# Validation", "", _headline(validation.verdicts), "", *verdict_table(validation.verdicts), ""]
    lines += [control_line(validation), ""]
    lines += [
        "A difference is |value - PyTorch's| / max(1, the row's largest value). PyTorch's value is that of the packed"
        " encoder run on each row alone, at its own length. Each runtime is compared on batches of 1, 2, 5 and 17 rows"
        " (equal lengths, single tokens, one long row, unsorted, an axis longer than any row, rows without tokens; the"
        " padding holds random ids), on every id of the vocabulary, on the artifact's golden vectors and on real texts"
        " where they were given; and with itself: more padding, another order, a row alone.",
        "",
    ]
    for verdict in ran:
        worst = sorted(verdict.cases, key=lambda result: -result.difference)[:_WORST_SHOWN]
        environment = ", ".join(f"{name} {value}" for name, value in verdict.environment.items())
        lines += [
            f"## {verdict.runtime}",
            "",
            f"`{verdict.file}`; {environment or 'it did not get far enough to say'}",
            "",
        ]
        lines += ["| worst cases | difference |", "| --- | --- |"]
        lines += [f"| {result.case} | {result.difference:.2e} |" for result in worst] + [""]
    return "\n".join(lines)


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Lines of a Markdown table, a runtime a row."""
    columns = ("runtime", "file", "verdict", "largest difference", "99th percentile", "smallest cosine", "tolerance")
    lines = [f"| {' | '.join(columns)} | comparisons |", "| --- " * (len(columns) + 1) + "|"]
    for verdict in verdicts:
        status = verdict.status if not verdict.reason else f"{verdict.status}: {verdict.reason}"
        figures = [_figure(verdict.max_difference), _figure(verdict.p99_difference), _cosine(verdict.min_cosine)]
        cells = [verdict.runtime, f"`{verdict.file}`", status.replace("|", "/"), *figures]
        lines.append(f"| {' | '.join(cells)} | {verdict.tolerance:.0e} | {len(verdict.cases)} |")
    return lines


def control_line(validation: Validation) -> str:
    """What the comparisons say of a graph that is wrong on purpose."""
    control = validation.control
    what = "Control: the same ONNX graph with its lengths cut off, as exporting an unpacked LSTM gives,"
    if control.status != "passed" and not (control.max_difference or 0) > control.tolerance:
        return f"{what} could not be run ({control.reason}), so nothing shows that the comparisons see lengths."
    if control.status == "failed":
        cosine = "" if control.min_cosine is None else f", cosine down to {control.min_cosine:.2f}"
        return f"{what} was caught: off by {control.max_difference or 0:.2f}{cosine}."
    if validation.lengths_matter:
        return f"{what} passed, although it is another function: these comparisons cannot be relied on."
    return (
        f"{what} passed, as it should: with a forward LSTM and pooling over real tokens alone, padding does not reach"
        " this encoder's vectors, and these comparisons say nothing about lengths."
    )


def _headline(verdicts: Sequence[Verdict]) -> str:
    names = {status: [v.runtime for v in verdicts if v.status == status] for status in ("passed", "failed", "not run")}
    return ". ".join(f"{status.capitalize()}: {', '.join(found)}" for status, found in names.items() if found) + "."


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.8f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
