"""export_model.py on a run and on an artifact, with models for Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.cli import Invoke, refusal
from helpers.files import contents


def test_export_writes_a_triton_model_before_and_after_validation(
    trained: Path, tmp_path: Path, invoke: Invoke
) -> None:
    folder, models = tmp_path / "an artifact", tmp_path / "models"
    override = f"export.output={folder}"
    result = invoke("export_model", trained, "--set", override, "--triton", models, "--variant", "portable")
    assert result.exit_code == 0, result.stderr
    assert f"triton      {models / 'an_artifact'}: tritonserver --model-repository={models}" in result.stdout
    assert sorted(contents(models)) == ["an_artifact/1/model.onnx", "an_artifact/config.pbtxt"]
    written = models / "an_artifact" / "1" / "model.onnx"
    assert written.read_bytes() == (folder / "onnx/model_portable.onnx").read_bytes()
    assert invoke("validate_export", folder, "--runtimes", "onnxruntime cpu").exit_code == 0
    before = contents(folder)
    result = invoke("export_model", folder, "--triton", models, "--triton-name", "vectors", "--triton-batch", "5")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"triton      {models / 'vectors'}: tritonserver --model-repository={models}\n"
    assert (models / "vectors" / "1" / "model.onnx").read_bytes() == before["onnx/model.onnx"]
    assert "max_batch_size: 5\n" in (models / "vectors" / "config.pbtxt").read_text()
    assert contents(folder) == before
    assert "has no graph 'int4'" in refusal(invoke("export_model", folder, "--triton", models, "--variant", "int4"))


def test_export_refuses_a_folder_without_triton(artifact_folder: Path, trained: Path, invoke: Invoke) -> None:
    def usage(*arguments: Any) -> str:
        result = invoke("export_model", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        return result.stderr

    assert "a checkpoint with --output DIR, or an artifact with --triton DIR" in " ".join(
        usage(artifact_folder).split()
    )
    with_set = usage(artifact_folder, "--triton", artifact_folder.parent / "models", "--set", "export.output=x")
    assert "--set changes a setting of a run" in with_set
    assert "need --triton DIR" in usage(trained, "--triton-name", "vectors")
    message = refusal(invoke("export_model", artifact_folder.parent, "--triton", artifact_folder.parent / "models"))
    assert "not an artifact (MANIFEST.json is missing)" in message


def test_a_checkpoint_is_exported_without_a_run(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    model, folder = tmp_path / "model", tmp_path / "an artifact"
    assert model.is_dir()
    result = invoke("export_model", model, "--output", folder)
    assert result.exit_code == 0, result.stderr
    assert f"next        lengthwise validate {folder}\n" in result.stdout
    assert sorted(contents(folder)).count("onnx/model_int8.onnx") == 1
    assert invoke("validate_export", folder, "--runtimes", "onnxruntime cpu").exit_code == 0

    def usage(*arguments: Any) -> str:
        result = invoke("export_model", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        return " ".join(result.stderr.split())

    assert f"{model} is a checkpoint; give --output DIR" in usage(model)
    assert "a run has its own export.output" in usage(trained, "--output", folder)
    assert "and this folder is none" in usage(folder, "--output", folder).replace(str(folder), "this folder")
    assert "--set changes a setting of a run" in usage(model, "--output", folder, "--set", "export.variants=[int8]")
    sentence = invoke("export_model", model, "--output", tmp_path / "st", "--format", "sentence-transformers")
    assert sentence.exit_code == 0, sentence.stderr
    assert (tmp_path / "st" / "modules.json").is_file()
