"""The graphs of an artifact: one function, as several kinds of runtime can run it.

Only names, files and what is asked of each: `graphs.rewrite` makes them, `validation.validate` judges them. Nothing
here needs PyTorch or onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NATIVE, PORTABLE, FP16, INT8, INT8_DYNAMIC = "native", "portable", "fp16", "int8", "int8_dynamic"


@dataclass(frozen=True)
class Variant:
    """A graph of an artifact.

    Attributes:
        file: where it is in the artifact.
        what: a line for people.
        difference: the largest difference from PyTorch in float32 that passes; 0 where the runtime's own tolerance
            decides, which is that of float32.
        cosine: the smallest cosine of a vector to PyTorch's that passes.
        independent: whether a vector depends on its text alone. Where it does not, the graph never passes.
        contrib: whether it needs an operator of onnxruntime that is not in the ONNX standard.
    """

    name: str
    file: str
    what: str
    difference: float = 0.0
    cosine: float = 1 - 1e-5
    independent: bool = True
    contrib: bool = False

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return self.difference == 0


# Below float32, the cosine is the criterion and the difference a guard against single wrong values: half precision
# keeps 11 bits of every weight, 8-bit weights and activations 7 to 8.
_ALL = (
    Variant(NATIVE, "onnx/model.onnx", "one ONNX LSTM a layer, told the lengths through `sequence_lens`"),
    Variant(
        PORTABLE,
        "onnx/model_portable.onnx",
        "no `sequence_lens`: forward LSTMs from explicit zero states, reversal and last step by gathering",
    ),
    Variant(FP16, "onnx/model_fp16.onnx", "embedding and LSTM in half precision", 0.01, 0.999),
    Variant(
        INT8,
        "onnx/model_int8.onnx",
        "8-bit embedding and LSTM, activations quantised over fixed ranges",
        0.1,
        0.99,
        contrib=True,
    ),
    Variant(
        INT8_DYNAMIC,
        "onnx/model_int8_dynamic.onnx",
        "8-bit embedding and LSTM, activations quantised over the range of the batch: a vector depends on its batch",
        0.1,
        0.99,
        independent=False,
        contrib=True,
    ),
)
VARIANTS: Mapping[str, Variant] = MappingProxyType({variant.name: variant for variant in _ALL})
