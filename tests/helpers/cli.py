"""Runs commands as a user does, in this process and in others."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from helpers.paths import ROOT

# Modules that no command's --help may import.
HEAVY = {
    "torch", "datasets", "onnx", "onnxruntime", "onnxscript", "tokenizers", "pydantic", "pyarrow", "numpy",
    "matplotlib", "uvicorn", "starlette",
}  # fmt: skip


def run_as_user(script: str, *arguments: str | Path, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, f"scripts/{script}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def write_config(folder: Path, texts: str | Path = "texts.txt", **sections: dict[str, Any]) -> Path:
    """Write the configuration of a run whose paths are all in `folder`."""
    data = {
        "dataset": {"path": str(folder / texts), "shard_rows": 3},
        "tokenizer": {
            "path": str(folder / "tokenizer.json"),
            "training": {"model": "wordlevel", "min_frequency": 1, "vocab_size": 100},
        },
        "model": {"path": str(folder / "model"), "init": {"embedding_dim": 8, "hidden_size": 6}},
        "encode": {"output": str(folder / "vectors")},
    }
    for name, changes in sections.items():
        data[name] = {**data.get(name, {}), **changes}
    (folder / "run.yaml").write_text(yaml.safe_dump(data))
    return folder / "run.yaml"


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a script's command in this process, which saves importing torch again."""

    def run(script: str, *arguments: str | Path) -> Result:
        command: click.Command = importlib.import_module(f"lengthwise.cli.{script}").main
        return CliRunner().invoke(command, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def trained(tmp_path: Path, texts_file: Path, invoke: Invoke) -> Path:
    """The configuration of a run that has a tokenizer and a checkpoint."""
    config = write_config(tmp_path)
    for script in ("train_tokenizer", "init_model"):
        result = invoke(script, config)
        assert result.exit_code == 0, result.stderr
    return config


def refusal(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The message of a command that has to be refused: exit code 2 and one paragraph on stderr."""
    if isinstance(result, Result):
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 2
    else:
        assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    before, separator, message = result.stderr.partition("error: ")
    assert separator
    assert before == "" or before.endswith("\n")
    assert "\n\n" not in message.strip()
    return message.strip()
