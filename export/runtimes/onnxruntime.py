"""onnxruntime, on the CPU and on CUDA.

A session that is asked for CUDA and does not get it runs on the CPU and says so only on stderr. So the CUDA
runtime counts as run only with proof: no fallback is allowed, the provider is still CUDA after a run, and every
LSTM and Gather was placed on it. Anything less is "not run".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.runtimes.base import OUTPUT_NAMES, NotRunnable, Outputs, Runtime, check_output_names
from export.variants import FP16

if TYPE_CHECKING:
    import onnxruntime

CUDA_OPTIONS: Mapping[str, str] = MappingProxyType({"use_tf32": "0"})
_CUDA = "CUDAExecutionProvider"
_LSTMS = ("LSTM", "DynamicQuantizeLSTM")
_ON_CUDA = (*_LSTMS, "Gather")


class OnnxRuntimeCpu(Runtime):
    """onnxruntime's CPU provider."""

    name = "onnxruntime cpu"
    _providers: tuple[str | tuple[str, dict[str, str]], ...] = ("CPUExecutionProvider",)

    def __init__(self, threads: int = 0) -> None:
        """`threads` compute one batch; 0 leaves it to onnxruntime."""
        self._threads = threads

    def load(self, path: Path) -> None:
        self._open(str(path))

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors, states = self._session.run(OUTPUT_NAMES, feeds)
        return vectors, states

    def vectors(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """sentence_embedding alone."""
        (vectors,) = self._session.run(OUTPUT_NAMES[:1], {"input_ids": input_ids, "attention_mask": attention_mask})
        return vectors

    def describe(self) -> dict[str, str]:
        return {"onnxruntime": _onnxruntime().__version__, "providers": ", ".join(self._session.get_providers())}

    def _open(self, model: str | bytes) -> None:
        """Start a session."""
        session = _onnxruntime().InferenceSession(model, self._options(), providers=list(self._providers))
        check_output_names([output.name for output in session.get_outputs()])
        self._session = session

    def _options(self) -> onnxruntime.SessionOptions:
        options = _onnxruntime().SessionOptions()
        options.intra_op_num_threads = self._threads
        return options


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """onnxruntime's CUDA provider, with TF32 off."""

    name = "onnxruntime cuda"
    tolerance = 1e-5
    dependent = frozenset({FP16})  # computed in half precision, in tiles that follow the batch; not measured yet
    _providers = ((_CUDA, dict(CUDA_OPTIONS)), "CPUExecutionProvider")

    def load(self, path: Path) -> None:
        library = _onnxruntime()
        if _CUDA not in library.get_available_providers():
            raise NotRunnable(
                f"onnxruntime {library.__version__} is built without CUDA; on a machine with an NVIDIA GPU install"
                " onnxruntime-gpu instead of onnxruntime"
            )
        OnnxRuntimeCpu(threads=1).load(path)  # what is wrong with the file is no reason not to run it
        try:
            super().load(path)
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            reason = " ".join(str(error).split())[:200]
            raise NotRunnable(f"onnxruntime gives no session on CUDA here ({reason})") from error
        self._session.disable_fallback()  # run() would otherwise retry on the CPU
        self._refuse_unless_on_cuda()

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        outputs = super().run(input_ids, attention_mask)
        self._refuse_unless_on_cuda()
        return outputs

    def describe(self) -> dict[str, str]:
        return {**super().describe(), "placement": ", ".join(f"{op} on {ep}" for op, ep in self._placement())}

    def _options(self) -> onnxruntime.SessionOptions:
        options = super()._options()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options

    def _placement(self) -> list[tuple[str, str]]:
        """(operator, provider) of each node that has to be on CUDA."""
        return [
            (node.op_type, subgraph.ep_name)
            for subgraph in self._session.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
            if node.op_type in _ON_CUDA
        ]

    def _refuse_unless_on_cuda(self) -> None:
        if _CUDA not in self._session.get_providers():
            raise NotRunnable("the session was asked for CUDA and fell back to the CPU; see onnxruntime's messages")
        placement = self._placement()
        elsewhere = sorted({f"{op} on {ep}" for op, ep in placement if ep != _CUDA})
        placed = {op for op, _ in placement}
        if elsewhere or "Gather" not in placed or not placed & set(_LSTMS):
            raise NotRunnable(f"not placed on CUDA: {', '.join(elsewhere) or 'no LSTM or Gather at all'}")


def _onnxruntime() -> Any:
    """The module, which is an extra: an export can be made without it."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise NotRunnable("onnxruntime is not installed; install lengthwise[cpu] or lengthwise[gpu]") from error
    return onnxruntime
