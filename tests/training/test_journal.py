"""The log of a training run: lines that a killed run left half-written or ahead of its checkpoint are removed."""

from __future__ import annotations

from pathlib import Path

from lengthwise.training.journal import Journal


def test_lines_after_the_step_are_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read() == []
    for step in (5, 10, 15):
        journal.write({"step": step, "losses": {"a": 0.1 + 0.2}})
    with open(journal.path, "a") as file:
        file.write('{"step": 20, "los')
    journal.resume(10)
    journal.write({"step": 15, "losses": {}})
    assert [line["step"] for line in journal.read()] == [5, 10, 15]
    assert journal.read()[0]["losses"] == {"a": 0.1 + 0.2}


def test_resume_at_the_beginning_makes_an_empty_log(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write({"step": 1})
    journal.resume(0)
    assert journal.path.read_text() == ""


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """JSON may hold other separators as they are; written by another tool, for example."""
    journal = Journal(tmp_path)
    journal.path.write_text('{"step": 1, "source": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert journal.read() == [{"step": 1, "source": "a\u2028b\x85c"}]
