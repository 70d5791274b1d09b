"""The largest difference from PyTorch in float32 that passes on each runtime.

A table of its own, so that building an artifact can record the tolerances without importing any runtime; a test
keeps it equal to the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CPU_TOLERANCE, GPU_TOLERANCE = 1e-6, 1e-5
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {
        "pytorch (packed batches)": CPU_TOLERANCE,
        "pytorch (step-wise)": CPU_TOLERANCE,
        "pytorch (cuda)": GPU_TOLERANCE,
        "onnxruntime cpu": CPU_TOLERANCE,
        "onnxruntime cuda": GPU_TOLERANCE,
        "onnxruntime-node": CPU_TOLERANCE,
        "onnxruntime-web (wasm)": CPU_TOLERANCE,
        "openvino": CPU_TOLERANCE,
        "tract": CPU_TOLERANCE,
        "opencv": CPU_TOLERANCE,
        "iree": CPU_TOLERANCE,
        "onnx reference": CPU_TOLERANCE,
        "torchscript": CPU_TOLERANCE,
        "torch.export": CPU_TOLERANCE,
        "executorch": CPU_TOLERANCE,
        "litert": CPU_TOLERANCE,
        "core ml": CPU_TOLERANCE,
    }
)
