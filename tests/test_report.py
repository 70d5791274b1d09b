"""Reports: for programs and for people, from the same verdicts."""

from __future__ import annotations

import json

from export.report import control_line, validation_to_json, validation_to_markdown, verdict_table
from export.validate import CaseResult, Validation, Verdict

PASSED = Verdict(
    "onnxruntime cpu", "onnx/model.onnx", "passed", 1e-6, 2e-7, 1e-7, 0.99999999,
    (CaseResult("5 x unsorted", 1e-7), CaseResult("golden", 2e-7)), "", {"onnxruntime": "1.0"},
)  # fmt: skip
FAILED = Verdict(
    "torchscript", "torchscript/model.pt", "failed", 1e-6, float("inf"), float("inf"), None,
    (CaseResult("golden", float("inf")),), "golden: off by inf | twice", {},
)  # fmt: skip
ABSENT = Verdict(
    "onnxruntime cuda", "onnx/model.onnx", "not run", 1e-5, None, None, None, (), "no GPU; get one", {}
)  # fmt: skip

CONTROL = Verdict(
    "control: lengths ignored", "onnx/model.onnx", "failed", 1e-6, 0.39, 0.1, 0.87, (CaseResult("golden", 0.39),),
    "golden: off by 0.39", {},
)  # fmt: skip


def test_json_is_strict_json_with_everything_measured() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(validation_to_json(Validation((PASSED, FAILED, ABSENT), CONTROL)), parse_constant=refuse)
    assert record["passed"] is False
    assert [verdict["status"] for verdict in record["verdicts"]] == ["passed", "failed", "not run"]
    assert record["verdicts"][0]["max_difference"] == 2e-7
    assert record["verdicts"][0]["cases"][1] == {"case": "golden", "difference": 2e-7}
    assert record["verdicts"][1]["max_difference"] == "inf"
    assert record["verdicts"][2]["max_difference"] is None
    assert json.loads(validation_to_json(Validation((PASSED, ABSENT), CONTROL)))["passed"] is True


def test_markdown_says_at_the_top_who_passed_and_who_did_not() -> None:
    report = validation_to_markdown(Validation((PASSED, FAILED, ABSENT), CONTROL))
    assert "Passed: onnxruntime cpu. Failed: torchscript. Not run: onnxruntime cuda." in report
    assert report.index("golden | 2.00e-07") < report.index("5 x unsorted | 1.00e-07")


def test_the_table_has_as_many_cells_in_each_row_and_never_calls_an_absent_runtime_passed() -> None:
    lines = verdict_table([PASSED, FAILED, ABSENT])
    assert len({line.count("|") for line in lines}) == 1
    assert "not run: no GPU; get one" in lines[-1]
    assert "passed" not in lines[-1]


def test_only_failures_fail_and_the_control_is_not_one() -> None:
    assert Validation((PASSED, FAILED, ABSENT), CONTROL).failed == (FAILED,)
    assert Validation((PASSED, ABSENT), CONTROL).failed == ()


def test_the_control_says_whether_the_comparisons_see_lengths() -> None:
    assert "was caught: off by 0.39, cosine down to 0.87." in control_line(CONTROL)
    assert "say nothing about lengths" in control_line(PASSED)
