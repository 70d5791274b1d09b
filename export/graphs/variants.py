"""The graphs of an artifact: one function in several forms, for different runtimes and precisions.

Names, files and tolerances only; `graphs.rewrite` makes the graphs, `validation.validate` judges them. Needs neither
PyTorch nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NATIVE, PORTABLE, FP16, INT8, INT8_DYNAMIC = "native", "portable", "fp16", "int8", "int8_dynamic"
ORT, EXECUTORCH, LITERT, COREML, TEXT = "ort", "executorch", "litert", "coreml", "text"
LOGITS = "logits"  # the last output, of an encoder with labels
# The graphs that PyTorch runs, by variant.
TORCHSCRIPT_FILES: Mapping[str, str] = MappingProxyType(
    {NATIVE: "torchscript/model.pt", PORTABLE: "torchscript/model_portable.pt"}
)
PROGRAM_FILES: Mapping[str, str] = MappingProxyType({NATIVE: "pt2/model.pt2", PORTABLE: "pt2/model_portable.pt2"})


@dataclass(frozen=True)
class Variant:
    """A graph of an artifact.

    Attributes:
        name: the graph's name.
        file: its path in the artifact.
        what: one line for people.
        difference: the largest difference from PyTorch in float32 that passes, relative to the length of the vector or
            state where that is above 1; 0 if the runtime's own tolerance for float32 applies.
        cosine: the smallest cosine of a vector to PyTorch's that passes.
        labels: the largest share of rows that passes whose label differs from PyTorch's; of an encoder with labels.
        independent: whether a vector depends on its text alone; if not, the graph never passes.
        contrib: whether it needs an operator that only onnxruntime has.
    """

    name: str
    file: str
    what: str
    difference: float = 0.0
    cosine: float = 1 - 1e-5
    labels: float = 1.0
    independent: bool = True
    contrib: bool = False

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return self.difference == 0


# Below float32, the criteria are those of quality: the cosine of vectors, and the labels that change. The difference
# guards against single wrong values and a wrong length. Half precision keeps 11 bits of every weight, 8-bit weights and
# activations 7 to 8. In float32 a label changes only where two are equal but for rounding.
_ALL = (
    Variant(NATIVE, "onnx/model.onnx", "one ONNX LSTM per layer, with the lengths in `sequence_lens`"),
    Variant(
        PORTABLE,
        "onnx/model_portable.onnx",
        "no `sequence_lens`: forward LSTMs from explicit zero states; reversal and last state by GatherND",
    ),
    Variant(FP16, "onnx/model_fp16.onnx", "embedding and LSTM in half precision", 0.01, 0.999, 0.01),
    Variant(
        INT8,
        "onnx/model_int8.onnx",
        "8-bit embedding and LSTM, activations quantised over fixed ranges",
        0.1,
        0.99,
        0.05,
        contrib=True,
    ),
    Variant(
        INT8_DYNAMIC,
        "onnx/model_int8_dynamic.onnx",
        "8-bit embedding and LSTM, activations quantised over the range of the batch: a vector depends on its batch",
        0.1,
        0.99,
        0.05,
        independent=False,
        contrib=True,
    ),
)
VARIANTS: Mapping[str, Variant] = MappingProxyType({variant.name: variant for variant in _ALL})

# For phones and browsers, each in the format of one runtime; made only when asked for.
_DEVICES = (
    Variant(
        ORT,
        "ort/model.ort",
        "the native graph in onnxruntime's own format, which its builds without ONNX read, as those of phones are",
    ),
    Variant(EXECUTORCH, "executorch/model.pte", "an ExecuTorch program: a scan over the steps, for any length"),
    Variant(LITERT, "litert/model.tflite", "a LiteRT (TensorFlow Lite) model: a loop over the steps, for any length"),
    Variant(COREML, "coreml/model.mlpackage/Manifest.json", "a Core ML model, for any length; the folder is the model"),
    Variant(
        TEXT,
        "text/model.onnx",
        "text in, vector out: the native graph behind its tokenizer, for onnxruntime with onnxruntime-extensions",
    ),
)
DEVICE_VARIANTS: Mapping[str, Variant] = MappingProxyType({variant.name: variant for variant in _DEVICES})
EVERY_VARIANT: Mapping[str, Variant] = MappingProxyType({**VARIANTS, **DEVICE_VARIANTS})
ORT_OPERATORS_FILE = "ort/required_operators_and_types.config"  # what a reduced build of onnxruntime needs to have
