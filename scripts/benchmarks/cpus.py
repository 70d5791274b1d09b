"""Engines whose fused kernel is compiled for another CPU than this one, and runs here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest import mock

from lengthwise.encoder.kernel import Kernel
from lengthwise.encoder.kernel_spec import KernelSpec

AVX2_CPU = "haswell"  # in LLVM's terms: AVX2 and FMA, without VNNI and AVX-512
_AVX2 = frozenset({"avx2", "fma"})


@contextmanager
def compiled_for_avx2() -> Iterator[None]:
    """Within it, kernels of new engines are those of a CPU with AVX2 and without VNNI."""

    @cache
    def compiled(spec: KernelSpec) -> Kernel:
        return Kernel(spec, AVX2_CPU, "")

    with (
        mock.patch("lengthwise.encoder.kernel.cpu_features", return_value=_AVX2),
        mock.patch("lengthwise.encoder.fused.compiled", compiled),
    ):
        yield
