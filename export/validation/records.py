"""`validation.json`: the verdicts for programs."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from lengthwise.export.validation.verdict import Validation, Verdict
from lengthwise.util.json_text import to_json
from lengthwise.util.system import cpu_count, cpu_model


def validation_to_json(validation: Validation) -> str:
    """All verdicts, with the worst difference per group of comparisons and the worst comparisons.

    Differences that are not finite are written as strings. Rows of a graph are written once, with the first runtime
    that ran it.
    """
    first = validation.first_by_variant
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
        "files": dict(validation.files),
        "sum_scales": [asdict(scale) for scale in validation.sum_scales],
        "rounding": None if validation.rounding is None else validation.rounding.record(),
        "verdicts": [
            _verdict_record(verdict, with_rows=verdict is first[verdict.variant]) for verdict in validation.verdicts
        ],
        "control": _verdict_record(validation.control, with_rows=False),
        "milliseconds": validation.speeds,
    }
    return to_json(record)


def _verdict_record(verdict: Verdict, with_rows: bool) -> dict[str, Any]:
    comparison = asdict(verdict.comparison)
    cases, rows = comparison.pop("cases"), comparison.pop("rows")
    return {
        **asdict(verdict),
        "tolerances": verdict.tolerances._asdict(),
        "comparison": {
            **comparison,
            "comparisons": len(cases),
            "needed": verdict.comparison.needed(of_batch=False),
            "batch_needed": verdict.comparison.needed(of_batch=True),
            "groups": {group: worst.difference for group, worst in verdict.comparison.worst_by_group().items()},
            "worst": [asdict(case) for case in verdict.comparison.worst_cases()],
            "rows": rows if with_rows else [],
        },
    }
