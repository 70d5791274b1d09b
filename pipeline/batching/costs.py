"""What batches cost each kind of engine, as data for the planner.

- The cost of a batch is its work, in tokens, and a fixed part per time step: a step reads the recurrent weights and
  starts its kernels whether one row is left or a hundred.
- Kinds of engine differ in what is cheap: on a CPU, PyTorch's own LSTM is fast only where all lengths of a batch are
  equal, onnxruntime computes every row up to the longest, and the step-wise encoder does neither.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class BatchCosts:
    """Limits and costs of an engine's batches; the unit is the time per token in a large batch of equal lengths.

    Attributes:
        max_tokens: limit of a batch's cells (rows x longest row).
        max_rows: limit of a batch's rows.
        step: cost of a time step beside its tokens.
        mixed: the factor by which a batch of different lengths is slower.
        pads: whether the cells beyond a row's end are computed too.
    """

    max_tokens: int
    max_rows: int
    step: float
    mixed: float = 1.0
    pads: bool = False

    def with_limits(self, max_tokens: int | None = None, max_rows: int | None = None) -> BatchCosts:
        """The same costs with other limits; a limit that is None is kept."""
        return replace(self, max_tokens=max_tokens or self.max_tokens, max_rows=max_rows or self.max_rows)

    def padded(self) -> BatchCosts:
        """The same costs where padding is computed, as it is without packing."""
        return replace(self, pads=True, mixed=1.0)

    def batch_cost(self, longest: int, rows: int, tokens: int) -> float:
        """The cost of one batch."""
        equal = tokens == longest * rows
        work = longest * rows if self.pads else tokens
        return (work + self.step * longest) * (1.0 if equal else self.mixed)

    def max_batch_rows(self, longest: int) -> int:
        """How many rows a batch may have whose longest row has this length; at least one."""
        return max(1, min(self.max_rows, self.max_tokens // longest))


# Measured by `scripts/benchmark.py kernel` (docs/benchmarks.md): a step of n rows takes a + b n, and `step` is a / b.
# The two for CUDA are guesses: a step takes some 10 microseconds, the time of the products of some hundred rows.
STEPWISE = BatchCosts(max_tokens=131_072, max_rows=512, step=8)
PACKED = BatchCosts(max_tokens=4_096, max_rows=128, step=4, mixed=2.0)
PADDED = BatchCosts(max_tokens=4_096, max_rows=128, step=2, pads=True)
PACKED_CUDA = BatchCosts(max_tokens=131_072, max_rows=4_096, step=256, mixed=2.0)
PADDED_CUDA = BatchCosts(max_tokens=65_536, max_rows=2_048, step=256, pads=True)


def engine_costs(
    engine: Literal["torch", "onnx"], precision: str, *, on_gpu: bool, fused_bf16: bool = False
) -> BatchCosts:
    """The costs of a kind of engine.

    Args:
        precision: "fp32", "bf16", "fp16" or "int8".
        fused_bf16: whether this CPU runs the fused kernel in bfloat16 (`encoder.kernel.has_bf16_kernel`).
    """
    if engine == "onnx":
        return PADDED_CUDA if on_gpu else PADDED
    if on_gpu:
        return PACKED_CUDA
    is_stepwise = precision in ("fp32", "int8") or (precision == "bf16" and fused_bf16)
    return STEPWISE if is_stepwise else PACKED


def expected_costs(
    engine: Literal["torch", "onnx"], precision: str, device: str, *, fused_bf16: bool = False
) -> BatchCosts:
    """The costs that a run's settings lead to, without loading a model.

    Args:
        precision, fused_bf16: as for `engine_costs`.
        device: "cpu", "cuda" or "auto", which is a GPU where the NVIDIA driver's tools are installed.
    """
    on_gpu = device == "cuda" or (device == "auto" and precision != "int8" and shutil.which("nvidia-smi") is not None)
    return engine_costs(engine, precision, on_gpu=on_gpu, fused_bf16=fused_bf16)
