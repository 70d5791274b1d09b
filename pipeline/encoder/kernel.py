"""The fused LSTM kernel compiled for the CPU that it runs on.

- LLVM compiles a kernel in about 0.1 s, when the encoder is made, for this CPU's instructions; nothing is written to a
  disk. It comes with llvmlite (`lengthwise[fast]`). Where that or AVX2 is missing, PyTorch computes instead.
- A call releases the GIL and uses no thread but the caller's.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Set
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from lengthwise.config import EncoderConfig
    from lengthwise.encoder.kernel_spec import Arithmetic, KernelSpec
    from lengthwise.encoder.pooled import Output

KernelPrecision = Literal["fp32", "bf16", "int8"]
CACHE_LINE = 64  # bytes
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
_compiling = threading.Lock()


class Kernel:
    """A compiled kernel.

    Attributes:
        spec: what it computes.
    """

    def __init__(self, spec: KernelSpec, cpu: str | None = None, features: str | None = None) -> None:
        """Compile it.

        Args:
            cpu, features: in LLVM's terms; by default those of this machine.
        """
        import llvmlite.binding as llvm

        from lengthwise.encoder import kernel_spec as tables
        from lengthwise.encoder.kernel_code import kernel_code

        self.spec = spec
        with _compiling:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            machine = llvm.Target.from_default_triple().create_target_machine(
                cpu=llvm.get_host_cpu_name() if cpu is None else cpu,
                features=llvm.get_host_cpu_features().flatten() if features is None else features,
                opt=2,
            )
            module = llvm.parse_assembly(kernel_code(spec))
            module.verify()
            self._engine = llvm.create_mcjit_compiler(module, machine)
            self._engine.finalize_object()
        self._functions: dict[str, tuple[str, ...]] = {"run": tables.RUN_ARGUMENTS}
        if spec.branches:
            self._functions["branch"] = tables.BRANCH_ARGUMENTS
        if spec.multiplies:
            self._functions["multiply"] = tables.MULTIPLY_ARGUMENTS
            self._functions["average"] = tables.AVERAGE_ARGUMENTS

    def run(self, **arguments: NDArray[Any] | int) -> None:
        """Run a packed batch through one direction of one layer.

        Args:
            arguments: of `kernel_spec.RUN_ARGUMENTS`; those that the kernel does not use may be left out.
        """
        self._call("run", arguments)

    def branch(self, **arguments: NDArray[Any] | int) -> None:
        """Run one step from states to those of their children in a trie.

        Args:
            arguments: of `kernel_spec.BRANCH_ARGUMENTS`; those that the kernel does not use may be left out.
        """
        self._call("branch", arguments)

    def multiply(self, **arguments: NDArray[Any] | int) -> None:
        """Multiply rows of float32 by weights, and add a bias.

        Args:
            arguments: all of `kernel_spec.MULTIPLY_ARGUMENTS`.
        """
        self._call("multiply", arguments)

    def average(self, **arguments: NDArray[Any] | int) -> None:
        """Average entries of a table.

        Args:
            arguments: all of `kernel_spec.AVERAGE_ARGUMENTS`.
        """
        self._call("average", arguments)

    def _call(self, name: str, arguments: dict[str, NDArray[Any] | int]) -> None:
        names = self._functions[name]
        unknown = sorted(arguments.keys() - set(names))
        if unknown:
            raise TypeError(f"the kernel has no arguments {unknown}")
        values = [arguments.get(known, 0) for known in names]
        addresses = [value if isinstance(value, int) else value.ctypes.data for value in values]
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address(name))
        function((ctypes.c_int64 * len(addresses))(*addresses))


@cache
def compiled(spec: KernelSpec) -> Kernel:
    """The kernel, compiled once per process."""
    return Kernel(spec)


@cache
def cpu_features() -> frozenset[str]:
    """What this CPU can do, in LLVM's terms; empty without llvmlite."""
    if find_spec("llvmlite") is None:
        return frozenset()
    import llvmlite.binding as llvm

    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def has_kernel(features: Set[str] | None = None) -> bool:
    """Whether the kernel runs here: llvmlite is installed, and the CPU has AVX2 and FMA."""
    return {"avx2", "fma"} <= (cpu_features() if features is None else features)


def kernel_computes(config: EncoderConfig) -> bool:
    """Whether the kernel computes such an encoder: an LSTM, with any gates."""
    return config.cell == "lstm"


def missing_for_kernel(config: EncoderConfig) -> str:
    """Why the kernel does not compute an encoder here, and what helps, for a message."""
    if not kernel_computes(config):
        return f"it computes LSTMs only, and this is a {config.cell}"
    if find_spec("llvmlite") is None:
        return "llvmlite is not installed; pip install 'lengthwise[fast]'"
    return "it needs an x86-64 CPU with AVX2 and FMA"


def has_bf16_kernel(features: Set[str] | None = None) -> bool:
    """Whether the kernel runs in bfloat16 here, with the products of AVX-512."""
    features = cpu_features() if features is None else features
    return has_kernel(features) and {*_AVX512, "avx512bf16"} <= features


def choose_spec(
    precision: KernelPrecision,
    outputs: Set[Output] = frozenset(),
    *,
    stacked: bool = False,
    hard_gates: bool = False,
    features: Set[str] | None = None,
) -> KernelSpec:
    """The kernel that is fastest on a CPU.

    Args:
        features: of the CPU, in LLVM's terms; by default this one's.
    """
    from lengthwise.encoder.kernel_spec import KernelSpec

    features = cpu_features() if features is None else features
    is_wide = features >= _AVX512
    has_vnni = "avx512vnni" in features if is_wide else "avxvnni" in features
    in_int8: Arithmetic = "vnni" if has_vnni else "int16"
    arithmetics: dict[str, Arithmetic] = {"fp32": "float32", "bf16": "bfloat16", "int8": in_int8}
    return KernelSpec(arithmetics[precision], 16 if is_wide else 8, frozenset(outputs), stacked, hard_gates)


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An uninitialised array that begins at a cache line, so that no vector lies in two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)
