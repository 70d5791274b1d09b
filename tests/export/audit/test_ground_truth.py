"""Each fault of the ground truth is found and named by its cause, and no sound model is blamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.audit_ground_truth import BROKEN, SOUND, Broken, Sound, judge, judge_sound
from lengthwise.export.audit.questions.registry import QUESTIONS


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.base}: {case.name}")
def test_fault_is_found_and_named(case: Broken, tmp_path: Path) -> None:
    judged = judge(case, tmp_path)
    answer = judged.audit.answer(case.question)
    assert judged.found, answer
    assert judged.named, answer
    assert not judged.audit.passed


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_sound_model_is_not_blamed(case: Sound, tmp_path: Path) -> None:
    audit = judge_sound(case, tmp_path)
    assert audit.failed == ()
    assert audit.passed
    assert len(audit.by_verdict("pass")) >= 9


def test_every_question_is_broken_once() -> None:
    never_fails = {"left padding"}  # a limit
    assert {case.question for case in BROKEN} == QUESTIONS.keys() - never_fails
    assert len(BROKEN) >= 15
    assert len(SOUND) >= 5
