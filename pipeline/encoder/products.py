"""Products of float32 without the fused kernel: PyTorch's own, through MKL, or oneDNN's, whichever is faster here.

- MKL is slow on some processors: on a Zen 5 of AMD it is half as fast as oneDNN. Both are measured when an encoder is
  loaded that needs them, in some 20 ms, once per process and shape.
- oneDNN has to be faster by a margin, so that noise does not change the choice: other products, other last bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lengthwise.util.compat import onednn_linear

ROWS, MARGIN = 128, 1.35
_REPEATS = 8

AddProduct = Callable[[Tensor, Tensor], object]  # adds the product of [rows, inputs] to sums, [rows, outputs]


def make_product(weight: Tensor, *, onednn: bool = False) -> AddProduct:
    """The product with weights, [outputs, inputs].

    Args:
        onednn: whether oneDNN computes it; only in float32.
    """
    if not onednn:
        transposed = weight.t().contiguous()
        return lambda sums, rows: sums.addmm_(rows, transposed)
    linear = onednn_linear(weight)
    return lambda sums, rows: sums.add_(linear(rows)) if len(rows) else sums


@cache
def is_onednn_faster(inputs: int, outputs: int) -> bool:
    """Whether oneDNN multiplies float32 of this shape faster on one thread of this machine, by the margin."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight, rows, sums = torch.rand(outputs, inputs), torch.rand(ROWS, inputs), torch.rand(ROWS, outputs)
    own, other = (make_product(weight, onednn=onednn) for onednn in (False, True))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = [(_seconds(own, sums, rows), _seconds(other, sums, rows)) for _ in range(_REPEATS)]
    finally:
        torch.set_num_threads(threads)
    of_own, of_other = (min(column) for column in zip(*seconds[1:], strict=True))  # the first round is a warm-up
    return of_own > MARGIN * of_other


def _seconds(product: AddProduct, sums: Tensor, rows: Tensor) -> float:
    """CPU time of this thread, which other processes hardly affect."""
    began = time.thread_time()
    product(sums, rows)
    return time.thread_time() - began
