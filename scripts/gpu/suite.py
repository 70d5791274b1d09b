"""The tests that need a GPU, run by pytest in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import click

from lengthwise.cli.gpu.context import Check, Context, Found, NotRun, Section

ROOT = Path(__file__).parents[2]
_SHOWN = 5
_SECONDS = 540
_LETTERS = 6_000  # of what pytest said last, which are shown where something failed


def _tests(context: Context) -> Found:
    report = context.scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short", f"--junitxml={report}"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if not report.exists():
        raise RuntimeError(f"pytest did not run: {(done.stdout + done.stderr)[-500:]}")
    found = outcome_of_tests(report)
    if not found.ok:
        click.echo(done.stdout[-_LETTERS:])
    return found


def outcome_of_tests(report: Path) -> Found:
    """What a JUnit report says of the tests that ran.

    Raises:
        NotRun: every one was skipped.
    """
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skips = [skip for case in cases for skip in case.iter("skipped")]
    reasons = sorted({skip.get("message", "").removeprefix("Skipped: ") for skip in skips})
    passed = len(cases) - len(failed) - len(skips)
    if not passed and not failed:
        raise NotRun(f"{len(skips)} skipped: {'; '.join(reasons)}" if cases else "there is no such test")
    text = f"{passed} passed"
    if failed:
        text += f", {len(failed)} failed: {', '.join(failed[:_SHOWN])}{' and more' if len(failed) > _SHOWN else ''}"
    if skips:
        text += f", {len(skips)} skipped: {'; '.join(reasons)}"
    return Found(text, ok=not failed and not skips)


SECTION = Section(
    "tests", "The tests that need a GPU", (Check("`pytest -m gpu`", "all pass, none is skipped", _tests),)
)
