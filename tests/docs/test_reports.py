"""tests/REPORTS.md: every public report in its table has a test of ours."""

from __future__ import annotations

import ast
import re

from helpers.pages import read_page
from helpers.paths import ROOT

ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| `([^`|]+)` \|$", read_page("tests/REPORTS.md"), re.MULTILINE)


def test_every_report_is_named_by_repository_and_number() -> None:
    assert len(ROWS) >= 60
    for _, references, _, _ in ROWS:
        for reference in references.split(", "):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", reference), reference


def test_every_report_has_a_test() -> None:
    for *_, test in ROWS:
        file, _, name = test.partition("::")
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, test


def test_every_row_of_the_page_is_read() -> None:
    rows = [line for line in read_page("tests/REPORTS.md").splitlines() if line.startswith("| ")]
    assert len(rows) == len(ROWS) + 8  # a heading and a rule for each of four tables
