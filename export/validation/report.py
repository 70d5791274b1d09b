"""Verdicts as `validation.json`, for programs, and `validation.md`, for people."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lengthwise.encoder.checkpoint import WEIGHTS_FILE
from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.validation.cases import GOLDEN_CASE
from lengthwise.export.validation.compare import CaseResult
from lengthwise.export.validation.validate import Validation, Verdict
from lengthwise.util.system import cpu_count, cpu_model

_WORST_SHOWN = 8
_SIGNS = {"passed": "✓", "failed": "✗", "refused": "refuses", "not run": "not run"}
_OF_PYTORCH = "pytorch"
_LEGEND = (
    "✓ with the largest difference from PyTorch; ✗ with what decided, in brackets where that was known"
    " of the runtime or the graph and was found again. A dash: nothing to run there."
)


def validation_to_json(validation: Validation) -> str:
    """What was measured, of each runtime and graph its groups of comparisons and the worst of them.

    Differences that are not finite are written as strings.
    """
    record: dict[str, Any] = {
        "passed": validation.passed,
        "recommended": validation.recommended,
        "machine": {
            "system": platform.system(),
            "processor": cpu_model(),
            "cores": cpu_count(),
            "python": platform.python_version(),
        },
        "lengths_matter": validation.lengths_matter,
        "verdicts": [
            _verdict_record(verdict, with_rows=verdict is first)
            for verdict in validation.verdicts
            for first in [_first_of_variant(validation)[verdict.variant]]
        ],
        "control": _verdict_record(validation.control, with_rows=False),
        "milliseconds": validation.speeds,
    }
    return json.dumps(_finite(record), indent=1, allow_nan=False) + "\n"


def _verdict_record(verdict: Verdict, with_rows: bool) -> dict[str, Any]:
    comparison = asdict(verdict.comparison)
    cases, rows = comparison.pop("cases"), comparison.pop("rows")
    return {
        **asdict(verdict),
        "tolerances": verdict.tolerances._asdict(),
        "comparison": {
            **comparison,
            "comparisons": len(cases),
            "groups": worst_by_group(verdict.comparison.cases),
            "worst": [asdict(case) for case in _worst_cases(verdict)],
            "rows": rows if with_rows else [],
        },
    }


def worst_by_group(cases: Sequence[CaseResult]) -> dict[str, float]:
    """The largest difference in each group, in the order in which the groups first came."""
    found: dict[str, float] = {}
    for case in cases:
        found[case.group] = max(found.get(case.group, 0.0), case.difference)
    return found


def validation_to_markdown(validation: Validation, picture: str | None = None) -> str:
    """What to deploy where, the matrix, what the control showed, then the details.

    Args:
        picture: the file of the heat map, shown below the matrix.
    """
    lines = ["# Validation", "", _headline(validation), ""]
    lines += ["## What to deploy", "", *deployment_table(validation), ""]
    lines += ["## Every runtime on every graph", "", *matrix(validation.verdicts), ""]
    lines += [f"- **{variant.name}** (`{variant.file}`): {variant.what}." for variant in _present(validation)]
    lines += ["", _LEGEND, ""]
    lines += [f"![Largest difference by runtime and case]({picture})", ""] if picture else []
    lines += ["## Reasons", "", *_reasons(validation.verdicts), "", control_line(validation), ""]
    lines += _speed_section(validation)
    lines += _precision_section(validation)
    lines += _details(validation)
    return "\n".join(lines)


def deployment_table(validation: Validation) -> list[str]:
    """A Markdown table: on each runtime that was run, the graph to load, and how far it is from PyTorch."""
    lines = ["| runtime | load | largest difference from PyTorch | instead of |", "| --- | --- | --- | --- |"]
    by_pair = {(verdict.runtime, verdict.variant): verdict for verdict in validation.verdicts}
    for runtime, verdicts in _by_runtime(validation.verdicts).items():
        if runtime.startswith(_OF_PYTORCH) or all(verdict.status == "not run" for verdict in verdicts):
            continue
        name = validation.recommended.get(runtime)
        bad = [f"`{v.file}`" for v in verdicts if v.status == "failed" and VARIANTS[v.variant].exact]
        if name is None:
            lines.append(f"| {runtime} | **nothing passed** | | {', '.join(bad)} |")
            continue
        best = by_pair[runtime, name]
        wrong = f"{', '.join(bad)}, wrong here" if bad else ""
        lines.append(f"| {runtime} | **`{best.file}`** | {_figure(best.comparison.difference)} | {wrong} |")
    return lines


def matrix(verdicts: Sequence[Verdict]) -> list[str]:
    """A Markdown table, runtimes by graphs; PyTorch itself, which has none, stands in the native column."""
    variants = [name for name in VARIANTS if any(verdict.variant == name for verdict in verdicts)]
    lines = [f"| runtime | {' | '.join(variants)} |", "| --- " * (len(variants) + 1) + "|"]
    for runtime, found in _by_runtime(verdicts).items():
        cells = {verdict.variant: _cell(verdict) for verdict in found}
        lines.append(f"| {runtime} | {' | '.join(cells.get(name, '–') for name in variants)} |")
    return lines


def overview(validation: Validation) -> list[str]:
    """The matrix as lines of plain text, with what to load on each runtime."""
    lines = []
    for runtime, verdicts in _by_runtime(validation.verdicts).items():
        if all(verdict.status == "not run" for verdict in verdicts):
            lines.append(f"{'not run':11} {runtime}: {verdicts[0].reason}")
            continue
        cells = ", ".join(f"{verdict.variant} {_cell(verdict)}" for verdict in verdicts)
        use = validation.recommended.get(runtime)
        wrong = use is None or any(verdict in validation.failed for verdict in verdicts)
        advice = "; nothing passed in float32" if use is None else f"; use {use}" if len(verdicts) > 1 else ""
        lines.append(f"{'failed' if wrong else 'passed':11} {runtime}: {cells}{advice}")
    return lines


def _cell(verdict: Verdict) -> str:
    sign = f"({_SIGNS[verdict.status]})" if verdict.known else _SIGNS[verdict.status]
    if verdict.status == "passed":
        return f"{sign} {_figure(verdict.comparison.difference)}"
    if verdict.status == "failed":
        return f"{sign} {_what_decided(verdict)}"
    return sign


def _what_decided(verdict: Verdict) -> str:
    """Of a failure, the figure that was too large (or, a cosine, too small), or a word where there is none."""
    found, allowed = verdict.comparison, verdict.tolerances
    if not verdict.environment:
        return "error"
    if found.difference is not None and not found.difference <= allowed.difference:
        return _figure(found.difference)
    if found.cosine is not None and not found.cosine >= allowed.cosine:
        return f"cosine {found.cosine:.4f}"
    if found.batch_difference is not None and not found.batch_difference <= allowed.batch:
        return f"{_figure(found.batch_difference)} by its batch"
    return "by its batch"


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Lines of a Markdown table, a verdict a row."""
    columns = ("runtime", "file", "verdict", "from PyTorch", "between batches", "99th percentile", "smallest cosine")
    lines = [f"| {' | '.join(columns)} | tolerance | comparisons |", "| --- " * (len(columns) + 2) + "|"]
    for verdict in verdicts:
        found = verdict.comparison
        status = verdict.status if not verdict.reason else f"{verdict.status}: {verdict.reason}"
        figures = [_figure(found.difference), _figure(found.batch_difference), _figure(found.p99_difference)]
        cells = [verdict.runtime, f"`{verdict.file}`", status.replace("|", "/"), *figures, _cosine(found.cosine)]
        lines.append(f"| {' | '.join(cells)} | {verdict.tolerances.difference:.0e} | {len(found.cases)} |")
    return lines


def control_line(validation: Validation) -> str:
    """What the comparisons say of a graph that is wrong on purpose."""
    control = validation.control
    difference = control.comparison.difference
    what = "Control: the same ONNX graph with its lengths cut off, as exporting an unpacked LSTM gives,"
    if control.status != "passed" and not (difference or 0) > control.tolerances.difference:
        return f"{what} could not be run ({control.reason}), so nothing shows that the comparisons see lengths."
    if control.status == "failed":
        cosine = "" if control.comparison.cosine is None else f", cosine down to {control.comparison.cosine:.2f}"
        return f"{what} was caught: off by {difference or 0:.2f}{cosine}."
    if validation.lengths_matter:
        return f"{what} passed, although it is another function: these comparisons cannot be relied on."
    return (
        f"{what} passed, as it should: with a forward LSTM and pooling over real tokens alone, padding does not reach"
        " this encoder's vectors, and these comparisons say nothing about lengths."
    )


def _headline(validation: Validation) -> str:
    if validation.failed:
        names = ", ".join(f"{verdict.runtime} ({verdict.variant})" for verdict in validation.failed)
        return f"**Failed**: {names}.{_amplified(validation)}"
    if not validation.recommended:
        return "**Nothing passed**: no runtime ran a graph in float32 as PyTorch does."
    if validation.without_graph:
        without = ", ".join(validation.without_graph)
        return f"**Failed**: no graph in float32 passed on {without}; is the portable one there?"
    if not validation.passed:
        return "**Failed**: the comparisons cannot tell when lengths are ignored."
    ran = _by_runtime([verdict for verdict in validation.verdicts if verdict.status != "not run"])
    not_run = [runtime for runtime in _by_runtime(validation.verdicts) if runtime not in ran]
    rest = f" Not run: {', '.join(not_run)}." if not_run else ""
    return f"**Passed** on {len(ran)} runtimes; what does not work on one of them was known of it.{rest}"


def _amplified(validation: Validation) -> str:
    """Of a failure that is PyTorch's too."""
    off = [v.comparison.difference for v in validation.failed if v.file == WEIGHTS_FILE and v.comparison.difference]
    if not off:
        return ""
    return (
        f" PyTorch itself, in batches, is {max(off):.1e} from its own single rows: either the golden vectors are of"
        " other weights, or this model amplifies rounding beyond the tolerance, which is then no fault of a runtime."
    )


def _reasons(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        f"- {verdict.runtime}, {verdict.variant}: {verdict.status}{', as known' * verdict.known}: {verdict.reason}"
        for verdict in verdicts
        if verdict.status in ("failed", "refused")
    ]
    not_run: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.status == "not run":
            not_run.setdefault((verdict.runtime, verdict.reason), []).append(verdict.variant)
    lines += [f"- {runtime}, {', '.join(names)}: not run: {why}" for (runtime, why), names in not_run.items()]
    return lines or ["Everything passed."]


def _speed_section(validation: Validation) -> list[str]:
    if not validation.speeds:
        return []
    lines = [
        "## Speed",
        "",
        f"Milliseconds a batch (rows x tokens a row), the median of runs of one session at a time;"
        f" in brackets, how many times as fast as that runtime's native graph. {cpu_model()}, {cpu_count()} cores.",
        "",
    ]
    batches = list(next(iter(next(iter(validation.speeds.values())).values())))
    lines += [f"| runtime | graph | {' | '.join(batches)} |", "| --- " * (len(batches) + 2) + "|"]
    for runtime, by_variant in validation.speeds.items():
        for variant, times in by_variant.items():
            native = by_variant.get(NATIVE, times)
            cells = [f"{times[batch]:.2f} ({native[batch] / times[batch]:.2f})" for batch in batches]
            lines.append(f"| {runtime} | {variant} | {' | '.join(cells)} |")
    return [*lines, ""]


def _precision_section(validation: Validation) -> list[str]:
    """How far the vectors of a lower precision are from float32's: the spread, then the golden rows one by one."""
    lines: list[str] = []
    for verdict in validation.verdicts:
        rows = verdict.comparison.rows
        if not rows:
            continue
        differences = np.percentile([row.difference for row in rows], [50, 95, 100])
        cosines = np.percentile([row.cosine for row in rows], [50, 5, 0])
        lines.append(
            f"| {verdict.runtime} | {verdict.variant} | {len(rows)} | {' / '.join(f'{d:.1e}' for d in differences)} |"
            f" {' / '.join(f'{c:.6f}' for c in cosines)} | {_figure(verdict.comparison.batch_difference)} |"
        )
    if not lines:
        return []
    head = [
        "## Below float32",
        "",
        "Largest difference of a vector from PyTorch's in float32, over golden vectors and texts.",
        "",
        "| runtime | graph | vectors | difference, median / 95 % / largest | cosine, median / 5 % / smallest"
        " | between batches |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return [*head, *lines, "", *_golden_rows(validation)]


def _golden_rows(validation: Validation) -> list[str]:
    """The golden vectors row by row, of each graph on the first runtime that ran it."""
    columns = {
        f"{verdict.variant}, {verdict.runtime}": [row for row in verdict.comparison.rows if row.case == GOLDEN_CASE]
        for verdict in _first_of_variant(validation).values()
        if verdict.comparison.rows
    }
    lines = [f"| golden row | tokens | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for rows in zip(*columns.values(), strict=True):
        cells = [f"{row.difference:.1e}, cosine {row.cosine:.6f}" for row in rows]
        lines.append(f"| {rows[0].row} | {rows[0].length} | {' | '.join(cells)} |")
    return [*lines, ""]


def _details(validation: Validation) -> list[str]:
    lines = [
        "## How it was compared",
        "",
        "A difference is |value - PyTorch's| / max(1, the row's largest value). PyTorch's value is that of the packed"
        " encoder run on each row alone, at its own length. Each runtime is compared on batches of 1, 2, 5 and 17 rows"
        " (equal lengths, single tokens, one long row, unsorted, an axis longer than any row, rows without tokens; the"
        " padding holds random ids), on every id of the vocabulary, on the artifact's golden vectors and on real texts"
        " where they were given; and with itself: more padding, another order, a row alone.",
        "",
        *verdict_table(validation.verdicts),
        "",
    ]
    for verdict in validation.verdicts:
        if verdict.comparison.cases:
            environment = ", ".join(f"{name} {value}" for name, value in verdict.environment.items())
            title = f"### {verdict.runtime}, {verdict.variant}"
            lines += [title, "", f"`{verdict.file}`; {environment or 'it did not get far enough to say'}", ""]
            lines += ["| worst cases | difference |", "| --- | --- |"]
            lines += [f"| {result.case} | {result.difference:.2e} |" for result in _worst_cases(verdict)] + [""]
    return lines


def _first_of_variant(validation: Validation) -> dict[str, Verdict]:
    """Of each graph, the verdict of the first runtime that ran it; where none did, of the first."""
    found: dict[str, Verdict] = {}
    for verdict in validation.verdicts:
        if verdict.variant not in found or (verdict.comparison.cases and not found[verdict.variant].comparison.cases):
            found[verdict.variant] = verdict
    return found


def _worst_cases(verdict: Verdict) -> list[CaseResult]:
    return sorted(verdict.comparison.cases, key=lambda result: -result.difference)[:_WORST_SHOWN]


def _present(validation: Validation) -> list[Any]:
    return [v for v in VARIANTS.values() if any(verdict.variant == v.name for verdict in validation.verdicts)]


def _by_runtime(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.runtime, []).append(verdict)
    return found


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


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
