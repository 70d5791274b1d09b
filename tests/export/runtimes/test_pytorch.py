"""PyTorch as a runtime: what encodes datasets, judged like the others; on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lengthwise.config import WEIGHTS_FILE
from lengthwise.encoder.checkpoint import load_encoder
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.artifact.oracle import compute_oracle
from lengthwise.export.graphs.variants import NATIVE
from lengthwise.export.runtimes import NotRunnable, pytorch
from lengthwise.export.runtimes.pytorch import PyTorchCuda, PyTorchEager, PyTorchStepwise
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.validation.cases import grid_cases
from lengthwise.export.validation.validate import validate_artifact


def test_pytorch_runtimes_are_first_in_the_registry() -> None:
    names = [runtime.name for runtime in RUNTIMES]
    assert names[:3] == ["pytorch (packed batches)", "pytorch (step-wise)", "pytorch (cuda)"]
    assert (PyTorchCuda.tolerance, dict(PyTorchCuda.files)) == (1e-5, {NATIVE: WEIGHTS_FILE})


def test_cuda_without_a_gpu_is_not_run(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, built in ((None, "built without CUDA"), ("13.0", r"built for CUDA 13\.0")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        with pytest.raises(NotRunnable, match=rf"{built}, finds no NVIDIA GPU here; run it on a machine with one"):
            PyTorchCuda().load(artifact_folder / WEIGHTS_FILE)
    (verdict,) = validate_artifact(Artifact.open(artifact_folder), [PyTorchCuda]).verdicts
    assert (verdict.runtime, verdict.status) == ("pytorch (cuda)", "not run")


@pytest.mark.parametrize("kind", [PyTorchEager, PyTorchStepwise, PyTorchCuda])
def test_vectors_and_states_equal_the_oracle(kind: Any, artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runtime for a GPU, with the CPU in its place: whether rows of no tokens and both outputs are in order."""
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True))
    monkeypatch.setattr(pytorch, "TorchEngine", on_cpu)
    encoder = load_encoder(artifact_folder)
    runtime = kind()
    runtime.load(artifact_folder / WEIGHTS_FILE)
    for case in grid_cases(encoder.config.vocab_size):
        right = compute_oracle(encoder, case.input_ids, case.lengths)
        vectors, states = runtime.run(case.input_ids, case.attention_mask)
        assert (vectors.dtype, states.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(vectors, right.vectors, atol=1e-6, rtol=0)
        np.testing.assert_allclose(states, right.states, atol=1e-6, rtol=0)


def on_cpu(encoder: PackedEncoder, device: str) -> TorchEngine:
    assert device == "cuda"
    return TorchEngine(encoder, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: PyTorch was not validated on CUDA")
def test_gpu_gives_the_same_vectors(artifact_folder: Path) -> None:
    (verdict,) = validate_artifact(Artifact.open(artifact_folder), [PyTorchCuda]).verdicts
    assert verdict.status == "passed", verdict.reason
    assert set(verdict.environment) == {"torch", "device", "cuda", "cudnn"}
