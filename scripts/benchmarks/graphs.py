"""Time per batch of each ONNX graph, against the native one: onnxruntime on the CPU, one thread per session."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import onnx

from lengthwise.cli.benchmarks.harness import Result, alternate, median, ratios
from lengthwise.cli.benchmarks.models import SHAPES
from lengthwise.export.graphs.rewrite import REWRITES
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import NATIVE
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.validation.cases import speed_cases
from lengthwise.export.validation.compare import scaled_difference

VOCAB_SIZE = 8_000


def measure(shape_name: str, runs: int) -> Result:
    """Measure milliseconds per batch, and the difference of the vectors from the native graph's."""
    shape = SHAPES[shape_name]
    native = trace_to_onnx(shape.encoder(VOCAB_SIZE), {})
    graphs = {NATIVE: native, **{name: rewrite(native) for name, rewrite in REWRITES.items()}}
    with tempfile.TemporaryDirectory() as scratch:
        sessions = {name: _session(graph, Path(scratch) / f"{name}.onnx") for name, graph in graphs.items()}
    result = Result("graphs")
    for case in speed_cases(VOCAB_SIZE):
        input_ids, mask = case.input_ids, case.attention_mask
        vectors = {name: session.vectors(input_ids, mask) for name, session in sessions.items()}
        sides = {name: partial(session.vectors, input_ids, mask) for name, session in sessions.items()}
        seconds = alternate(sides, runs, case.name)
        result.table(
            f"{shape}, a batch of {case.name} tokens, {runs} alternating runs, one thread",
            ["graph", "ms", "times as fast as native", "largest difference of a vector"],
            [
                [
                    name,
                    f"{1e3 * median(seconds[name]):.2f}",
                    ratios(seconds[name], seconds[NATIVE]),
                    f"{scaled_difference(vectors[name], vectors[NATIVE]).max():.1e}",
                ]
                for name in sides
            ],
        )
    return result


def _session(graph: onnx.ModelProto, path: Path) -> OnnxRuntimeCpu:
    onnx.save(graph, path)
    runtime = OnnxRuntimeCpu(threads=1)  # idle threads of the other sessions would spin on the CPU
    runtime.load(path)
    return runtime
