"""Whole audits: order, time, questions that cannot be put, quick ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from helpers.audit_models import noise, plain_function, transformer
from helpers.small_transformer import Faults
from lengthwise.errors import AuditError, ConfigError
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.inquiry import Inquiry, row_differences
from lengthwise.export.audit.questions.batch import ask_order
from lengthwise.export.audit.questions.registry import QUESTIONS
from lengthwise.export.audit.run import run_audit
from lengthwise.export.audit.targets.function import FunctionTarget
from lengthwise.export.audit.targets.open import open_target


def test_every_question_is_answered_in_the_order_of_the_report(tmp_path: Path) -> None:
    found = run_audit(transformer()(tmp_path), quick=True)
    assert [answer.question for answer in found.answers] == list(QUESTIONS)
    assert found.seconds > 0
    assert found.dim == 64
    assert {answer.question for answer in found.by_verdict("not asked")} == {"precision"}


def test_a_whole_audit_of_a_sound_model(tmp_path: Path) -> None:
    found = run_audit(transformer()(tmp_path / "a"), reference=tmp_path / "a")
    assert found.failed == ()
    assert found.by_verdict("not asked") == ()
    assert max(cell.difference for cell in found.answer("mixed lengths").cells) < 1e-5
    assert {cell.batch for cell in found.answer("mixed lengths").cells} >= {"2 rows", "5 rows", "17 rows", "100 rows"}


def test_where_calls_differ_batches_are_not_compared(tmp_path: Path) -> None:
    found = run_audit(transformer(Faults(noise))(tmp_path), quick=True)
    assert {answer.question for answer in found.failed} == {"repeat"}
    assert found.answer("neighbours").says == "the same call gives other vectors each time, so nothing can be compared"


def test_no_time_is_no_answer() -> None:
    found = audit_target(FunctionTarget(plain_function), seconds=0.0, names=["neighbours", "order"])
    assert {answer.says for answer in found.answers} == {"there was no time left in a quick audit"}
    assert not found.passed


def test_a_pass_says_how_far_the_time_went(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, *np.linspace(0.0, 2.0, 12).tolist()])
    monkeypatch.setattr("lengthwise.export.audit.inquiry.time.monotonic", lambda: next(ticks, 3.0))
    inquiry = Inquiry(FunctionTarget(plain_function), seconds=1.0)
    words = r"a vector is the same at any place of its batch; there was time for [1-9] of \d+ batches"
    assert re.fullmatch(words, ask_order(inquiry).says)


@pytest.mark.parametrize("question", ["neighbours", "order"])
def test_an_error_in_a_batch_that_was_answered_before_fails(question: str) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        seen.setdefault(len(texts), texts)
        if len(texts) == 2 and texts != seen[2]:
            raise RuntimeError("another batch")
        return plain_function(texts)

    seen = dict[int, list[str]]()
    answer = run_audit(encode, quick=True, questions=[question]).answer(question)
    assert answer.verdict == "fail"
    assert answer.says.endswith("2 rows: it raised RuntimeError: another batch")


def test_every_place_is_tried() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return plain_function(
            [" ".join(word for place, word in enumerate(text.split()) if place != 3) for text in texts]
        )

    answer = run_audit(encode, questions=["every token"]).answer("every token")
    assert answer.verdict == "fail"
    assert answer.says.startswith("token 4 of 12 is not read")


def test_questions_are_chosen_by_name(tmp_path: Path) -> None:
    found = run_audit(plain_function, questions=["order", "distinct"])
    assert [answer.question for answer in found.answers] == ["order", "distinct"]
    with pytest.raises(ConfigError, match="'speed': there is no such question; choose from neighbours, mixed lengths"):
        run_audit(plain_function, questions=["speed"])


def test_a_model_that_stops_is_refused() -> None:
    calls = 0

    def encode(texts: list[str]) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("stopped")
        return plain_function(texts)

    with pytest.raises(AuditError, match="gives no vector for one short text: it raised RuntimeError: stopped"):
        audit_target(FunctionTarget(encode))


def test_values_that_are_no_numbers_never_pass() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        vectors = plain_function(texts)
        vectors[len(texts) // 2, 0] = np.nan if len(texts) > 1 else vectors[0, 0]
        return vectors

    found = audit_target(open_target(plain_function, quick=True), quick=True, names=["mixed lengths"])
    assert found.passed
    found = audit_target(FunctionTarget(encode), quick=True, names=["mixed lengths", "batch size"])
    assert {answer.verdict for answer in found.answers} == {"fail"}


def test_the_smallest_example_is_of_two_short_texts() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return plain_function(texts) + 0.01 * max(len(text.split()) for text in texts)

    answer = run_audit(encode, questions=["mixed lengths"]).answer("mixed lengths")
    assert answer.example is not None
    assert len(answer.example.rows) == 2
    assert sorted(len(row.split()) for row in answer.example.rows) == [1, 2]


def test_differences_are_relative_to_the_largest_value_of_a_row() -> None:
    expected = np.array([[100.0, 1.0], [0.01, 0.02], [0.0, 0.0]], np.float32)
    found = expected + np.array([[1.0, 0.0], [0.0, 0.001], [0.5, 0.0]], np.float32)
    np.testing.assert_allclose(row_differences(found, expected), [0.01, 0.05, 0.5], rtol=1e-5)
    assert row_differences(found[:, :1], expected).tolist() == [np.inf] * 3
