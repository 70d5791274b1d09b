"""LSTM probes: small graphs that test the limits of a runtime's LSTM kernel against a reference.

Each is an embedding and one ONNX LSTM with `sequence_lens`. They cover the limits of onnxruntime's CUDA kernel: opsets
from 22 on, for which it has no kernel; the reverse direction, which starts at a row's own last token; a row of no
tokens, which cuDNN refuses; TF32, which changes values unless it is off; half precision; and a machine without cuDNN.
A runtime may be correct, or fall back to another provider and report that, or refuse; it may not be wrong silently.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.onnxruntime import CUDA_OPTIONS, import_onnxruntime, preload_libraries, run_bound

Direction = Literal["forward", "reverse", "bidirectional"]
Dtype = Literal["float32", "float16"]
Status = Literal["correct", "correct elsewhere", "wrong", "not run", "crashed"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OPSETS = (17, 18, 22)
DTYPES: tuple[Dtype, ...] = ("float32", "float16")
DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse", "bidirectional")
MIXED, WITH_ZEROS = (9, 1, 5, 12, 3, 12), (9, 0, 5, 12, 0, 1)
_OUTPUTS = ("Y", "Y_h")
_VOCAB, _EMBEDDING, _HIDDEN = 50, 64, 64  # wide enough for TF32 to show
_PADDING = 2  # columns beyond the longest row
_IR_VERSIONS = {17: 8, 18: 8, 22: 10}
_TOLERANCE, _SHORT_TOLERANCE = 1e-5, 1e-2  # float32; TF32 and half precision, which keep 10 bits
_SECONDS = 300


@dataclass(frozen=True)
class LstmProbe:
    """A graph and a batch.

    Attributes:
        opset: the graph's opset.
        dtype: float32 or float16, of weights and outputs.
        direction: the LSTM's direction.
        lengths: the lengths of the rows.
    """

    opset: int = 18
    dtype: Dtype = "float32"
    direction: Direction = "bidirectional"
    lengths: tuple[int, ...] = MIXED

    @property
    def name(self) -> str:
        """A description for people."""
        zeros = ", rows of no tokens" if 0 in self.lengths else ""
        return f"opset {self.opset}, {self.dtype}, {self.direction}{zeros}"

    @property
    def directions(self) -> int:
        """The number of the LSTM's directions."""
        return 2 if self.direction == "bidirectional" else 1


PROBES = tuple(LstmProbe(*values) for values in itertools.product(OPSETS, DTYPES, DIRECTIONS, (MIXED, WITH_ZEROS)))


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe on a runtime.

    Attributes:
        probe: the graph and the batch.
        provider: the requested provider.
        options: the provider's options.
        ran: whether there were outputs.
        reason: why there were none.
        placement: the provider that the LSTM was assigned to; empty if nothing ran.
        difference: the largest from the reference; infinite if a value is not a number, None if nothing ran.
        cudnn: whether cuDNN was loaded in the process after the run; None if the system does not say.
        crashed: whether the process ended without a result.
    """

    probe: LstmProbe
    provider: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)
    ran: bool = False
    reason: str = ""
    placement: str = ""
    difference: float | None = None
    cudnn: bool | None = None
    crashed: bool = False

    @property
    def tolerance(self) -> float:
        """The largest difference that counts as correct."""
        short = self.provider == CUDA and self.options.get("use_tf32", "1") != "0"
        return _SHORT_TOLERANCE if short or self.probe.dtype == "float16" else _TOLERANCE

    @property
    def status(self) -> Status:
        """The status of the result."""
        if self.crashed:
            return "crashed"
        if not self.ran or self.difference is None:
            return "not run"
        if not self.difference <= self.tolerance:
            return "wrong"
        return "correct" if self.placement == self.provider else "correct elsewhere"


def probe_model(probe: LstmProbe) -> onnx.ModelProto:
    """The graph: input_ids int64[sequence, batch] and sequence_lens int32[batch] to the outputs Y and Y_h of LSTM.

    Y is [sequence, directions, batch, hidden], Y_h [directions, batch, hidden].
    """
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(probe.dtype))
    lstm = helper.make_node(
        "LSTM",
        ["embedded", "W", "R", "B", "sequence_lens"],
        list(_OUTPUTS),
        name="lstm",
        hidden_size=_HIDDEN,
        direction=probe.direction,
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["embedded"], name="embedding"), lstm],
        "probe",
        [
            helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["sequence", "batch"]),
            helper.make_tensor_value_info("sequence_lens", onnx.TensorProto.INT32, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("Y", dtype, ["sequence", probe.directions, "batch", _HIDDEN]),
            helper.make_tensor_value_info("Y_h", dtype, [probe.directions, "batch", _HIDDEN]),
        ],
        [numpy_helper.from_array(values, name) for name, values in _weights(probe).items()],
    )
    opset = helper.make_opsetid("", probe.opset)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSIONS[probe.opset])
    onnx.checker.check_model(model, full_check=True)
    return model


def probe_batch(probe: LstmProbe) -> dict[str, NDArray[Any]]:
    """The inputs, with random ids in the padding."""
    shape = (max(probe.lengths) + _PADDING, len(probe.lengths))
    input_ids = np.random.default_rng(1).integers(_VOCAB, size=shape)
    return {"input_ids": input_ids, "sequence_lens": np.array(probe.lengths, np.int32)}


def probe_reference(probe: LstmProbe) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Y and Y_h in float64, row by row and step by step.

    As in https://onnx.ai/onnx/operators/onnx__LSTM.html: gates in the order i, o, f, c; states beyond a row's
    length are zero; the reverse direction starts at a row's last token; a row of no tokens keeps its first state, zero.
    """
    weights = {name: values.astype(np.float64) for name, values in _weights(probe).items()}
    input_ids = probe_batch(probe)["input_ids"]
    states = np.zeros((len(input_ids), probe.directions, len(probe.lengths), _HIDDEN))
    last = np.zeros((probe.directions, len(probe.lengths), _HIDDEN))
    for direction, (row, length) in itertools.product(range(probe.directions), enumerate(probe.lengths)):
        backwards = probe.direction == "reverse" or direction == 1
        hidden, cell = np.zeros(_HIDDEN), np.zeros(_HIDDEN)
        for step in reversed(range(length)) if backwards else range(length):
            embedded = weights["table"][input_ids[step, row]]
            gates = weights["W"][direction] @ embedded + weights["R"][direction] @ hidden
            gates += weights["B"][direction].reshape(2, -1).sum(axis=0)
            i, o, f, c = gates.reshape(4, -1)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(c)
            hidden = _sigmoid(o) * np.tanh(cell)
            states[step, direction, row] = hidden
        last[direction, row] = hidden
    return states, last


def run_probe(
    probe: LstmProbe, provider: str = CPU, options: Mapping[str, str] = CUDA_OPTIONS, *, cudnn: bool = True
) -> ProbeResult:
    """Run a probe in this process.

    Args:
        probe: the probe.
        provider: of onnxruntime, e.g. CUDAExecutionProvider; the CPU is the fallback.
        options: the provider's; the CPU has none.
        cudnn: whether to preload cuDNN. It may be loaded already, or be found without: see `run_probe_isolated` and
            `ProbeResult.cudnn`.
    """
    options = {} if provider == CPU else dict(options)
    messages = ""
    try:
        library = import_onnxruntime()
        if provider == CUDA:
            messages = preload_libraries(library, cudnn=cudnn)
        if provider not in library.get_available_providers():
            raise NotRunnable(f"onnxruntime {library.__version__} has no {provider} here")
        values, placement = _run(library, probe, provider, options)
    except Exception as error:  # onnxruntime raises its own types
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{messages}"
        return ProbeResult(probe, provider, options, reason=reason, cudnn=_cudnn_is_loaded())
    difference = max(
        float(np.nan_to_num(np.abs(found - expected), nan=np.inf).max())
        for found, expected in zip(values, probe_reference(probe), strict=True)
    )
    return ProbeResult(probe, provider, options, True, "", placement, difference, _cudnn_is_loaded())


def run_probe_isolated(
    probe: LstmProbe, provider: str = CPU, options: Mapping[str, str] = CUDA_OPTIONS, *, cudnn: bool = True
) -> ProbeResult:
    """As `run_probe`, in a process of its own, which has no libraries loaded yet and may crash."""
    request = {"probe": asdict(probe), "provider": provider, "options": dict(options), "cudnn": cudnn}
    command = [sys.executable, "-m", "lengthwise.export.validation.lstm_probe", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return ProbeResult(probe, provider, options, reason=f"no result in {_SECONDS} seconds", crashed=True)
    if done.returncode:
        last = " ".join(done.stderr.split())[-300:]
        reason = f"the process ended with {done.returncode}: {last}"
        return ProbeResult(probe, provider, options, reason=reason, crashed=True)
    return _result(json.loads(done.stdout.splitlines()[-1]))


def _run(
    library: Any, probe: LstmProbe, provider: str, options: Mapping[str, str]
) -> tuple[list[NDArray[np.floating]], str]:
    """Y and Y_h, and the provider of the LSTM."""
    settings = library.SessionOptions()
    settings.log_severity_level = 3  # errors
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(provider, dict(options)), *([CPU] if provider != CPU else [])]
    session = library.InferenceSession(
        probe_model(probe).SerializeToString(), settings, providers=providers, enable_fallback=0
    )
    device = "cuda" if provider in session.get_providers() and provider == CUDA else "cpu"
    values = run_bound(session, _OUTPUTS, probe_batch(probe), device)
    placement = {
        subgraph.ep_name
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
        if node.op_type == "LSTM"
    }
    return values, ", ".join(sorted(placement))


def _weights(probe: LstmProbe) -> dict[str, NDArray[Any]]:
    """Embeddings from N(0, 1), the rest uniformly from +-1/sqrt(hidden); rounded to the probe's dtype."""
    rng, edge = np.random.default_rng(0), _HIDDEN**-0.5
    weights = {"table": rng.normal(size=(_VOCAB, _EMBEDDING))}
    for name, shape in (("W", (4 * _HIDDEN, _EMBEDDING)), ("R", (4 * _HIDDEN, _HIDDEN)), ("B", (8 * _HIDDEN,))):
        weights[name] = rng.uniform(-edge, edge, (probe.directions, *shape))
    return {name: values.astype(probe.dtype) for name, values in weights.items()}


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))


def _cudnn_is_loaded() -> bool | None:
    try:
        return "libcudnn" in Path("/proc/self/maps").read_text()
    except OSError:
        return None


def _result(record: dict[str, Any]) -> ProbeResult:
    return ProbeResult(**{**record, "probe": _probe(record["probe"])})


def _probe(record: dict[str, Any]) -> LstmProbe:
    return LstmProbe(**{**record, "lengths": tuple(record["lengths"])})


def _main(argument: str) -> None:
    """The process of `run_probe_isolated`: JSON in, JSON out."""
    request = json.loads(argument)
    result = run_probe(_probe(request["probe"]), request["provider"], request["options"], cudnn=request["cudnn"])
    sys.stdout.write(f"\n{json.dumps(asdict(result))}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
