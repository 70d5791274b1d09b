"""Reports: for programs and for people, from the same verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lengthwise.export.graphs.variants import FP16, INT8_DYNAMIC, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.export.validation.compare import CaseResult, Comparison, RowDeviation
from lengthwise.export.validation.records import validation_to_json
from lengthwise.export.validation.report import (
    control_sentence,
    deployment_table,
    matrix,
    summary,
    validation_to_markdown,
    verdict_table,
)
from lengthwise.export.validation.verdict import Validation, Verdict

EXACT = Tolerances(1e-6, 1e-6, 0.99999)


def verdict(runtime: str, variant: str, status: Any, comparison: Comparison = Comparison(), **changes: Any) -> Verdict:
    default = {"reason": "", "known": False, "tolerances": EXACT, "environment": {"version": "1"}}
    return Verdict(runtime, variant, VARIANTS[variant].file, status, comparison=comparison, **{**default, **changes})


def result(case: str, group: str, difference: float, *, of_batch: bool = False) -> CaseResult:
    return CaseResult(case, group, of_batch, difference, difference)


def compared(difference: float, batch: float = 1e-7, cosine: float | None = 0.99999999, **changes: Any) -> Comparison:
    cases = (result("5 x unsorted", "unsorted", 1e-7), result("golden", "golden", difference))
    more = (result("golden: more padding", "more padding", batch, of_batch=True),)
    return Comparison(difference, batch, difference, cosine, cases=(*cases, *more), **changes)


PASSED = verdict("onnxruntime cpu", NATIVE, "passed", compared(2e-7), environment={"onnxruntime": "1.0"})
FAILED = verdict(
    "torchscript", NATIVE, "failed", compared(float("inf"), cosine=None), reason="golden: off by inf | twice"
)
ABSENT = verdict("onnxruntime cuda", NATIVE, "not run", reason="no GPU; get one")
CONTROL = verdict("control", NATIVE, "failed", compared(0.39, cosine=0.87), reason="golden: off by 0.39")
IGNORES_LENGTHS = verdict("openvino", NATIVE, "failed", compared(0.36), reason="ignores the lengths", known=True)
PORTABLE_PASSED = verdict("openvino", PORTABLE, "passed", compared(3e-7))
REFUSED = verdict("onnx reference", INT8_DYNAMIC, "refused", reason="it has no such operator", known=True)
HALF = verdict(
    "onnxruntime cpu", FP16, "passed",
    compared(2e-4, rows=(RowDeviation("golden", 0, 3, 1e-4, 0.9999), RowDeviation("texts 0 to 1", 1, 9, 2e-4, 0.9998))),
    tolerances=Tolerances(0.01, 1e-6, 0.999),
)  # fmt: skip
DEPENDENT = verdict(
    "onnxruntime cpu", INT8_DYNAMIC, "failed", compared(1e-3, batch=2e-3), known=True, reason="depends on its batch",
    tolerances=Tolerances(0.1, 1e-6, 0.99),
)  # fmt: skip


def validation(
    *verdicts: Verdict, control: Verdict = CONTROL, lengths_matter: bool = True, **changes: Any
) -> Validation:
    return Validation(verdicts, control, lengths_matter, **changes)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_strict_and_has_the_measurements() -> None:
    speeds = {"onnxruntime cpu": {NATIVE: {"1 x 32": 2.0}}}
    record = strict(validation_to_json(validation(PASSED, HALF, FAILED, ABSENT, speeds=speeds)))
    assert record["passed"] is False
    assert record["recommended"] == {"onnxruntime cpu": NATIVE}
    assert record["milliseconds"] == speeds
    first, half, failed, absent = record["verdicts"]
    assert [v["status"] for v in record["verdicts"]] == ["passed", "passed", "failed", "not run"]
    assert first["comparison"]["difference"] == 2e-7
    assert first["comparison"]["groups"] == {"unsorted": 1e-7, "golden": 2e-7, "more padding": 1e-7}
    assert first["comparison"]["comparisons"] == 3
    assert first["comparison"]["worst"][0] == {
        "case": "golden",
        "group": "golden",
        "of_batch": False,
        "difference": 2e-7,
        "needed": 2e-7,
    }
    assert first["tolerances"] == {"difference": 1e-6, "batch": 1e-6, "cosine": 0.99999, "labels": 1.0}
    assert [row["row"] for row in half["comparison"]["rows"]] == [0, 1]
    assert failed["comparison"]["difference"] == "inf"
    assert absent["comparison"]["difference"] is None
    assert strict(validation_to_json(validation(PASSED, ABSENT)))["passed"] is True


def test_json_has_rows_once_per_graph() -> None:
    other = replace(HALF, runtime="onnxruntime-node")
    first, again = strict(validation_to_json(validation(HALF, other)))["verdicts"]
    assert (len(first["comparison"]["rows"]), len(again["comparison"]["rows"])) == (2, 0)


def test_headline_names_failures_and_runtimes_not_run() -> None:
    assert "**Failed**: torchscript (native)." in validation_to_markdown(validation(PASSED, FAILED, ABSENT))
    passed = validation_to_markdown(validation(PASSED, IGNORES_LENGTHS, PORTABLE_PASSED, ABSENT))
    assert "**Passed** on 2 runtimes" in passed
    assert "Not run: onnxruntime cuda." in passed
    assert "cannot tell when lengths are ignored" in validation_to_markdown(validation(PASSED, control=PASSED))
    assert "**Nothing passed**" in validation_to_markdown(validation(ABSENT))
    assert "no graph in float32 passed on onnx reference" in validation_to_markdown(validation(PASSED, REFUSED))
    itself = verdict("pytorch (packed batches)", NATIVE, "failed", compared(5e-5))
    itself = replace(itself, file="model.safetensors")
    assert "PyTorch itself, in batches, is 5.0e-05 from" in validation_to_markdown(validation(PASSED, itself))


def test_deployment_table_has_passing_and_wrong_graphs() -> None:
    rows = deployment_table(validation(PASSED, IGNORES_LENGTHS, PORTABLE_PASSED, FAILED, ABSENT)).splitlines()[2:]
    assert rows == [
        "| onnxruntime cpu | **`onnx/model.onnx`** | 2.0e-07 |  |",
        "| openvino | **`onnx/model_portable.onnx`** | 3.0e-07 | `onnx/model.onnx` |",
        "| torchscript | **nothing passed** |  | `onnx/model.onnx` |",
    ]


def test_matrix_has_known_limitations_in_parentheses() -> None:
    lines = matrix([PASSED, HALF, DEPENDENT, ABSENT, IGNORES_LENGTHS, PORTABLE_PASSED, REFUSED]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0] == "| runtime | native | portable | fp16 | int8_dynamic |"
    assert lines[2:] == [
        "| onnxruntime cpu | ✓ 2.0e-07 | – | ✓ 2.0e-04 | (✗) 2.0e-03 by its batch |",
        "| onnxruntime cuda | not run | – | – | – |",
        "| openvino | (✗) 3.6e-01 | ✓ 3.0e-07 | – | – |",
        "| onnx reference | – | – | – | (refused) |",
    ]
    assert matrix([FAILED]).splitlines()[2] == "| torchscript | ✗ inf |"


def test_cell_of_a_failure_has_the_deciding_value() -> None:
    def cell(comparison: Comparison, **changes: Any) -> str:
        return (
            matrix([verdict("openvino", NATIVE, "failed", comparison, **changes)])
            .splitlines()[2]
            .split("| ")[2]
            .strip(" |")
        )

    assert cell(compared(0.5)) == "✗ 5.0e-01"
    assert cell(compared(0.0, cosine=0.9)) == "✗ cosine 0.9000"
    assert cell(compared(0.0, cosine=float("nan"))) == "✗ cosine nan"
    assert cell(compared(0.0, batch=1e-3)) == "✗ 1.0e-03 by its batch"
    assert cell(compared(0.0), environment={}) == "✗ error"
    assert cell(compared(0.0), known=True) == "(✗) by its batch"


def test_summary_has_one_line_per_runtime() -> None:
    lines = summary(validation(PASSED, DEPENDENT, ABSENT, IGNORES_LENGTHS, PORTABLE_PASSED, FAILED)).splitlines()
    assert lines[:4] == [
        "passed      onnxruntime cpu: native ✓ 2.0e-07, int8_dynamic (✗) 2.0e-03 by its batch; use native",
        "not run     onnxruntime cuda: no GPU; get one",
        "passed      openvino: native (✗) 3.6e-01, portable ✓ 3.0e-07; use portable",
        "failed      torchscript: native ✗ inf; nothing passed in float32",
    ]
    assert lines[4] == "failed      torchscript, native: golden: off by inf | twice"
    assert lines[5].startswith("control     the native graph with its lengths disconnected")
    assert len(lines) == 6


def test_report_has_reasons_and_worst_cases_first() -> None:
    report = validation_to_markdown(
        validation(PASSED, IGNORES_LENGTHS, PORTABLE_PASSED, REFUSED, ABSENT), heat_map="heat.png"
    )
    assert "- openvino, native: failed, as known: ignores the lengths" in report
    assert "- onnx reference, int8_dynamic: refused, as known: it has no such operator" in report
    assert "- onnxruntime cuda, native: not run: no GPU; get one" in report
    assert report.index("golden | 2.00e-07") < report.index("5 x unsorted | 1.00e-07")
    assert "](heat.png)" in report
    assert "](heat.png)" not in validation_to_markdown(validation(PASSED))
    assert "Everything passed." in validation_to_markdown(validation(PASSED))


def test_report_has_rows_of_lower_precision() -> None:
    report = validation_to_markdown(validation(PASSED, HALF))
    assert "| onnxruntime cpu | fp16 | 2 | 1.5e-04 / 1.9e-04 / 2.0e-04 | 0.999850 /" in report
    assert "| 0 | 3 | 1.0e-04, cosine 0.999900 |" in report
    assert "## Below float32" not in validation_to_markdown(validation(PASSED))


def test_report_has_speed_relative_to_the_native_graph() -> None:
    speeds = {"onnxruntime cpu": {NATIVE: {"1 x 32": 3.0}, PORTABLE: {"1 x 32": 2.0}}, "torchscript": {}}
    speeds["torchscript"] = {NATIVE: {"1 x 32": 1.0}}
    report = validation_to_markdown(validation(PASSED, speeds=speeds))
    assert "| onnxruntime cpu | portable | 2.00 (1.50) |" in report
    assert "| torchscript | native | 1.00 (1.00) |" in report
    assert "## Speed" not in validation_to_markdown(validation(PASSED))


def test_verdict_table_is_rectangular_and_says_not_run() -> None:
    lines = verdict_table([PASSED, FAILED, ABSENT]).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "not run: no GPU; get one" in lines[-1]
    assert "passed" not in lines[-1]


def test_worst_by_group_keeps_the_order_of_groups() -> None:
    first, second, worse = result("a", "x", 1.0), result("b", "y", 3.0), result("c", "x", 2.0)
    assert list(Comparison(cases=(first, second, worse)).worst_by_group().items()) == [("x", worse), ("y", second)]


def test_worst_case_is_the_one_that_needs_the_largest_tolerance() -> None:
    """A larger difference may be explained by rounding."""
    explained = CaseResult("long", "x", False, 1e-5, 0.0)
    found = Comparison(cases=(explained, result("short", "x", 3e-7)))
    assert [case.case for case in found.worst_cases()] == ["short", "long"]
    assert (found.needed(of_batch=False), found.needed(of_batch=True)) == (3e-7, None)


def test_nan_can_be_reported() -> None:
    with_nan = replace(FAILED, comparison=compared(1.0, cosine=float("nan")))
    assert strict(validation_to_json(validation(with_nan)))["verdicts"][0]["comparison"]["cosine"] == "nan"
    assert "| nan |" in validation_to_markdown(validation(with_nan))


def test_known_failures_and_the_control_do_not_fail_the_validation() -> None:
    assert validation(PASSED, FAILED, ABSENT).failed == (FAILED,)
    assert not validation(PASSED, FAILED, ABSENT).passed
    assert validation(PASSED, ABSENT, IGNORES_LENGTHS, PORTABLE_PASSED, DEPENDENT).passed
    assert not validation(PASSED, REFUSED).passed
    assert validation(PASSED, REFUSED).without_graph == ("onnx reference",)


@pytest.mark.parametrize("verdicts", [(HALF,), (IGNORES_LENGTHS,), (ABSENT,), (DEPENDENT,)])
def test_only_passing_float32_graphs_are_recommended(verdicts: tuple[Verdict, ...]) -> None:
    assert validation(*verdicts).recommended == {}


def test_validation_fails_if_the_control_passes_and_lengths_matter() -> None:
    assert not validation(PASSED, control=PASSED).passed
    assert validation(PASSED, control=PASSED, lengths_matter=False).passed


def test_control_sentence() -> None:
    assert "was caught: off by 0.39, cosine down to 0.87." in control_sentence(validation())
    assert "cannot be relied on" in control_sentence(validation(control=PASSED))
    assert "say nothing about lengths" in control_sentence(validation(control=PASSED, lengths_matter=False))
    crashed = replace(CONTROL, comparison=Comparison(), environment={}, reason="RuntimeError after loading: no")
    assert "could not be run (RuntimeError after loading: no)" in control_sentence(validation(control=crashed))
