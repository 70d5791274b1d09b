"""docs/audit.md: its commands and code, its questions, and the table of faults."""

from __future__ import annotations

import re

import pytest

from helpers.audit_ground_truth import BROKEN, SOUND
from helpers.pages import UserFolder, code_blocks, read_page, runnable_commands
from lengthwise.export.audit.questions.registry import QUESTIONS

PAGE = read_page("docs/audit.md")


@pytest.mark.slow
def test_commands_and_code_run_on_an_artifact(user: UserFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.export.audit.run.QUICK_SECONDS", 600.0)
    user.run("lengthwise export run.yaml --set 'export.variants=[native]'")
    commands = [command for command in runnable_commands(PAGE) if command.startswith("lengthwise audit artifact")]
    assert len(commands) == 2
    for command in commands:
        assert "Keeps the promise in all" in user.run(command)
    assert (user.folder / "report/audit.png").is_file()
    test, fixture = code_blocks(PAGE, "python")
    user.run_python(f"{test}\ntest_vectors_do_not_depend_on_the_batch()")
    assert "lengthwise_audit" in fixture


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, without heads and rules."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows if not row.startswith("---")]


def test_every_question_is_described_in_its_order() -> None:
    described = [row[0] for row in rows_of("The questions")[1:]]
    assert sorted(described) == sorted(QUESTIONS)


def test_the_table_of_faults_is_that_of_the_ground_truth() -> None:
    rows = rows_of("Ground truth")
    faults = [(row[0], row[1], row[2]) for row in rows if row[3:4] == ["found"] and row[0] != "model"]
    assert faults == [(case.base, case.name, case.question) for case in BROKEN]
    assert [row[0] for row in rows if len(row) == 4 and row[0] != "sound model"] == [case.name for case in SOUND]
    assert f"{len(BROKEN)} faults, {len(SOUND)} sound models, 0 misses and false alarms." in PAGE
