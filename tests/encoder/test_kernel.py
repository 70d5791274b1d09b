"""The kernel that is chosen for a CPU, and its code for CPUs that are not this one."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="install lengthwise[fast]")

import llvmlite.binding as llvm

from lengthwise.encoder import kernel
from lengthwise.encoder.kernel import (
    Kernel,
    KernelPrecision,
    aligned_empty,
    choose_spec,
    cpu_features,
    has_bf16_kernel,
    has_kernel,
)
from lengthwise.encoder.kernel_code import kernel_code
from lengthwise.encoder.kernel_spec import RUN_ARGUMENTS, TILE_ROWS

AVX2 = frozenset({"avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
CPUS = [  # what LLVM calls a CPU, what it can do, the kernel for int8, an instruction of it
    ("haswell", AVX2, ("int16", 8), "vpmaddwd\t"),
    ("alderlake", AVX2 | {"avxvnni"}, ("vnni", 8), "{vex}\tvpdpbusd\t"),
    ("skylake-avx512", AVX512, ("int16", 16), "vpmaddwd\t"),
    ("cascadelake", AVX512 | {"avx512vnni"}, ("vnni", 16), "vpdpbusd\t"),
    ("znver4", AVX512 | {"avx512vnni"}, ("vnni", 16), "vpdpbusd\t"),
]


def assembly(code: str, cpu: str) -> str:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features="", opt=2)
    return machine.emit_assembly(llvm.parse_assembly(code))


@pytest.mark.skipif(not has_kernel(), reason="the code is for x86-64")
@pytest.mark.parametrize(("cpu", "features", "expected", "instruction"), CPUS)
def test_each_cpu_gets_its_instructions(
    cpu: str, features: frozenset[str], expected: tuple[str, int], instruction: str
) -> None:
    spec = choose_spec("int8", {"sum"}, features=features)
    assert (spec.arithmetic, spec.lanes) == expected
    assert instruction in assembly(kernel_code(spec), cpu)
    in_float32 = choose_spec("fp32", {"sum"}, features=features)
    assert (in_float32.arithmetic, in_float32.lanes) == ("float32", expected[1])
    assert "vfmadd231ps" in assembly(kernel_code(in_float32), cpu)
    if cpu == "znver4":
        in_bfloat16 = choose_spec("bf16", {"sum"}, features=features | {"avx512bf16"})
        assert "vdpbf16ps\t" in assembly(kernel_code(in_bfloat16), cpu)


@pytest.mark.skipif(not has_kernel(), reason="the code is for x86-64")
@pytest.mark.parametrize(("cpu", "features"), [(cpu, features) for cpu, features, _, _ in CPUS])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_sums_of_a_tile_stay_in_registers(cpu: str, features: frozenset[str], precision: KernelPrecision) -> None:
    """Beside the four sums that integers begin with, no vector is read from the stack, or written there."""
    spec = choose_spec(precision, {"sum"}, features=features)
    functions = re.split(r"\n(?=\w+:)", assembly(kernel_code(spec), cpu))
    (largest,) = [text for text in functions if text.startswith(f"tile_{TILE_ROWS}:")]
    assert len(re.findall(r"\tv\w+.*\(%rsp\)", largest)) <= 4


def test_bf16_kernel_needs_its_products() -> None:
    assert has_bf16_kernel(AVX512 | {"avx512bf16"})
    assert not has_bf16_kernel(AVX512)
    assert not has_bf16_kernel(AVX2 | {"avx512bf16"})


def test_kernel_needs_avx2_and_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_kernel(AVX2)
    assert not has_kernel(frozenset({"avx2"}))
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setattr(kernel, "find_spec", lambda name: None)
    cpu_features.cache_clear()
    try:
        assert not has_kernel()
    finally:
        cpu_features.cache_clear()


@pytest.mark.skipif(not has_kernel(), reason="this CPU has no AVX2, or llvmlite is not installed")
def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="no arguments \\['rows'\\]"):
        Kernel(choose_spec("fp32")).run(rows=1)
    assert len(set(RUN_ARGUMENTS)) == len(RUN_ARGUMENTS)


def test_arrays_begin_at_cache_lines() -> None:
    for rows in range(1, 20):
        array = aligned_empty((rows, 3), np.float32)
        assert (array.shape, array.dtype, array.ctypes.data % 64) == ((rows, 3), np.float32, 0)
