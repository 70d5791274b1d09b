"""onnxruntime on CUDA: never taken for granted. Its logic is tested here on a session that only says it is on CUDA."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lengthwise.batching.costs import PADDED_CUDA
from lengthwise.encoder.checkpoint import load_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.errors import LengthwiseError
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import FP16, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.onnxruntime import (
    OnnxRuntimeCuda,
    is_oom,
    preload_libraries,
    run_bound,
)
from lengthwise.export.runtimes.placement import Placement
from lengthwise.export.validation.cases import grid_cases
from lengthwise.export.validation.validate import validate_artifact

IDS, MASK = np.array([[2, 3, 4], [5, 6, 0]], np.int64), np.array([[1, 1, 1], [1, 0, 0]], np.int64)
FEEDS = {"input_ids": IDS, "attention_mask": MASK}
ONNX_FILE = VARIANTS[NATIVE].file
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
Session = onnxruntime.InferenceSession


class FakeBinding:
    """A binding of a session on the CPU that takes cuda for cpu."""

    def __init__(self, real: Any, devices: list[str]) -> None:
        self.real, self._devices = real, devices

    def bind_output(self, name: str, device: str) -> None:
        self._devices.append(f"{name} on {device}")
        self.real.bind_output(name, "cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class FakeSession:
    """A session on the CPU that reports what onnxruntime reports of one on CUDA.

    `ran`: by operator, the provider in the profile. `assigned`: the provider in the assignment; by default the same.
    """

    def __init__(
        self, providers: list[str], ran: dict[str, str], assigned: dict[str, str] | None = None, error: str = ""
    ) -> None:
        self.providers, self.ran, self.assigned = providers, ran, ran if assigned is None else assigned
        self.error, self.devices, self.profile = error, list[str](), Path()

    def start(self, path: str, prefix: str) -> None:
        self.real, self.profile = Session(path, providers=[CPU]), Path(prefix + ".json")

    def get_providers(self) -> list[str]:
        return self.providers

    def get_outputs(self) -> list[Any]:
        return self.real.get_outputs()

    def get_modelmeta(self) -> Any:
        return self.real.get_modelmeta()

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=ep, get_nodes=lambda op=op: [SimpleNamespace(op_type=op)])
            for op, ep in self.assigned.items()
        ]

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self.real.io_binding(), self.devices)

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        if self.error:
            raise RuntimeError(self.error)
        self.real.run_with_iobinding(binding.real)

    def end_profiling(self) -> str:
        events = [
            {"cat": "Node", "name": f"node_{op}_kernel_time", "args": {"op_name": op, "provider": provider}}
            for op, provider in self.ran.items()
        ]
        self.profile.write_text(json.dumps(events))
        return str(self.profile)


ON_CUDA, ON_CPU = {"LSTM": CUDA, "Gather": CUDA}, {"LSTM": CPU, "Gather": CPU}


def fake(monkeypatch: pytest.MonkeyPatch, session: FakeSession) -> dict[str, Any]:
    calls: dict[str, Any] = {}

    def make(path: str, options: onnxruntime.SessionOptions, providers: list[Any], enable_fallback: int) -> Any:
        if providers == [CPU]:
            return Session(path, options, providers=providers)
        calls["providers"], calls["enable_fallback"] = providers, enable_fallback
        calls["records placement"] = options.get_session_config_entry("session.record_ep_graph_assignment_info")
        session.start(path, options.profile_file_prefix)
        return session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return calls


def test_cuda_counts_as_run_if_every_lstm_and_gather_is_on_it(
    monkeypatch: pytest.MonkeyPatch, artifact_folder: Path
) -> None:
    session = FakeSession([CUDA, CPU], {**ON_CUDA, "Shape": CPU, "MemcpyToHost": CUDA})
    calls = fake(monkeypatch, session)
    runtime = OnnxRuntimeCuda()
    runtime.load(artifact_folder / ONNX_FILE)
    runtime.run(IDS, MASK)
    assert calls == {"providers": [(CUDA, {"use_tf32": "0"}), CPU], "records placement": "1", "enable_fallback": 0}
    described = runtime.describe()
    assert described["placement"] == f"LSTM on {CUDA}, Gather on {CUDA}"
    assert described["nodes"] == f"2 on {CUDA}"
    assert described["nodes elsewhere"] == f"Shape on {CPU}"
    assert described["copies"] == "1 MemcpyToHost"
    assert not session.profile.exists()
    assert runtime.placement is not None
    assert len(runtime.placement.copies) == 1


@pytest.mark.parametrize(
    ("providers", "ran", "assigned", "reason"),
    [
        ([CPU], ON_CPU, None, "fell back to the CPU"),
        ([CUDA, CPU], {"LSTM": CPU, "Gather": CUDA}, None, f"LSTM on {CPU}"),
        ([CUDA, CPU], {"LSTM": CUDA, "Gather": CPU}, None, f"Gather on {CPU}"),
        ([CUDA, CPU], {}, None, "no LSTM, GRU or Gather at all"),
        ([CUDA, CPU], ON_CPU, ON_CUDA, f"Gather on {CPU}, LSTM on {CPU}"),
        ([CUDA, CPU], {"Gather": CUDA}, ON_CUDA, "no LSTM, GRU or Gather at all"),
    ],
)
def test_cuda_that_did_not_run_the_nodes_is_not_run(
    providers: list[str],
    ran: dict[str, str],
    assigned: dict[str, str] | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    artifact_folder: Path,
) -> None:
    fake(monkeypatch, FakeSession(providers, ran, assigned))
    with pytest.raises(NotRunnable, match=reason):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)


def test_unreadable_profile_is_reported_as_not_known(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    fake(monkeypatch, FakeSession([CUDA, CPU], {}, ON_CUDA))
    runtime = OnnxRuntimeCuda()
    runtime.load(artifact_folder / ONNX_FILE)
    assert runtime.placement is None
    assert runtime.describe()["copies"].startswith("not known: its profile cannot be read")


def test_failing_first_batch_is_not_run(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    fake(monkeypatch, FakeSession([CUDA, CPU], ON_CUDA, error="no kernel image is available"))
    with pytest.raises(NotRunnable, match=r"a first batch fails on CUDA here \(no kernel image is available\)"):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)


def test_fallback_during_a_run_is_detected(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    session = FakeSession([CUDA, CPU], ON_CUDA)
    fake(monkeypatch, session)
    runtime = OnnxRuntimeCuda()
    runtime.load(artifact_folder / ONNX_FILE)
    session.providers = [CPU]
    with pytest.raises(NotRunnable, match="fell back"):
        runtime.run(IDS, MASK)


def test_missing_cuda_has_a_remedy(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(onnxruntime, "cuda_version", "")
    with pytest.raises(NotRunnable, match=r"is built without CUDA.*install onnxruntime-gpu"):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    with pytest.raises(NotRunnable, match=r"built for CUDA 13\.0, has no CUDA provider here"):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)


def test_session_that_cannot_be_opened_on_cuda_is_not_run(
    monkeypatch: pytest.MonkeyPatch, artifact_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, options: onnxruntime.SessionOptions, providers: list[Any], **others: Any) -> Session:
        if providers == [CPU]:
            return Session(path, options, providers=providers)
        raise RuntimeError("libcudnn is missing")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda **_: sys.stdout.write("Failed to load libcublas"))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    reason = r"\(libcudnn is missing\); its messages on CUDA's libraries: Failed to load libcublas"
    with pytest.raises(NotRunnable, match=reason):
        OnnxRuntimeCuda().load(artifact_folder / ONNX_FILE)
    assert capsys.readouterr() == ("", "")


def test_damaged_file_fails_on_cuda_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"(?i)protobuf") as raised:
        OnnxRuntimeCuda().load(tmp_path / "model.onnx")
    assert raised.type is not NotRunnable


# Libraries


def preloading_library(messages: str = "", error: Exception | None = None) -> tuple[Any, list[bool]]:
    """A library that prints messages when it preloads, and a record of its `cudnn` arguments."""
    calls: list[bool] = []

    def preload_dlls(cudnn: bool) -> None:
        calls.append(cudnn)
        sys.stdout.write(messages)
        if error is not None:
            raise error

    return SimpleNamespace(preload_dlls=preload_dlls), calls


@pytest.mark.parametrize(("cuda", "times"), [(None, 1), ("13.0", 0)])
def test_libraries_are_preloaded_unless_pytorch_has_loaded_them(
    cuda: str | None, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, calls = preloading_library()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=cuda)))
    assert preload_libraries(library) == ""
    assert calls == [True] * times


def test_messages_on_libraries_are_part_of_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    library, calls = preloading_library("Failed to load libcudart.so.13:\n no such file\n", RuntimeError("and more"))
    messages = "; its messages on CUDA's libraries: Failed to load libcudart.so.13: no such file and more"
    assert preload_libraries(library, cudnn=False) == messages
    assert calls == [False]
    assert capsys.readouterr().out == ""


# The path that encodes


@pytest.mark.parametrize("variant", VARIANTS)
def test_bound_batch_equals_a_plain_run(variant: str, artifact_folder: Path) -> None:
    session = Session(artifact_folder / VARIANTS[variant].file, providers=[CPU])
    names = ["sentence_embedding", "token_embeddings"]
    every_second = {name: np.repeat(values, 2, axis=0)[::2] for name, values in FEEDS.items()}  # not contiguous
    for feeds in (FEEDS, every_second):
        plain = session.run(names, FEEDS)
        for requested in (names, names[:1], names[::-1]):
            bound = run_bound(session, requested, feeds, "cpu")
            assert len(bound) == len(requested)
            for name, values in zip(requested, bound, strict=True):
                np.testing.assert_array_equal(values, plain[names.index(name)])


def test_encoding_fetches_vectors_only_through_the_validated_path(
    monkeypatch: pytest.MonkeyPatch, artifact_folder: Path
) -> None:
    session = FakeSession([CUDA, CPU], ON_CUDA)
    fake(monkeypatch, session)
    runtime = OnnxRuntimeCuda()
    runtime.load(artifact_folder / ONNX_FILE)
    session.devices.clear()
    vectors = runtime.vectors(IDS, MASK)
    assert session.devices == ["sentence_embedding on cuda"]
    validated, states = runtime.run(IDS, MASK)
    assert session.devices[1:] == ["sentence_embedding on cuda", "token_embeddings on cuda"]
    np.testing.assert_array_equal(vectors, validated)
    plain = Session(artifact_folder / ONNX_FILE, providers=[CPU]).run(None, FEEDS)
    np.testing.assert_array_equal(vectors, plain[0])
    np.testing.assert_array_equal(states, plain[1])


def test_engine_on_cuda_runs_concurrent_batches(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    fake(monkeypatch, FakeSession([CUDA, CPU], ON_CUDA))
    artifact = Artifact.open(artifact_folder)
    engine, on_cpu = OnnxEngine(artifact, "cuda", workers=4), OnnxEngine(artifact, "cpu")
    assert (engine.name, engine.costs) == (f"onnxruntime cuda {ONNX_FILE}", PADDED_CUDA)
    batches = batches_of(engine.config.vocab_size)
    found = list(engine.run_all(lambda batch: engine.encode_batch(*batch), batches))
    for vectors, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(vectors, on_cpu.encode_batch(*batch))


def batches_of(vocab_size: int, number: int = 40) -> list[tuple[Any, Any]]:
    """Batches of 1 to 33 rows of 1 to 20 tokens."""
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 21, rng.integers(1, 34)) for _ in range(number)]
    return [(rng.integers(0, vocab_size, (len(rows), rows.max())), rows) for rows in lengths]


# Memory


FULL = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running LSTM node."
    " Status Message: void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for"
    " requested buffer of size 939524096",
    "Available memory of 0 is smaller than requested bytes of 256",
    "CUDA failure 2: out of memory",
    "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED",
)


def test_out_of_memory_errors_are_recognised() -> None:
    assert is_oom(MemoryError())
    assert all(is_oom(RuntimeError(words)) for words in FULL)
    assert not is_oom(RuntimeError("CUDA failure 700: an illegal memory access was encountered"))


def test_batch_that_does_not_fit_on_a_gpu_is_split(
    monkeypatch: pytest.MonkeyPatch, artifact_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake(monkeypatch, FakeSession([CUDA, CPU], ON_CUDA))
    engine = OnnxEngine(Artifact.open(artifact_folder), "cuda")
    fits, seen = OnnxRuntimeCuda.vectors, list[int]()

    def limited(self: OnnxRuntimeCuda, input_ids: Any, attention_mask: Any) -> Any:
        seen.append(len(input_ids))
        if len(input_ids) > 2 or input_ids.shape[1] > 30:
            raise RuntimeError(FULL[0])
        return fits(self, input_ids, attention_mask)

    ids, lengths = np.random.default_rng(0).integers(0, 20, (5, 9)), np.array([9, 3, 1, 9, 2])
    right = engine.encode_batch(ids, lengths)
    monkeypatch.setattr(OnnxRuntimeCuda, "vectors", limited)
    np.testing.assert_allclose(engine.encode_batch(ids, lengths), right, atol=1e-6, rtol=0)
    assert seen == [5, 2, 3, 1, 2]
    assert caplog.text.count("does not fit into memory; halved") == 2
    with pytest.raises(LengthwiseError, match=r"one text of 31 tokens does not fit into the memory of cuda; set"):
        engine.encode_batch(np.ones((1, 31), np.int64), np.array([31]))
    monkeypatch.setattr(OnnxRuntimeCuda, "vectors", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        engine.encode_batch(ids, lengths)


# On a GPU


@pytest.fixture
def on_gpu(artifact_folder: Path) -> OnnxRuntimeCuda:
    """The native graph on a GPU; skips, with the reason, where there is none."""
    runtime = OnnxRuntimeCuda()
    try:
        runtime.load(artifact_folder / ONNX_FILE)
    except NotRunnable as reason:
        pytest.skip(f"CUDA was not run: {reason}")
    return runtime


@pytest.fixture
def gpu_engine(on_gpu: OnnxRuntimeCuda, artifact_folder: Path) -> OnnxEngine:
    return OnnxEngine(Artifact.open(artifact_folder), "cuda", workers=4)


@pytest.mark.gpu
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("variant", [NATIVE, PORTABLE, FP16])
def test_gpu_gives_the_same_vectors(variant: str, artifact_folder: Path) -> None:
    """Over the whole grid, every id, and rows in other batches: to 1e-5, in half precision to a cosine of 0.999."""
    verdicts = validate_artifact(Artifact.open(artifact_folder), [OnnxRuntimeCuda]).verdicts
    (verdict,) = (verdict for verdict in verdicts if verdict.variant == variant)
    assert verdict.status != "not run", verdict.reason
    if VARIANTS[variant].exact:
        assert verdict.status == "passed", verdict.reason
        assert verdict.comparison.difference is not None
        assert verdict.comparison.difference <= 1e-5
    assert verdict.comparison.cosine is not None
    assert verdict.comparison.cosine >= VARIANTS[variant].cosine


@pytest.mark.gpu
def test_on_a_gpu_only_the_lengths_are_copied(on_gpu: OnnxRuntimeCuda) -> None:
    placement = on_gpu.placement
    assert isinstance(placement, Placement)
    assert {node.provider for node in placement.nodes if node.op in ("LSTM", "Gather")} == {CUDA}
    assert [node.op for node in placement.copies] == ["MemcpyToHost"], on_gpu.describe()


@pytest.mark.gpu
def test_gpu_encoding_equals_validation(on_gpu: OnnxRuntimeCuda) -> None:
    for case in grid_cases(20):
        vectors, _ = on_gpu.run(case.input_ids, case.attention_mask)
        alone = on_gpu.vectors(case.input_ids, case.attention_mask)
        np.testing.assert_allclose(alone, vectors, atol=1e-6, rtol=0)


@pytest.mark.gpu
def test_gpu_vectors_equal_cpu_vectors_with_several_workers(gpu_engine: OnnxEngine, artifact_folder: Path) -> None:
    on_cpu = OnnxEngine(Artifact.open(artifact_folder), "cpu")
    one_token = (np.array([[3], [4]]), np.array([1, 1]))
    batches = [one_token, *batches_of(gpu_engine.config.vocab_size, 200)]
    found = list(gpu_engine.run_all(lambda batch: gpu_engine.encode_batch(*batch), batches))
    for vectors, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(vectors, on_cpu.encode_batch(*batch), atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "tokens"), [(1, 32_768), (64, 2_048)])
def test_long_batch_on_a_gpu(rows: int, tokens: int, gpu_engine: OnnxEngine, artifact_folder: Path) -> None:
    right = StepwiseEncoder(load_encoder(artifact_folder))
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, gpu_engine.config.vocab_size, (rows, tokens)), rng.integers(1, tokens + 1, rows)
    lengths[0] = tokens
    found = gpu_engine.encode_batch(ids, lengths)
    np.testing.assert_allclose(found, right(ids, lengths), atol=1e-5, rtol=0)
