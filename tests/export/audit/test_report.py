"""An audit as text, Markdown, JSON and a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lengthwise.export.audit.answers import Answer, Audit, Cause, Cell, Example, Fix
from lengthwise.export.audit.report import (
    audit_to_json,
    audit_to_markdown,
    audit_to_text,
    draw_heat_map,
    write_report,
)

CAUSE = Cause(
    "2 nodes | take ranges over the batch", "take them per row", ("node_1", "node_2"), frozenset({"neighbours"})
)
FAILED = Answer(
    "fail",
    "a vector changes with the other texts of its batch",
    0.25,
    1e-6,
    (Cell("2 rows", "unsorted", 0.25), Cell("5 rows", "unsorted", 0.125)),
    Example(("'the cat'", "'of rain'"), "other texts in place of the others", 0.25),
    (CAUSE,),
    "neighbours",
)
PASSED = Answer("pass", "a vector is the same", 1e-7, 1e-4, (Cell("1 row", "x", 1e-7),), question="padding width")
LIMIT = Answer("limit", "pad on the right", 0.5, 1e-4, question="left padding")
NOT_ASKED = Answer("not asked", "no reference was given (--reference)", question="precision")
ERROR = Answer(
    "fail", "it fails: no such shape", float("inf"), 1e-4, (Cell("17 rows", "x", float("inf")),), question="order"
)
AUDIT = Audit("model.onnx", "ONNX graph", "float32", 8, (FAILED, PASSED, LIMIT, NOT_ASKED), (), {"onnxruntime": "1.0"})


def test_text_says_what_why_and_shows_it() -> None:
    text = audit_to_text(AUDIT)
    assert "Fails 1 of 3 questions: neighbours." in text
    assert "✗ fail       neighbours         a vector changes with the other texts of its batch [2.5e-01]" in text
    assert "cause: 2 nodes | take ranges over the batch (node_1, node_2)" in text
    assert "remedy: take them per row" in text
    assert "example: 'the cat' | 'of rain'; other texts in place of the others (2.5e-01)" in text
    assert "– not asked  precision          no reference was given (--reference)" in text


def test_markdown_can_be_pasted() -> None:
    page = audit_to_markdown(AUDIT, "audit.png")
    assert page.startswith("# Audit of model.onnx\n\n> A text's vector depends on the text and the model alone.\n")
    assert "| neighbours | Is a vector the same whatever the other texts are? | ✗ fail | 2.5e-01 | 1.0e-06 |" in page
    assert "## neighbours: fail" in page
    assert "## left padding: limit" in page
    assert "    'the cat'\n    'of rain'\n" in page
    assert "![The largest difference by question and batch](audit.png)" in page
    assert "| neighbours | 5 rows | unsorted | 1.2e-01 |" in page


def test_causes_are_written_out_once() -> None:
    again = replace(FAILED, question="mixed lengths")
    found = replace(AUDIT, answers=(FAILED, again))
    for page in (audit_to_text(found), audit_to_markdown(found)):
        assert page.count("take them per row") == 1
        assert "ause: as of neighbours" in page


def test_a_failure_without_a_cause_says_so() -> None:
    found = replace(AUDIT, answers=(ERROR,))
    assert "cause: not found by looking at the files" in audit_to_text(found)
    assert "error or NaN" in audit_to_markdown(found)
    assert "cause: not to be seen from outside" in audit_to_text(replace(found, inspected=False))


def test_one_tolerance_is_named_where_batches_cannot_be_chosen() -> None:
    assert "so 1e-06 passes there" in audit_to_markdown(AUDIT)
    page = audit_to_markdown(replace(AUDIT, exact=False))
    assert "so 1e-04 passes in float32 for all of them" in page
    assert "1e-06 passes" not in page


def test_json_holds_everything() -> None:
    record = json.loads(audit_to_json(replace(AUDIT, answers=(*AUDIT.answers, ERROR), unexplained=(CAUSE,))))
    assert record["passed"] is False
    assert record["answers"][0]["causes"][0]["where"] == ["node_1", "node_2"]
    assert record["answers"][-1]["cells"] == [{"batch": "17 rows", "detail": "x", "difference": "inf"}]
    assert record["unexplained"][0]["explains"] == ["neighbours"]


@pytest.mark.parametrize(
    ("answers", "headline"),
    [
        ((PASSED, LIMIT), "Keeps the promise in all 2 questions that were asked, with limits: left padding."),
        ((PASSED, NOT_ASKED), "Keeps the promise in all 1 questions that were asked."),
        ((NOT_ASKED,), "No question could be asked: this says nothing about the model."),
    ],
)
def test_headline(answers: tuple[Answer, ...], headline: str) -> None:
    found = replace(AUDIT, answers=answers)
    assert headline in audit_to_text(found)
    assert found.passed == (PASSED in answers)


def test_fix_is_reported() -> None:
    fix = Fix("fixed.onnx", ("ranges per row",), replace(AUDIT, answers=(PASSED,)), 0.01, 0.9999)
    found = replace(AUDIT, fix=fix)
    assert "fixed.onnx passes the same audit, with ranges per row; the vector of a text alone moves" in audit_to_text(
        found
    )
    assert json.loads(audit_to_json(found))["fix"]["cosine"] == 0.9999
    assert "## Fix\n\ncannot be fixed: no." in audit_to_markdown(replace(AUDIT, not_fixed="cannot be fixed: no"))


def test_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_report(replace(AUDIT, answers=(*AUDIT.answers, ERROR)), tmp_path)
    assert [path.name for path in paths] == ["audit.md", "audit.json", "audit.png"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert "](audit.png)" in paths[0].read_text()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    paths = write_report(AUDIT, tmp_path / "plain")
    assert [path.name for path in paths] == ["audit.md", "audit.json"]
    assert "audit.png" not in paths[0].read_text()


def test_picture_of_an_audit_without_measurements() -> None:
    assert draw_heat_map(replace(AUDIT, answers=(NOT_ASKED, LIMIT)))


def test_check_raises_with_the_causes() -> None:
    with pytest.raises(AssertionError) as caught:
        AUDIT.check()
    assert str(caught.value).splitlines() == [
        "model.onnx does not pass the audit",
        "neighbours: a vector changes with the other texts of its batch",
        "    cause: 2 nodes | take ranges over the batch; remedy: take them per row",
        "    example: 'the cat' | 'of rain' other texts in place of the others",
    ]
    passing = replace(AUDIT, answers=(PASSED, LIMIT, NOT_ASKED))
    assert passing.check() is passing
    with pytest.raises(AssertionError, match="left padding: pad on the right"):
        passing.check(fail_on=("limit",))
    with pytest.raises(AssertionError, match="precision: no reference"):
        passing.check(fail_on=("precision",))
    with pytest.raises(AssertionError, match="nothing could be asked"):
        replace(AUDIT, answers=(NOT_ASKED,)).check()
