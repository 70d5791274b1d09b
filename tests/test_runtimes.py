"""The runtimes' own guards: above all, that CUDA is never taken for granted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from export.artifact import Artifact
from export.runtimes import NotRunnable, Runtime
from export.runtimes.base import ONNX_FILES, check_output_names
from export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from export.runtimes.registry import RUNTIMES
from export.validate import validate_artifact
from export.variants import FP16, NATIVE, PORTABLE, VARIANTS

IDS, MASK = np.array([[2, 3, 4], [5, 6, 0]], np.int64), np.array([[1, 1, 1], [1, 0, 0]], np.int64)
ONNX_FILE = VARIANTS[NATIVE].file
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def loaded(kind: type[Runtime], path: Path) -> Runtime:
    """The runtime with a file loaded; skips, with the reason, where it is not installed."""
    runtime = kind()
    try:
        runtime.load(path)
    except NotRunnable as reason:
        pytest.skip(f"{kind.name} was not run: {reason}")
    return runtime


PAIRS = [(kind, variant) for kind in RUNTIMES for variant in (NATIVE, PORTABLE) if variant in kind.files]


@pytest.mark.parametrize(("kind", "variant"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_each_runtime_gives_both_outputs_and_says_what_it_is(
    kind: type[Runtime], variant: str, artifact_folder: Path
) -> None:
    runtime = loaded(kind, artifact_folder / kind.files[variant])
    try:
        vectors, states = runtime.run(IDS, MASK)
        assert (vectors.dtype, states.dtype) == (np.float32, np.float32)
        assert (vectors.shape, states.shape) == ((2, 12), (2, 3, 12))
        assert all(runtime.describe().values())
        again, _ = runtime.run(IDS[:1], MASK[:1])
        if runtime.reads_lengths or variant == PORTABLE:
            np.testing.assert_allclose(vectors[0], again[0], atol=1e-6)
    finally:
        runtime.close()
    runtime.close()  # twice does no harm


def test_names_are_distinct_and_files_are_of_known_variants() -> None:
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES)
    assert all(set(runtime.files) <= set(VARIANTS) for runtime in RUNTIMES)
    assert OnnxRuntimeCuda.files == OnnxRuntimeCpu.files == ONNX_FILES


def test_half_precision_is_not_taken_to_be_independent_of_the_batch_on_a_gpu() -> None:
    assert OnnxRuntimeCuda.dependent == {FP16}
    assert OnnxRuntimeCpu.dependent == set()
    native = VARIANTS[NATIVE]
    assert OnnxRuntimeCuda().tolerances(native) == (1e-5, 1e-5, native.cosine)


def test_a_graph_whose_outputs_are_in_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="in this order"):
        check_output_names(["token_embeddings", "sentence_embedding"])


class FakeSession:
    """What onnxruntime would say of a session, as far as the proof asks."""

    def __init__(self, providers: list[str], placement: dict[str, str]) -> None:
        self._providers, self._placement = providers, placement

    def get_providers(self) -> list[str]:
        return self._providers

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("sentence_embedding", "token_embeddings")]

    def disable_fallback(self) -> None:
        self.fallback_disabled = True

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=ep, get_nodes=lambda op=op: [SimpleNamespace(op_type=op)])
            for op, ep in self._placement.items()
        ]

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        return [np.zeros((2, 12), np.float32), np.zeros((2, 3, 12), np.float32)]


def fake(monkeypatch: pytest.MonkeyPatch, session: FakeSession) -> dict[str, Any]:
    asked: dict[str, Any] = {}

    def make(path: str, options: onnxruntime.SessionOptions, providers: list[Any]) -> FakeSession:
        if providers == [CPU]:
            return FakeSession([CPU], {})
        asked["providers"] = providers
        asked["records placement"] = options.get_session_config_entry("session.record_ep_graph_assignment_info")
        return session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return asked


def test_cuda_counts_where_every_lstm_and_gather_is_on_it(
    monkeypatch: pytest.MonkeyPatch, artifact_folder: Path
) -> None:
    session = FakeSession([CUDA, CPU], {"LSTM": CUDA, "Gather": CUDA, "Shape": CPU})
    asked = fake(monkeypatch, session)
    runtime = OnnxRuntimeCuda()
    runtime.load(artifact_folder / ONNX_FILE)
    runtime.run(IDS, MASK)
    assert asked == {"providers": [(CUDA, {"use_tf32": "0"}), CPU], "records placement": "1"}
    assert session.fallback_disabled
    assert runtime.describe()["placement"] == f"LSTM on {CUDA}, Gather on {CUDA}"


@pytest.mark.parametrize(
    ("providers", "placement", "reason"),
    [
        ([CPU], {"LSTM": CPU, "Gather": CPU}, "fell back to the CPU"),
        ([CUDA, CPU], {"LSTM": CPU, "Gather": CUDA}, f"LSTM on {CPU}"),
        ([CUDA, CPU], {"LSTM": CUDA, "Gather": CPU}, f"Gather on {CPU}"),
        ([CUDA, CPU], {}, "no LSTM or Gather at all"),
    ],
)
def test_cuda_that_did_not_do_the_work_was_not_run(
    providers: list[str],
    placement: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    artifact_folder: Path,
) -> None:
    fake(monkeypatch, FakeSession(providers, placement))
    with pytest.raises(NotRunnable, match=reason):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)


def test_a_fall_back_during_a_run_is_noticed(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    session = FakeSession([CUDA, CPU], {"LSTM": CUDA, "Gather": CUDA})
    fake(monkeypatch, session)
    runtime = OnnxRuntimeCuda()
    runtime.load(artifact_folder / ONNX_FILE)
    session._providers = [CPU]
    with pytest.raises(NotRunnable, match="fell back"):
        runtime.run(IDS, MASK)


def test_without_cuda_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(NotRunnable, match="install onnxruntime-gpu"):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)


def test_without_onnxruntime_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for kind in (OnnxRuntimeCpu, OnnxRuntimeCuda):
        with pytest.raises(NotRunnable, match=r"not installed; install lengthwise\[cpu\]"):
            kind().load(artifact_folder / ONNX_FILE)


def test_a_session_that_cannot_be_made_on_cuda_was_not_run(
    monkeypatch: pytest.MonkeyPatch, artifact_folder: Path
) -> None:
    original = onnxruntime.InferenceSession

    def refuse(path: str, options: onnxruntime.SessionOptions, providers: list[Any]) -> onnxruntime.InferenceSession:
        if providers == [CPU]:
            return original(path, options, providers=providers)
        raise RuntimeError("libcudnn is missing")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(NotRunnable, match="libcudnn is missing"):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)


def test_a_file_that_is_wrong_fails_on_cuda_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"(?i)protobuf") as raised:
        OnnxRuntimeCuda().load(tmp_path / "model.onnx")
    assert raised.type is not NotRunnable


@pytest.mark.gpu
@pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers(), reason="onnxruntime has no CUDA here: parity on CUDA was not run"
)
def test_the_gpu_gives_the_same_vectors(artifact_folder: Path) -> None:
    for verdict in validate_artifact(Artifact.open(artifact_folder), [OnnxRuntimeCuda]).verdicts:
        if verdict.variant == NATIVE and verdict.status == "not run":
            pytest.skip(f"parity on CUDA was not run: {verdict.reason}")
        if VARIANTS[verdict.variant].exact:
            assert verdict.status == "passed", verdict.reason
