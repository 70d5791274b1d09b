"""Artifact folders: whole or refused, by the name of the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lengthwise.errors import ArtifactError, StoreError
from lengthwise.export.artifact.folder import MANIFEST_FILE, Artifact, describe_files
from lengthwise.util.files import file_sha256


def test_manifest_has_the_hash_of_every_file(artifact_folder: Path) -> None:
    artifact = Artifact.open(artifact_folder)
    files = {path.relative_to(artifact_folder).as_posix() for path in artifact_folder.rglob("*") if path.is_file()}
    assert set(artifact.manifest["files"]) == files - {MANIFEST_FILE}
    for name, known in artifact.manifest["files"].items():
        path = artifact_folder / name
        assert known == {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


@pytest.mark.parametrize("name", ["config.json", "onnx/model.onnx", "golden.safetensors"])
def test_changed_or_missing_file_is_refused_by_name(artifact_folder: Path, name: str) -> None:
    path = artifact_folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{name}: the file is not the one that was exported"):
        Artifact.open(artifact_folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: the file is missing"):
        Artifact.open(artifact_folder)


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not an artifact.*lengthwise export"):
        Artifact.open(tmp_path)
    with pytest.raises(ArtifactError, match=r"artefact: there is no such artifact; make one with lengthwise export"):
        Artifact.open(tmp_path / "artefact")


@pytest.mark.parametrize("contents", ["{", "[]", "{}", '{"files": 3}'])
def test_damaged_manifest_is_refused(artifact_folder: Path, contents: str) -> None:
    (artifact_folder / MANIFEST_FILE).write_text(contents)
    with pytest.raises(ArtifactError, match=r"MANIFEST\.json"):
        Artifact.open(artifact_folder)


def test_manifest_with_a_path_outside_is_refused(artifact_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    manifest = json.loads((artifact_folder / MANIFEST_FILE).read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": file_sha256(secret)}
    (artifact_folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"\.\./secret.*outside"):
        Artifact.open(artifact_folder)


def test_golden_vectors_round_trip(artifact_folder: Path) -> None:
    golden = Artifact.open(artifact_folder).load_golden()
    assert (golden.input_ids.dtype, golden.lengths.dtype, golden.vectors.dtype) == (np.int64, np.int64, np.float32)
    assert len(golden.input_ids) == len(golden.lengths) == len(golden.vectors) == 16
    np.testing.assert_allclose(np.linalg.norm(golden.vectors, axis=1), 1, atol=1e-6)


def test_golden_vectors_of_earlier_versions_have_one_tensor_of_what_is_allowed(artifact_folder: Path) -> None:
    path, artifact = artifact_folder / "golden.safetensors", Artifact.open(artifact_folder)
    vectors = load_file(path)["vectors"]
    save_file({**load_file(path), "accumulated": np.full(vectors.shape, 50.0)}, path)
    golden = artifact.load_golden()
    assert golden.allowance is not None
    assert not golden.allowance.fixed.any()
    assert golden.needed_tolerance(vectors + np.float32(0.5)) == pytest.approx(0.01, rel=1e-5)


def test_unreadable_golden_vectors_are_refused_by_name(artifact_folder: Path) -> None:
    artifact = Artifact.open(artifact_folder)
    (artifact_folder / "golden.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError, match=r"golden\.safetensors"):
        artifact.load_golden()


def test_with_files_updates_the_manifest(artifact_folder: Path) -> None:
    before = describe_files(artifact_folder)
    artifact = Artifact.open(artifact_folder).with_files({"README.md": "new", "validation.md": "fine"})
    assert (artifact_folder / "README.md").read_text() == "new"
    after = Artifact.open(artifact_folder).manifest
    assert after == artifact.manifest
    changed = {name for name in after["files"] if before.get(name) != after["files"][name]}
    assert changed == {"README.md", "validation.md"}


def test_with_files_is_atomic(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_files(artifact_folder)
    artifact = Artifact.open(artifact_folder)

    def full(path: Path, contents: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lengthwise.export.artifact.folder.write_atomically", full)
    with pytest.raises(StoreError, match="No space left"):
        artifact.with_files({"README.md": "new"})
    assert describe_files(artifact_folder) == before
    assert [path.name for path in artifact_folder.parent.iterdir()] == [artifact_folder.name]


def test_with_files_works_without_hard_links(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    Artifact.open(artifact_folder).with_files({"note.txt": "x"})
    assert "note.txt" in Artifact.open(artifact_folder).manifest["files"]


def test_reading_an_artifact_needs_no_torch(artifact_folder: Path) -> None:
    code = (
        "import sys; from lengthwise.export.artifact.folder import Artifact;"
        f"Artifact.open({str(artifact_folder)!r}).load_golden();"
        "print(*sorted({'torch', 'datasets', 'onnx', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_with_files_removes_a_file(artifact_folder: Path) -> None:
    artifact = Artifact.open(artifact_folder).with_files({"picture.png": b"bytes", "note.txt": "words"})
    artifact = artifact.with_files({"picture.png": None, "never there.png": None})
    assert "picture.png" not in Artifact.open(artifact.folder).manifest["files"]
    assert not (artifact.folder / "picture.png").exists()
    assert (artifact.folder / "note.txt").read_text() == "words"


@pytest.mark.parametrize(
    "name",
    ["onnx/model_q4.onnx", "onnx/model_fp16.onnx.data", "onnx/deep/a.onnx", "pt2/old.pt2", "torchscript/b.pt",
     "validation.json", "validation.md", "validation.png"],
)  # fmt: skip
def test_graph_or_report_of_another_export_is_refused_by_name(artifact_folder: Path, name: str) -> None:
    path = artifact_folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"old")
    with pytest.raises(ArtifactError, match=rf"{name}: is not of this export .*; delete or move it"):
        Artifact.open(artifact_folder)
    path.unlink()
    (artifact_folder / ".gitattributes").write_text("*.onnx filter=lfs")
    (artifact_folder / "notes.txt").write_text("of a user")
    (artifact_folder / "onnx/.DS_Store").write_text("of an operating system")
    Artifact.open(artifact_folder)


def test_with_files_refuses_an_artifact_that_was_exported_again(artifact_folder: Path) -> None:
    """As when an export ends while a validation of the older one is running."""
    artifact = Artifact.open(artifact_folder)
    artifact.with_files({"validation.md": "of the same export"})
    artifact.with_files({"validation.md": "again"})
    Artifact.open(artifact_folder).with_files({"onnx/model.onnx": b"of the new export"})
    before = describe_files(artifact_folder)
    with pytest.raises(ArtifactError, match="was exported again or changed since it was opened, and is left as it is"):
        artifact.with_files({"validation.md": "of a validation of the old one"})
    assert describe_files(artifact_folder) == before
    (artifact_folder / MANIFEST_FILE).unlink()
    with pytest.raises(ArtifactError, match="was exported again or changed"):
        artifact.with_files({"README.md": "new"})


@pytest.mark.parametrize("name", ["litert/model.tflite", "coreml/model.mlpackage/Manifest.json", "coreml/other.txt"])
def test_graph_for_devices_of_another_export_is_refused(name: str, artifact_folder: Path) -> None:
    (artifact_folder / name).parent.mkdir(parents=True)
    (artifact_folder / name).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"{name}: is not of this export"):
        Artifact.open(artifact_folder)
