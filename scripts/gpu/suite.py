"""The tests that need a GPU, run by pytest in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import click

from lengthwise.cli.gpu.context import Check, Context, NotRun, Outcome, Section

ROOT = Path(__file__).parents[2]
_MAX_NAMES = 5  # of failed tests in the table
_TIMEOUT = 540
_MAX_OUTPUT = 6_000  # characters of pytest's last output, shown if a test failed


def _tests(context: Context) -> Outcome:
    report = context.scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short", f"--junitxml={report}"]
    completed = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    )
    if not report.exists():
        raise RuntimeError(f"pytest did not run: {(completed.stdout + completed.stderr)[-500:]}")
    outcome = read_junit_report(report)
    if not outcome.ok:
        click.echo(completed.stdout[-_MAX_OUTPUT:])
    return outcome


def read_junit_report(report: Path) -> Outcome:
    """The outcome of the tests in a JUnit report.

    Raises:
        NotRun: all of them were skipped.
    """
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skips = [skip for case in cases for skip in case.iter("skipped")]
    reasons = sorted({skip.get("message", "").removeprefix("Skipped: ") for skip in skips})
    passed = len(cases) - len(failed) - len(skips)
    if not passed and not failed:
        raise NotRun(f"{len(skips)} skipped: {'; '.join(reasons)}" if cases else "no test was selected")
    text = f"{passed} passed"
    if failed:
        text += f", {len(failed)} failed: {', '.join(failed[:_MAX_NAMES])}"
        text += " and more" if len(failed) > _MAX_NAMES else ""
    if skips:
        text += f", {len(skips)} skipped: {'; '.join(reasons)}"
    return Outcome(text, ok=not failed and not skips)


SECTION = Section(
    "tests", "The tests that need a GPU", (Check("`pytest -m gpu`", "all pass, none is skipped", _tests),)
)
