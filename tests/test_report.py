"""Reports: for programs and for people, from the same verdicts."""

from __future__ import annotations

import json
from dataclasses import replace

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


def validation(*verdicts: Verdict, control: Verdict = CONTROL, lengths_matter: bool = True) -> Validation:
    return Validation(verdicts, control, lengths_matter)


def test_json_is_strict_json_with_everything_measured() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(validation_to_json(validation(PASSED, FAILED, ABSENT)), parse_constant=refuse)
    assert record["passed"] is False
    assert [verdict["status"] for verdict in record["verdicts"]] == ["passed", "failed", "not run"]
    assert record["verdicts"][0]["max_difference"] == 2e-7
    assert record["verdicts"][0]["cases"][1] == {"case": "golden", "difference": 2e-7}
    assert record["verdicts"][1]["max_difference"] == "inf"
    assert record["verdicts"][2]["max_difference"] is None
    assert json.loads(validation_to_json(validation(PASSED, ABSENT)))["passed"] is True


def test_markdown_says_at_the_top_who_passed_and_who_did_not() -> None:
    report = validation_to_markdown(validation(PASSED, FAILED, ABSENT))
    assert "Passed: onnxruntime cpu. Failed: torchscript. Not run: onnxruntime cuda." in report
    assert report.index("golden | 2.00e-07") < report.index("5 x unsorted | 1.00e-07")


def test_the_table_has_as_many_cells_in_each_row_and_never_calls_an_absent_runtime_passed() -> None:
    lines = verdict_table([PASSED, FAILED, ABSENT])
    assert len({line.count("|") for line in lines}) == 1
    assert "not run: no GPU; get one" in lines[-1]
    assert "passed" not in lines[-1]


def test_a_value_that_is_not_a_number_can_be_written_down() -> None:
    spoilt = replace(FAILED, min_cosine=float("nan"))
    assert json.loads(validation_to_json(validation(spoilt)))["verdicts"][0]["min_cosine"] == "nan"
    assert "| nan |" in validation_to_markdown(validation(spoilt))


def test_only_failures_fail_and_the_control_is_not_one() -> None:
    assert validation(PASSED, FAILED, ABSENT).failed == (FAILED,)
    assert not validation(PASSED, FAILED, ABSENT).passed
    assert validation(PASSED, ABSENT).passed


def test_nothing_has_passed_if_the_comparisons_cannot_see_lengths_that_matter() -> None:
    assert not validation(PASSED, control=PASSED).passed
    assert validation(PASSED, control=PASSED, lengths_matter=False).passed


def test_the_control_says_whether_the_comparisons_see_lengths() -> None:
    assert "was caught: off by 0.39, cosine down to 0.87." in control_line(validation())
    assert "cannot be relied on" in control_line(validation(control=PASSED))
    assert "say nothing about lengths" in control_line(validation(control=PASSED, lengths_matter=False))
    crashed = replace(CONTROL, max_difference=None, min_cosine=None, cases=(), reason="RuntimeError after loading: no")
    assert "could not be run (RuntimeError after loading: no)" in control_line(validation(control=crashed))
