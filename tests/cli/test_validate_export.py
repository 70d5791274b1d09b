"""validate_export.py: verdicts, exit codes and the choice of runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from helpers.cli import Invoke, refusal
from lengthwise.export.artifact.folder import describe_files, write_manifest


def test_validate_passes_an_export_and_fails_a_broken_graph(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "an artifact"
    exported = invoke("export_model", trained, "--set", f"export.output={folder}")
    assert exported.exit_code == 0, exported.stderr
    assert f"--texts {trained} --set 'export.output={folder}'" in exported.stdout
    validated = invoke("validate_export", folder, "--texts", trained, "--rows", "4")
    assert validated.exit_code == 0, validated.stderr
    assert "passed      onnxruntime cpu: native ✓ " in validated.stdout
    assert "portable ✓ " in validated.stdout
    assert "use native" in validated.stdout
    assert (folder / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert "](validation.png)" in (folder / "validation.md").read_text()
    assert "## Speed" in (folder / "validation.md").read_text()
    assert json.loads((folder / "validation.json").read_text())["passed"] is True
    assert "| onnxruntime cpu |" in (folder / "README.md").read_text()

    model = onnx.load(folder / "onnx/model.onnx")
    next(node for node in model.graph.node if node.op_type == "LSTM").input[3] = ""
    onnx.save(model, folder / "onnx/model.onnx")
    assert "onnx/model.onnx: the file is not the one that was exported" in refusal(invoke("validate_export", folder))
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    write_manifest(folder, {**manifest, "files": describe_files(folder)})
    validated = invoke("validate_export", folder)
    assert validated.exit_code == 1
    assert "failed      onnxruntime cpu: native ✗ " in validated.stdout
    assert "use portable" in validated.stdout
    assert "failed      onnxruntime cpu, native: " in validated.stdout
    assert "passed      torchscript" in validated.stdout
    assert json.loads((folder / "validation.json").read_text())["passed"] is False


def test_validate_judges_only_the_named_runtimes(artifact_folder: Path, invoke: Invoke) -> None:
    result = invoke("validate_export", artifact_folder, "--runtimes", "torchscript, onnxruntime cpu")
    assert result.exit_code == 0, result.stderr
    record = json.loads((artifact_folder / "validation.json").read_text())
    assert {verdict["runtime"] for verdict in record["verdicts"]} == {"torchscript", "onnxruntime cpu"}
    unknown = invoke("validate_export", artifact_folder, "--runtimes", "tflite")
    assert unknown.exit_code == 2
    assert "'tflite': no such runtime; choose from pytorch (packed batches), " in unknown.stderr


def test_validate_refuses_set_without_texts(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("validate_export", tmp_path, "--set", "dataset.path=x.csv")
    assert result.exit_code == 2
    assert "give --texts too" in result.stderr
