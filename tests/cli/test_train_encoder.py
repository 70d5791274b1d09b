"""`lengthwise train`: from a run file to a checkpoint, killed and continued, and its messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.cli import Invoke, refusal
from helpers.files import contents
from helpers.paths import ROOT
from helpers.students import make_texts, save_teacher, student_config, write_rows
from lengthwise.cli.train_encoder import summary
from lengthwise.config import RunConfig
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.training.report import TrainReport


@pytest.fixture
def config(tmp_path: Path, tokenizer: TextTokenizer) -> RunConfig:
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    texts = make_texts(300)
    write_rows(tmp_path / "rows.parquet", text=texts, anchor=texts, positive=[f"{text} rain" for text in texts])
    teacher = str(save_teacher(tmp_path / "teacher", tokenizer))
    sources = [{"kind": "teacher"}, {"kind": "pairs", "weight": 0.3, "group": 16}]
    validation = {"rows": 20, "every": 100}
    return student_config(
        tmp_path, sources, teacher=teacher, max_steps=200, checkpoint_every=40, log_every=20, validation=validation
    )


def write_run(config: RunConfig, folder: Path) -> Path:
    (folder / "run.yaml").write_text(config.to_yaml())
    return folder / "run.yaml"


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/train_encoder.py"), str(run)],
        env={**os.environ, "HF_DATASETS_CACHE": str(run.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(run: Path, process: subprocess.Popen[str], step: int) -> None:
    """Return once the run has a checkpoint of that step, or the process has ended."""
    folder = run.parent / "training/checkpoints"
    while process.poll() is None and not any(int(path.name[5:]) >= step for path in folder.glob("step-*")):
        time.sleep(0.005)


def test_summary_has_the_accuracy() -> None:
    rows = {"0: labels": (90, 10, 0)}
    report = TrainReport("student", 8, 40, "steps", 4_000, 2.0, 30, 0.25, {"0: labels": 0.25}, {"0: labels": 0.9}, rows)
    (line,) = [line for line in summary(report).splitlines() if line.startswith("accuracy")]
    assert (
        line == "accuracy    0: labels: 90.0% of the held-out rows; the classification layer is not in the checkpoint"
    )


def test_command_reports_what_it_trained(config: RunConfig, tmp_path: Path, invoke: Invoke) -> None:
    run = write_run(config, tmp_path)
    result = invoke("train_encoder", run, "--set", "train.max_steps=20")
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert first.startswith(f"checkpoint  {tmp_path / 'student'}: 8 dimensions; held-out loss ")
    assert first.endswith(" after step 20")
    assert second.startswith("training    20 steps, ")
    assert second.endswith("tokens/s), until steps")
    assert third == f"report      {tmp_path / 'training/report.md'}"
    message = refusal(invoke("train_encoder", run))
    assert "belongs to another run (train.max_steps was 20, is 200); start over with --fresh" in message


@pytest.mark.slow
def test_killed_run_continues_to_the_same_bytes(config: RunConfig, tmp_path: Path, invoke: Invoke) -> None:
    """SIGKILL once, by progress."""
    undisturbed, killed = run_with_and_without_kills(write_run(config, tmp_path), [40], invoke)
    assert killed == undisturbed
    assert logged_steps(tmp_path) == list(range(20, 201, 20))


@pytest.mark.heavy
def test_run_that_is_killed_repeatedly_ends_with_the_same_bytes(
    config: RunConfig, tmp_path: Path, invoke: Invoke
) -> None:
    undisturbed, killed = run_with_and_without_kills(write_run(config, tmp_path), [0, 40, 80, 120], invoke)
    assert killed == undisturbed
    assert logged_steps(tmp_path) == list(range(20, 201, 20))


def run_with_and_without_kills(
    run: Path, steps: list[int], invoke: Invoke
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of the encoder of a run, and of the same run killed once it has a checkpoint of each step."""
    assert invoke("train_encoder", run).exit_code == 0
    undisturbed = contents(run.parent / "student")
    shutil.rmtree(run.parent / "student")
    shutil.rmtree(run.parent / "training")
    for step in steps:
        process = start(run)
        wait_for_step(run, process, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (run.parent / "student").exists()
    assert invoke("train_encoder", run).exit_code == 0
    return undisturbed, contents(run.parent / "student")


def logged_steps(folder: Path) -> list[int]:
    """The steps whose losses in training are in the log."""
    lines = [json.loads(line) for line in (folder / "training/log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "losses" in line]
