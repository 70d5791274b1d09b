"""The runtimes that an artifact is validated on, in the order of the report."""

from export.runtimes.base import Runtime
from export.runtimes.exported_program import ExportedProgram
from export.runtimes.javascript import OnnxRuntimeNode, OnnxRuntimeWeb
from export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from export.runtimes.openvino import OpenVino
from export.runtimes.pytorch import PyTorchCuda, PyTorchEager, PyTorchStepwise
from export.runtimes.reference import Reference
from export.runtimes.torchscript import TorchScript

RUNTIMES: tuple[type[Runtime], ...] = (
    PyTorchEager,
    PyTorchStepwise,
    PyTorchCuda,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    OnnxRuntimeNode,
    OnnxRuntimeWeb,
    OpenVino,
    Reference,
    TorchScript,
    ExportedProgram,
)
