"""The Core ML model: converted with a dynamic length, and reported as not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.coreml import PYTHON_VARIABLE, save_coreml
from lengthwise.export.graphs.variants import COREML
from lengthwise.export.runtimes.devices import CoreMl
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.mark.heavy
@pytest.mark.parametrize("changes", [{}, {"cell": "gru"}, {"num_layers": 2, "bidirectional": True, "pooling": "max"}])
def test_model_is_converted_and_not_run(
    changes: dict[str, Any], tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(**changes), 0)
    try:
        artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[COREML])
    except ArtifactError as error:
        if "does not have" in str(error):
            pytest.skip(f"Core ML models were not converted: {error}")
        raise
    files = Artifact.open(artifact.folder).manifest["files"]
    model = (artifact.folder / "coreml/model.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes()
    assert any(name.startswith("coreml/model.mlpackage/Data/") for name in files)
    assert b"input_ids" in model
    assert b"sentence_embedding" in model
    assert (b"while_loop" if encoder.config.cell == "gru" else b"lstm") in model  # Core ML's own GRU is another one
    verdicts = validate_artifact(artifact, [OnnxRuntimeCpu, CoreMl]).verdicts
    assert [verdict.status for verdict in verdicts] == ["passed", "not run"]
    assert "never run" in verdicts[1].reason


def test_missing_package_has_a_remedy(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'coremltools'\" >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with pytest.raises(ArtifactError, match=rf"which {python} does not have; install lengthwise\[coreml\], name"):
        save_coreml(seeded_encoder(encoder_config(), 0), tmp_path / "model.mlpackage")
