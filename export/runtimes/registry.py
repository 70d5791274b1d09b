"""The runtimes of a validation, in the order of the report."""

from lengthwise.export.runtimes.base import Runtime
from lengthwise.export.runtimes.devices import CoreMl, ExecuTorch, LiteRt
from lengthwise.export.runtimes.exported_program import ExportedProgram
from lengthwise.export.runtimes.iree import Iree
from lengthwise.export.runtimes.javascript import OnnxRuntimeNode, OnnxRuntimeWeb
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.runtimes.opencv import OpenCv
from lengthwise.export.runtimes.openvino import OpenVino
from lengthwise.export.runtimes.pytorch import PyTorchCuda, PyTorchEager, PyTorchStepwise
from lengthwise.export.runtimes.reference import Reference
from lengthwise.export.runtimes.torchscript import TorchScript
from lengthwise.export.runtimes.tract import Tract

RUNTIMES: tuple[type[Runtime], ...] = (
    PyTorchEager,
    PyTorchStepwise,
    PyTorchCuda,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    OnnxRuntimeNode,
    OnnxRuntimeWeb,
    OpenVino,
    Tract,
    OpenCv,
    Iree,
    Reference,
    TorchScript,
    ExportedProgram,
    ExecuTorch,
    LiteRt,
    CoreMl,
)
