"""The console command `lengthwise`: help, completion, and how mistakes are reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.cli import HEAVY
from helpers.paths import ROOT
from lengthwise.cli.main import COMMANDS

SCRIPTS_OF_A_CLONE = {"quickstart", "distil", "gpu_check", "import_models"}


def run_console(*arguments: str, python: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "lengthwise", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **variables})


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_imports_nothing_heavy(name: str) -> None:
    done = run_console(*[name] * bool(name), "--help", python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: {'lengthwise ' + name if name else 'lengthwise'} [OPTIONS]")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & HEAVY


def test_every_script_is_a_command() -> None:
    scripts = {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")} - {"common", "main"}
    assert {module for module, _ in COMMANDS.values()} == scripts - SCRIPTS_OF_A_CLONE


def test_help_lists_every_command_with_its_summary() -> None:
    output = run_console("-h", COLUMNS="200").stdout
    for name, (_, summary) in COMMANDS.items():
        assert name in output
        assert summary in " ".join(output.split())


def test_misspelt_command_is_answered_with_the_nearest_one() -> None:
    for typed, message in (
        ("encod", "No such command 'encod'. Did you mean 'encode'?"),
        ("fly", "No such command 'fly'."),
    ):
        done = run_console(typed)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"Error: {message}"


def test_mistake_is_reported_without_a_traceback(tmp_path: Path) -> None:
    done = run_console("encode", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none.yaml'}: the configuration cannot be read")


def test_completion_offers_commands_and_options() -> None:
    def complete(words: str) -> list[str]:
        last = str(len(words.split()) - 1)
        variables = {"_LENGTHWISE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": last}
        return run_console(**variables).stdout.split()

    assert complete("lengthwise en") == ["plain,encode"]
    assert complete("lengthwise encode --fr") == ["plain,--fresh"]
