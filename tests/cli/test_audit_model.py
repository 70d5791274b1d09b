"""`lengthwise audit`: what is printed, written and returned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.audit_models import transformer
from helpers.cli import Invoke, refusal
from helpers.small_transformer import Faults

FEW = ("--quick", "--question", "neighbours", "--question", "padding width", "--question", "left padding")


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lengthwise.export.audit.run.QUICK_SECONDS", 600.0)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return transformer()(tmp_path / "sound")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return transformer(Faults(masked=False))(tmp_path / "broken")


def test_a_sound_model(sound: Path, invoke: Invoke) -> None:
    result = invoke("audit_model", sound, *FEW)
    assert result.exit_code == 0, result.stderr
    assert f"audit       {sound}: ONNX graph, onnxruntime on the CPU, float32, 64 values" in result.stdout
    assert "Keeps the promise in all 3 questions that were asked, with limits: left padding." in result.stdout


def test_a_broken_model_its_report_and_its_fix(broken: Path, tmp_path: Path, invoke: Invoke) -> None:
    report, fixed = tmp_path / "report", tmp_path / "fixed.onnx"
    result = invoke("audit_model", broken / "onnx/model.onnx", *FEW, "--report", report, "--fix", fixed)
    assert result.exit_code == 1
    assert "Fails 1 of 3 questions: padding width." in result.stdout
    assert "cause: 2 Softmax nodes: attention without a mask, which reads the padding" in result.stdout
    assert f"fix         {fixed} passes the same audit, with masked attention" in result.stdout
    assert f"written     {report / 'audit.md'}" in result.stderr
    assert "## padding width: fail" in (report / "audit.md").read_text()
    assert invoke("audit_model", fixed, *FEW).exit_code == 0


def test_what_stops_a_build(sound: Path, broken: Path, invoke: Invoke) -> None:
    for model, fail_on, code in (
        (sound, ("limit",), 1),
        (sound, ("padding width",), 0),
        (sound, ("left padding",), 1),
        (broken, ("neighbours",), 0),
        (broken, ("never",), 0),
        (broken, ("neighbours", "fail"), 1),
    ):
        options = [word for name in fail_on for word in ("--fail-on", name)]
        assert invoke("audit_model", model, *FEW, *options).exit_code == code, fail_on


def test_other_forms(sound: Path, invoke: Invoke) -> None:
    record = json.loads(invoke("audit_model", sound, *FEW, "--format", "json").stdout)
    assert [answer["question"] for answer in record["answers"]] == ["neighbours", "padding width", "left padding"]
    assert invoke("audit_model", sound, *FEW, "--format", "markdown").stdout.startswith(f"# Audit of {sound}\n")


def test_mistakes_are_one_paragraph(sound: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert "there is no such file or folder" in refusal(invoke("audit_model", tmp_path / "none"))
    assert "there is no such question" in refusal(invoke("audit_model", sound, "--question", "speed"))
    assert "neither a verdict nor a question" in refusal(invoke("audit_model", sound, "--fail-on", "speed"))
    assert "cannot be reached" in refusal(invoke("audit_model", "http://127.0.0.1:9"))
