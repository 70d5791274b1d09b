"""The engine of a server: a graph on onnxruntime, or the artifact's weights in PyTorch, which has int8 and bf16 too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lengthwise.errors import LengthwiseError
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import FP16, INT8, VARIANTS
from lengthwise.export.runtimes.tolerances import CPU_TOLERANCE, GPU_TOLERANCE
from lengthwise.export.server.settings import ServeSettings
from lengthwise.util.system import cpu_count

if TYPE_CHECKING:
    from lengthwise.encoder.engine import Engine
    from lengthwise.encoder.state_cache import StateCache
    from lengthwise.encoder.torch_engine import TorchEngine


@dataclass(frozen=True)
class ServedEngine:
    """An engine and what a server has to know of it.

    Attributes:
        engine: runs batches, `workers` at a time.
        graph: the graph, or in PyTorch the precision.
        independent: whether a vector depends on its text alone.
        tolerance: the largest difference from the golden vectors that passes.
        in_float32: whether it computes in float32.
    """

    engine: Engine
    graph: str
    workers: int
    independent: bool
    tolerance: float
    in_float32: bool


def open_engine(artifact: Artifact, settings: ServeSettings) -> ServedEngine:
    """The engine that the settings name, on an artifact.

    Raises:
        ArtifactError: it cannot run with these settings.
        LengthwiseError: PyTorch cannot compute in this precision on this device.
    """
    workers = settings.workers or (cpu_count() if settings.device == "cpu" else None)
    if settings.engine == "torch":
        return _open_torch(artifact, settings, workers)
    engine = OnnxEngine(artifact, settings.device, workers, settings.variant)
    variant = VARIANTS[engine.variant]
    return ServedEngine(engine, variant.name, engine.workers, variant.independent, engine.tolerance, variant.exact)


def _open_torch(artifact: Artifact, settings: ServeSettings, workers: int | None) -> ServedEngine:
    import torch

    from lengthwise.encoder.checkpoint import load_encoder
    from lengthwise.encoder.torch_engine import TorchEngine

    precision = settings.precision or "fp32"
    engine = TorchEngine(load_encoder(artifact.folder), settings.device, precision, workers)
    on_gpu = engine.device.type == "cuda"
    engine.reference = None  # a server compares with the golden vectors instead, and need not keep its weights
    torch.set_num_threads(1)  # of each batch, as in `TorchEngine.run_all`
    tolerances = {
        "fp32": GPU_TOLERANCE if on_gpu else CPU_TOLERANCE,
        "int8": VARIANTS[INT8].difference,
        "bf16": VARIANTS[INT8].difference,
        "fp16": VARIANTS[FP16].difference,
    }
    return ServedEngine(engine, precision, workers or engine.workers, True, tolerances[precision], precision == "fp32")


def cache_states(engine: Engine, settings: ServeSettings) -> StateCache | str:
    """What an engine keeps from batch to batch from now on; or why it keeps nothing."""
    if settings.engine != "torch":
        return "no states are kept: only the engine torch keeps them"
    if not settings.state_cache_bytes:
        return "no states are kept: state_cache_bytes is 0"
    try:
        return cast("TorchEngine", engine).cache_states(settings.state_cache_bytes)
    except LengthwiseError as error:
        return str(error)
