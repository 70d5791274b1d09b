"""Tools that people run over a model leave every graph loadable, and every vector as it was, bit for bit."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from lengthwise.export.graphs.variants import VARIANTS

OPSETS = (19, 21, 22)  # that onnx's converter goes to
BATCHES = [(1, 1), (3, 7), (5, 4)]


def package(name: str) -> Any:
    """A module that is no dependency of ours; the test is skipped where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not installed, so its effect on the graphs was not seen")


def check(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


def infer_shapes(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def to_opset(opset: int) -> Callable[[onnx.ModelProto, Path], onnx.ModelProto]:
    return lambda model, scratch: onnx.version_converter.convert_version(model, opset)


def onnxsim(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    return package("onnxsim").simplify(model)[0]


def onnxoptimizer(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    return package("onnxoptimizer").optimize(model)


def onnxslim(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    return package("onnxslim").slim(model)


def optimized_by_onnxruntime(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(scratch / "optimized.onnx")


TOOLS: Mapping[str, Callable[[onnx.ModelProto, Path], onnx.ModelProto]] = {
    "checker": check,
    "strict shape inference": infer_shapes,
    **{f"opset {opset}": to_opset(opset) for opset in OPSETS},
    "onnxsim": onnxsim,
    "onnxoptimizer": onnxoptimizer,
    "onnxslim": onnxslim,
    "optimized by onnxruntime": optimized_by_onnxruntime,
}


def outputs(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    """All outputs of all batches, in which rows differ in length and one has no token."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng, found = np.random.default_rng(0), []
    for rows, columns in BATCHES:
        ids = rng.integers(20, size=(rows, columns))
        mask = (np.arange(columns) < rng.integers(0, columns + 1, (rows, 1))).astype(np.int64)
        found += session.run(None, {"input_ids": ids, "attention_mask": mask})
    return found


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_vectors_are_those_of_before(tool: str, variant: str, artifact_folder: Path, tmp_path: Path) -> None:
    path = artifact_folder / VARIANTS[variant].file
    changed = TOOLS[tool](onnx.load(path), tmp_path)
    for ours, theirs in zip(outputs(onnx.load(path)), outputs(changed), strict=True):
        np.testing.assert_array_equal(theirs, ours)
