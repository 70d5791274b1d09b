"""The environment of the checks: GPU, driver, libraries, and whether onnxruntime runs an LSTM on the GPU."""

from __future__ import annotations

import subprocess

import numpy as np

from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.cli.gpu.context import Check, Context, NotRun, Outcome, Section
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.util.system import cpu_count, cpu_model


def _gpu(context: Context) -> Outcome:
    import torch

    if context.rehearsal:
        return Outcome(f"none: a rehearsal on {cpu_model()}")
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
    return Outcome(f"{properties.name}, {memory}, compute capability {properties.major}.{properties.minor}")


def _driver(context: Context) -> Outcome:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotRun(f"nvidia-smi cannot be run ({error})") from error
    return Outcome(completed.stdout.split()[0])


def _torch(context: Context) -> Outcome:
    import torch

    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else "none"
    return Outcome(
        f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}", ok=torch.cuda.is_available()
    )


def _onnxruntime(context: Context) -> Outcome:
    encoder = SHAPES["small"].encoder(context.tokenizer.vocab_size)
    artifact = build_artifact(encoder, context.tokenizer, context.scratch / "small", variants=())
    runtime = OnnxRuntimeCpu() if context.rehearsal else OnnxRuntimeCuda()
    try:
        runtime.load(artifact.folder / VARIANTS[NATIVE].file)
        ids = np.zeros((2, 3), np.int64)
        runtime.run(ids, np.ones_like(ids))
    except NotRunnable as error:
        raise NotRun(str(error)) from error
    return Outcome("; ".join(f"{name} {value}" for name, value in runtime.describe().items()), ok=True)


def _cpu(context: Context) -> Outcome:
    return Outcome(f"{cpu_count()} cores, {cpu_model()}")


SECTION = Section(
    "environment",
    "Environment",
    (
        Check("GPU", "", _gpu),
        Check("driver", "", _driver),
        Check("PyTorch, CUDA, cuDNN", "PyTorch finds the GPU", _torch),
        Check("onnxruntime", "LSTM and Gather run on CUDA", _onnxruntime),
        Check("CPU", "", _cpu),
    ),
)
