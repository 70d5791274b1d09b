"""The runtimes that an artifact is validated on, one small file each behind `base.Runtime`."""

from export.runtimes.base import NotRunnable, Outputs, Runtime
from export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from export.runtimes.pytorch import PyTorchEager, PyTorchStepwise
from export.runtimes.torchscript import TorchScript

RUNTIMES: tuple[type[Runtime], ...] = (PyTorchEager, PyTorchStepwise, OnnxRuntimeCpu, OnnxRuntimeCuda, TorchScript)

__all__ = ["RUNTIMES", "NotRunnable", "Outputs", "Runtime"]
