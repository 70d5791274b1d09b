"""An artifact as an engine: the same vectors as PyTorch's, and no PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest

from conftest import TEXTS
from export.artifact import Artifact
from export.engine import OnnxEngine
from export.runtimes import NotRunnable
from export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from pipeline.checkpoint import load_checkpoint, weights_fingerprint
from pipeline.encode import encode_texts
from pipeline.errors import ArtifactError
from pipeline.torch_engine import TorchEngine

ROOT = Path(__file__).parents[1]


def test_vectors_are_pytorchs(artifact_folder: Path) -> None:
    encoder, tokenizer = load_checkpoint(artifact_folder)
    engine = OnnxEngine(Artifact.open(artifact_folder), workers=2)
    texts = [*TEXTS, "", "moon", *TEXTS[:2]] * 3
    right = encode_texts(texts, tokenizer, TorchEngine(encoder))
    found = encode_texts(texts, tokenizer, engine)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right, atol=1e-6, rtol=0)
    assert engine.weights == weights_fingerprint(encoder)
    assert engine.config == encoder.config
    assert engine.name == "onnxruntime cpu onnx/model.onnx"
    assert engine.costs.pads


def test_a_gpu_has_to_be_real(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotRunnable("the session fell back to the CPU")

    monkeypatch.setattr(OnnxRuntimeCuda, "load", refuse)
    artifact = Artifact.open(artifact_folder)
    with pytest.raises(ArtifactError, match=r"encode\.device is cuda, but the session fell back.*cpu or auto"):
        OnnxEngine(artifact, "cuda")
    assert OnnxEngine(artifact, "auto").name.startswith("onnxruntime cpu")
    monkeypatch.setattr(OnnxRuntimeCpu, "load", refuse)
    with pytest.raises(ArtifactError, match="cannot be run: the session fell back"):
        OnnxEngine(artifact)


def test_a_whole_run_without_pytorch(artifact_folder: Path, texts_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        textwrap.dedent(f"""
        dataset: {{path: {texts_file}}}
        model: {{path: none}}
        encode: {{output: {tmp_path}/vectors, engine: onnx}}
        export: {{output: {artifact_folder}}}
        """)
    )
    packages = tmp_path / "packages"  # everything that is installed, but PyTorch
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("torch", "functorch")):
            (packages / entry.name).symlink_to(entry)
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{ROOT}"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert "No module named 'torch'" in python("-c", "import torch").stderr
    done = python("scripts/encode_dataset.py", str(tmp_path / "run.yaml"))
    assert done.returncode == 0, done.stderr
    assert f"{len(TEXTS)} rows" in done.stdout
    import datasets

    found = datasets.Dataset.from_parquet(f"{tmp_path}/vectors/data/*.parquet", cache_dir=str(tmp_path / "cache"))
    encoder, tokenizer = load_checkpoint(artifact_folder)
    right = encode_texts(TEXTS, tokenizer, TorchEngine(encoder))
    np.testing.assert_allclose(np.array(found["embedding"], np.float32), right, atol=1e-6, rtol=0)
