"""onnxruntime on the CPU and on CUDA.

A session that requests CUDA and does not get it runs on the CPU and reports that on stderr only. So the CUDA runtime
counts as run only with evidence: no fallback is allowed, the provider is still CUDA after a run, every LSTM and Gather
was placed on it, and a first batch has run. Anything else is "not run".
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.graphs.variants import FP16
from lengthwise.export.runtimes.base import (
    ONNX_FILES,
    ORT_FILES,
    OUTPUT_NAMES,
    NotRunnable,
    Outputs,
    Runtime,
    check_output_names,
    metadata_vocab_size,
    read_vocab_size,
)
from lengthwise.export.runtimes.placement import Placement, read_profile
from lengthwise.export.runtimes.tolerances import GPU_TOLERANCE

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)
CUDA_OPTIONS: Mapping[str, str] = MappingProxyType({"use_tf32": "0"})
_CUDA = "CUDAExecutionProvider"
_RECURRENT = ("LSTM", "GRU", "DynamicQuantizeLSTM")
_ON_CUDA = (*_RECURRENT, "Gather")
_ERRORS_ONLY = 3  # onnxruntime's severity
_OUT_OF_MEMORY = (  # in messages about a GPU's memory, or about an arena with a limit
    "Failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "bad_alloc",
)


class OnnxRuntimeCpu(Runtime):
    """onnxruntime's CPU provider.

    Attributes:
        device: the device whose memory holds a batch.
    """

    name = "onnxruntime cpu"
    files = ORT_FILES
    device = "cpu"
    _providers: tuple[str | tuple[str, dict[str, str]], ...] = ("CPUExecutionProvider",)

    def __init__(self, threads: int = 0) -> None:
        """`threads`: threads per batch; 0 lets onnxruntime choose."""
        self._threads = threads

    def load(self, path: Path) -> None:
        self._open(str(path))
        if self.vocab_size is None:
            self.vocab_size = read_vocab_size(path)

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        return tuple(self._session.run(self._outputs, feeds))

    def vectors(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """sentence_embedding alone."""
        (vectors,) = self._session.run(OUTPUT_NAMES[:1], {"input_ids": input_ids, "attention_mask": attention_mask})
        return vectors

    def describe(self) -> dict[str, str]:
        return {"onnxruntime": import_onnxruntime().__version__, "providers": ", ".join(self._session.get_providers())}

    def _open(self, model: str | bytes, options: onnxruntime.SessionOptions | None = None) -> None:
        """Start a session, without fallback to another provider."""
        session = import_onnxruntime().InferenceSession(
            model, options or self._options(), providers=list(self._providers), enable_fallback=0
        )
        self._outputs = [output.name for output in session.get_outputs()]
        check_output_names(self._outputs)
        self.vocab_size = metadata_vocab_size(session.get_modelmeta().custom_metadata_map)
        self._session = session

    def _options(self) -> onnxruntime.SessionOptions:
        options = import_onnxruntime().SessionOptions()
        options.intra_op_num_threads = self._threads
        return options


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """onnxruntime's CUDA provider without TF32. Validation and encoding run batches in the same way."""

    name = "onnxruntime cuda"
    files = ONNX_FILES
    device = "cuda"
    tolerance = GPU_TOLERANCE
    dependent = frozenset({FP16})  # in half precision, with tiles that depend on the batch; not measured yet
    _providers = ((_CUDA, dict(CUDA_OPTIONS)), "CPUExecutionProvider")

    def load(self, path: Path) -> None:
        library = import_onnxruntime()
        messages = preload_libraries(library)
        if _CUDA not in library.get_available_providers():
            raise NotRunnable(_no_cuda_reason(library, messages))
        OnnxRuntimeCpu(threads=1).load(path)  # a damaged file fails here; that is not "not run"
        with tempfile.TemporaryDirectory() as scratch:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(scratch) / "profile")
            try:
                self._open(str(path), options)
            except Exception as error:  # onnxruntime raises its own types, one per status code
                raise NotRunnable(
                    f"onnxruntime cannot open a session on CUDA here ({_line(error)}){messages}"
                ) from error
            try:
                self._refuse_unless_on_cuda(messages)
                self._run_first_batch(messages)
            finally:
                profile = self._session.end_profiling()
            self._placement, self._placement_error = _read_placement(profile)
        if self._placement is not None:
            _refuse_elsewhere((node.op, node.provider) for node in self._placement.nodes)

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        outputs = run_bound(self._session, self._outputs, feeds, self.device)
        self._refuse_unless_on_cuda()
        return tuple(outputs)

    def vectors(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        (vectors,) = run_bound(self._session, OUTPUT_NAMES[:1], feeds, self.device)
        return vectors

    @property
    def placement(self) -> Placement | None:
        """Every node that ran and its provider; None if onnxruntime's profile cannot be read."""
        return self._placement

    def describe(self) -> dict[str, str]:
        assigned = ", ".join(f"{op} on {ep}" for op, ep in self._assigned())
        nodes = {"copies": f"not known: {self._placement_error}"}
        if self._placement is not None:
            nodes = self._placement.describe(_CUDA)
        return {**super().describe(), "placement": assigned, **nodes}

    def _options(self) -> onnxruntime.SessionOptions:
        options = super()._options()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = _ERRORS_ONLY  # it warns about each copy, which `describe` reports
        return options

    def _run_first_batch(self, messages: str) -> None:
        """Run two rows of different lengths, to check that the kernels run on this GPU."""
        try:
            self.vectors(np.zeros((2, 2), np.int64), np.array([[1, 1], [1, 0]]))
        except Exception as error:  # onnxruntime's own types
            raise NotRunnable(f"a first batch fails on CUDA here ({_line(error)}){messages}") from error

    def _assigned(self) -> list[tuple[str, str]]:
        """(operator, provider) of each node that must be on CUDA, as onnxruntime assigned them."""
        return [
            (node.op_type, subgraph.ep_name)
            for subgraph in self._session.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
            if node.op_type in _ON_CUDA
        ]

    def _refuse_unless_on_cuda(self, messages: str = "") -> None:
        if _CUDA not in self._session.get_providers():
            raise NotRunnable(
                f"the session requested CUDA and fell back to the CPU; see onnxruntime's messages{messages}"
            )
        _refuse_elsewhere(self._assigned())


def preload_libraries(library: Any, *, cudnn: bool = True) -> str:
    """Load CUDA's libraries and cuDNN from pip packages, unless a PyTorch for CUDA has done so already.

    Args:
        library: the module onnxruntime. It prints what it cannot load, which is logged here.
        cudnn: whether to load cuDNN too.

    Returns:
        Its messages, to append to a reason; empty if there were none.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            library.preload_dlls(cudnn=cudnn)
        except Exception as error:  # from the system's loader, or a damaged package
            printed.write(str(error))
    messages = " ".join([*printed.getvalue().split(), *(str(warning.message) for warning in warned)])
    if not messages:
        return ""
    log.debug("onnxruntime on CUDA's libraries: %s", messages)
    return f"; its messages on CUDA's libraries: {messages[:300]}"


def run_bound(
    session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Mapping[str, NDArray[Any]], device: str
) -> list[NDArray[Any]]:
    """Run a batch through its own binding, so several threads can share a session.

    Args:
        session: the session.
        names: the outputs to compute and fetch, once each; others are not copied.
        feeds: inputs in host memory.
        device: where the outputs are computed before they are fetched, cpu or cuda.
    """
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(values))
    for name in names:
        binding.bind_output(name, device)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    fetched: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
    return fetched


def is_oom(error: Exception) -> bool:
    """Whether an error of onnxruntime says that a batch does not fit; it has no exception type for that."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _refuse_elsewhere(nodes: Iterable[tuple[str, str]]) -> None:
    """Raise NotRunnable unless the (operator, provider) pairs hold an LSTM or GRU and a Gather, all on CUDA."""
    placed = {(op, provider) for op, provider in nodes if op in _ON_CUDA}
    elsewhere = sorted(f"{op} on {provider}" for op, provider in placed if provider != _CUDA)
    operators = {op for op, _ in placed}
    if elsewhere or "Gather" not in operators or not operators & set(_RECURRENT):
        raise NotRunnable(f"not placed on CUDA: {', '.join(elsewhere) or 'no LSTM, GRU or Gather at all'}")


def _read_placement(profile: str) -> tuple[Placement | None, str]:
    """The placement in a profile, or the reason why it cannot be read."""
    try:
        return read_profile(Path(profile)), ""
    except (OSError, ValueError) as error:
        return None, f"its profile cannot be read ({_line(error)})"


def _no_cuda_reason(library: Any, messages: str) -> str:
    built_for = getattr(library, "cuda_version", "")
    if built_for:
        return f"onnxruntime {library.__version__}, built for CUDA {built_for}, has no CUDA provider here{messages}"
    return (
        f"onnxruntime {library.__version__} is built without CUDA; on a machine with an NVIDIA GPU install"
        " onnxruntime-gpu instead of onnxruntime"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def import_onnxruntime() -> Any:
    """The module onnxruntime, which is an optional dependency."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise NotRunnable("onnxruntime is not installed; install lengthwise[cpu] or lengthwise[gpu]") from error
    return onnxruntime
