"""The runtimes and their own guards; of CUDA, see test_runtimes_cuda.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lengthwise.export.graphs.variants import EVERY_VARIANT, FP16, NATIVE, ORT, PORTABLE, VARIANTS
from lengthwise.export.runtimes import NotRunnable, Runtime
from lengthwise.export.runtimes.base import ONNX_FILES, check_output_names
from lengthwise.export.runtimes.javascript import OnnxRuntimeWeb
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.runtimes.opencv import OpenCv
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.runtimes.tolerances import TOLERANCES
from lengthwise.export.runtimes.tract import Tract

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


REFUSE_LENGTHS = (Tract, OpenCv)  # see tests/export/validation/test_engines.py
PAIRS = [
    (kind, variant)
    for kind in RUNTIMES
    for variant in (NATIVE, PORTABLE)
    if variant in kind.files and not (variant == NATIVE and kind in REFUSE_LENGTHS)
]


@pytest.mark.parametrize(("kind", "variant"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_runtime_gives_both_outputs_and_a_description(kind: type[Runtime], variant: str, artifact_folder: Path) -> None:
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


def test_names_are_unique_and_variants_known() -> None:
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES)
    assert all(set(runtime.files) <= set(EVERY_VARIANT) for runtime in RUNTIMES)
    assert OnnxRuntimeCuda.files == ONNX_FILES
    assert OnnxRuntimeCpu.files == OnnxRuntimeWeb.files == {**ONNX_FILES, ORT: "ort/model.ort"}


def test_tolerance_table_equals_the_registry() -> None:
    assert {runtime.name: runtime.tolerance for runtime in RUNTIMES} == TOLERANCES


def test_half_precision_may_depend_on_the_batch_on_a_gpu() -> None:
    assert OnnxRuntimeCuda.dependent == {FP16}
    assert OnnxRuntimeCpu.dependent == set()
    native = VARIANTS[NATIVE]
    assert OnnxRuntimeCuda().tolerances(native) == (1e-5, 1e-5, native.cosine, 1.0)


def test_graph_with_swapped_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="in this order"):
        check_output_names(["token_embeddings", "sentence_embedding"])


def test_missing_onnxruntime_has_a_remedy(monkeypatch: pytest.MonkeyPatch, artifact_folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for kind in (OnnxRuntimeCpu, OnnxRuntimeCuda):
        with pytest.raises(NotRunnable, match=r"not installed; install lengthwise\[cpu\]"):
            kind().load(artifact_folder / ONNX_FILE)
