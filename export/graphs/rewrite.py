"""The table of rewrites: how each other graph of an artifact is made from the native one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx

from lengthwise.config import EncoderConfig
from lengthwise.export.graphs.fp16 import to_fp16
from lengthwise.export.graphs.int8 import to_int8, to_int8_dynamic
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.variants import EXECUTORCH, FP16, INT8, INT8_DYNAMIC, PORTABLE

REWRITES: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = MappingProxyType(
    {PORTABLE: to_portable, FP16: to_fp16, INT8: to_int8, INT8_DYNAMIC: to_int8_dynamic}
)


def missing_variants(config: EncoderConfig) -> dict[str, str]:
    """The graphs that an encoder cannot have, and why."""
    missing = {}
    if config.cell == "gru":
        missing[INT8_DYNAMIC] = "onnxruntime has no DynamicQuantizeGRU; the graph int8 stores a GRU's weights in 8 bits"
    if config.padding is not None and config.padding.truncate is None:
        missing[EXECUTORCH] = "ExecuTorch has no sym_max, the larger of two lengths, which padding without a cut needs"
    return missing
