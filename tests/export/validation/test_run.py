"""A whole validation, and what its report is used for later."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.engine import OnnxEncoder, recommended_variant
from lengthwise.export.artifact.folder import VALIDATION_JSON, Artifact
from lengthwise.export.graphs.variants import NATIVE, PORTABLE, VARIANTS
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings
from lengthwise.export.triton import write_triton_model
from lengthwise.export.validation.run import run_validation

CPU = "onnxruntime cpu"


@pytest.mark.slow
def test_validation_of_other_files_is_refused(artifact_folder: Path, tmp_path: Path) -> None:
    """By encoding, by the server and by the export to Triton; validating again replaces it."""
    run_validation(artifact_folder, runtimes=[CPU], speed=False)
    report = json.loads((artifact_folder / VALIDATION_JSON).read_text())
    named = {*(variant.file for variant in VARIANTS.values()), "config.json", "model.safetensors", "golden.safetensors"}
    assert report["files"].keys() == named
    assert recommended_variant(Artifact.open(artifact_folder), CPU) == NATIVE
    graph = onnx.load(artifact_folder / VARIANTS[PORTABLE].file)
    graph.doc_string = "changed by hand, and the manifest with it"
    changed = Artifact.open(artifact_folder).with_files({VARIANTS[PORTABLE].file: graph.SerializeToString()})
    message = rf"validation\.json: is of other files than the artifact's \({VARIANTS[PORTABLE].file} changed since\)"
    for use in (
        lambda: OnnxEncoder.load(artifact_folder),
        lambda: Service(changed, ServeSettings(), Metrics()),
        lambda: write_triton_model(changed, tmp_path / "models"),
    ):
        with pytest.raises(ArtifactError, match=message):
            use()
    assert not (tmp_path / "models").exists()
    assert OnnxEncoder.load(artifact_folder, variant=NATIVE).engine.variant == NATIVE  # a named graph is used
    run_validation(artifact_folder, runtimes=[CPU], speed=False)
    assert recommended_variant(Artifact.open(artifact_folder), CPU) == NATIVE
