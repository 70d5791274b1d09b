"""What a CPU's recurrent products allow: PyTorch's and oneDNN's, one thread each on all cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from lengthwise.config import Precision
from lengthwise.encoder.int8 import vnni_product
from lengthwise.util.compat import onednn_linear
from lengthwise.util.threads import parallel_map

PRODUCT_ROWS = 256
_SECONDS = 0.3

Product = Callable[[], object]


def recurrent_products(hidden: int, precision: Precision) -> dict[str, Product]:
    """Products of PRODUCT_ROWS states with the recurrent weights, [hidden] to [4 * hidden], by name."""
    states, weight = torch.rand(PRODUCT_ROWS, hidden), torch.rand(4 * hidden, hidden)
    if precision == "int8":
        operands = (states * 255).to(torch.uint8).numpy()
        return {"oneDNN, 8 bits": partial(vnni_product((weight * 127).to(torch.int8).numpy()), operands)}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    states, weight = states.to(dtype), weight.to(dtype)
    return {
        "torch.mm": partial(torch.mm, states, weight.t().contiguous()),
        "oneDNN, prepacked": partial(onednn_linear(weight, PRODUCT_ROWS), states),
    }


def parallel_rate(product: Product, workers: int) -> float:
    """Operations per second of workers that each run a product of `recurrent_products` on one thread."""

    def count(_: int) -> float:
        with torch.inference_mode():
            product()
            began, done = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < _SECONDS:
                product()
                done += 1
        return done / passed

    threads = torch.get_num_threads()
    try:
        products = sum(parallel_map(count, range(workers), workers, partial(torch.set_num_threads, 1)))
    finally:
        torch.set_num_threads(threads)
    return products * _operations(product)


def _operations(product: Product) -> int:
    with torch.inference_mode():
        result = product()
    rows, outputs = result.shape  # type: ignore[attr-defined]
    return 2 * rows * outputs * (outputs // 4)
