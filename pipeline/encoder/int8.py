"""The LSTM in int8 without the fused kernel, and the rounding that both have in common.

- Weights are rounded to 8 bits with one scale per row. States lie between -1 and 1, so their scale is fixed: 1 / 127.
- Sums of integers are exact. Where the CPU has VNNI, oneDNN multiplies 8 bits by 8. Elsewhere it would saturate
  products at 16 bits, and float32 multiplies instead, whose sums of such integers are exact up to `EXACT_INPUTS`
  inputs.
- Gates, cells and pooling are computed by NumPy: its functions give a value the same bits wherever it stands in an
  array, which those of PyTorch do not. So a row's state does not depend on its batch, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder.layers import WINDOW, Direction, Output
from lengthwise.encoder.packed import PackedIds
from lengthwise.util.compat import cpu_has_vnni

LARGEST_WEIGHT = 127
STATE_SCALE, ZERO_POINT = 127, 128
_ROWS_PER_PRODUCT = 4_096  # of a table
EXACT_INPUTS = 2**24 // (LARGEST_WEIGHT * STATE_SCALE)  # float32 holds every integer up to 2**24

Product = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # states [rows, inputs] times weights: [rows, outputs]


def quantize_rows(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Round weights, [..., inputs], to integers between -127 and 127 and a scale per row, [...]."""
    scales = np.abs(weights).max(axis=-1, initial=0) / LARGEST_WEIGHT
    return np.rint(weights / np.where(scales > 0, scales, 1)[..., None]), scales


class Float64Linear:
    """Rows of float32 times weights, plus a bias, in float64: the order of its sums next to never shows in float32."""

    def __init__(self, weight: NDArray[np.floating], bias: NDArray[np.floating] | None = None) -> None:
        """Prepare the weights, [outputs, inputs], and the bias, [outputs]."""
        self._weight = weight.astype(np.float64)
        self._bias = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[rows, inputs] to float32[rows, outputs]."""
        import torch

        weight, bias = torch.from_numpy(self._weight).t(), torch.from_numpy(self._bias)
        with torch.inference_mode():  # not NumPy's product, whose threads would not be the engine's
            parts = torch.from_numpy(rows).split(_ROWS_PER_PRODUCT)
            return torch.cat([torch.addmm(bias, part.double(), weight).float() for part in parts]).numpy()


class Float64Mean:
    """Means of token embeddings, summed in float64."""

    def __init__(self, embedding: NDArray[np.float32]) -> None:
        """Take the embeddings, [tokens, width]."""
        self._embedding = embedding

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[rows, sequence], right-padded, and int64[rows], at least 1, to float32[rows, width]."""
        rows = zip(input_ids, lengths, strict=True)
        means = [self._embedding[ids[:length]].mean(axis=0, dtype=np.float64) for ids, length in rows]
        return np.stack(means).astype(np.float32)


class Int8Direction(Direction):
    """One direction of one layer, see `layers.Direction`. Gates are ordered i, f, o, g, the first three negated.

    States are stored as uint8, with the zero point 128.
    """

    def __init__(self, weights: dict[str, NDArray[np.float64]], suffix: str, outputs: frozenset[Output]) -> None:
        """Prepare the weights of an nn.LSTM whose names end in `suffix`."""
        self._outputs = outputs
        bias = _ordered(weights["bias_ih" + suffix] + weights["bias_hh" + suffix])
        self.bias = bias[None].astype(np.float32)
        inputs, states = (_ordered(weights[name + suffix]) for name in ("weight_ih", "weight_hh"))
        self._hidden = states.shape[1]
        self._linear = Float64Linear(inputs, bias) if suffix.startswith("_l0") else None
        rounded, scales = quantize_rows(
            states if suffix.startswith("_l0") else np.concatenate([inputs, states], axis=1)
        )
        self._product = integer_product(rounded.astype(np.int8))
        self._scales = (scales / STATE_SCALE).astype(np.float32)

    def room_for_states(self, tokens: int, directions: int) -> NDArray[Any] | None:
        """uint8[tokens, directions * hidden]."""
        return np.empty((tokens, directions * self._hidden), np.uint8) if "states" in self._outputs else None

    def run(
        self,
        batch: PackedIds,
        number: int,
        table: NDArray[np.float32],
        ids: NDArray[np.int32],
        below: NDArray[Any] | None,
        stored: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """Run a batch."""
        rows, hidden, positions = int(batch.steps[0]), self._hidden, batch.positions[number]
        width = 0 if below is None else below.shape[1]
        operands = np.full((rows, width + hidden), ZERO_POINT, np.uint8)
        cells = np.zeros((rows, hidden), np.float32)
        pooled = _Pooled(rows, hidden, self._outputs)
        start = 0
        for step, rows in enumerate(batch.steps.tolist()):
            token = slice(start, start + rows)
            gates = table[ids[token]].reshape(rows, 4 * hidden)
            if below is not None:
                operands[:rows, :width] = below[positions[token]]
            if step or below is not None:
                gates += self._product(operands[:rows]) * self._scales
            states = _next_states(gates, cells[:rows])
            with np.errstate(invalid="ignore"):  # NaN goes on through the cells
                operands[:rows, width:] = np.rint(states * np.float32(STATE_SCALE)) + ZERO_POINT
            if stored is not None:
                stored[positions[token], number * hidden : (number + 1) * hidden] = operands[:rows, width:]
            pooled.add(step, states)
            start += rows
        return pooled.results()


class _Pooled:
    """Pools states step by step, see `layers.OUTPUTS`."""

    def __init__(self, rows: int, hidden: int, outputs: frozenset[Output]) -> None:
        self._outputs = outputs
        self._sum, self._partial = np.zeros((rows, hidden), np.float64), np.zeros((rows, hidden), np.float32)
        self._max = np.full((rows, hidden), -np.inf, np.float32) if "max" in outputs else None
        self._last = np.empty((rows, hidden), np.float32) if "last" in outputs else None

    def add(self, step: int, states: NDArray[np.float32]) -> None:
        """Add a step's states, of the first rows."""
        rows = len(states)
        if "sum" in self._outputs:
            self._partial[:rows] += states
            if step % WINDOW == WINDOW - 1:
                self._flush()
        if self._max is not None:
            np.maximum(self._max[:rows], states, out=self._max[:rows])
        if self._last is not None:
            self._last[:rows] = states

    def results(self) -> dict[str, NDArray[Any]]:
        """By name."""
        self._flush()
        found = {"sum": self._sum, "max": self._max, "last": self._last}
        return {name: values for name, values in found.items() if name in self._outputs and values is not None}

    def _flush(self) -> None:
        self._sum += self._partial
        self._partial.fill(0)


def integer_product(weights: NDArray[np.int8]) -> Product:
    """The exact product of uint8[rows, inputs], whose zero point is 128, with int8[outputs, inputs] transposed.

    The sums are returned as float32, which rounds those beyond 2**24.
    """
    return vnni_product(weights) if cpu_has_vnni() else _float_product(weights)


def vnni_product(weights: NDArray[np.int8]) -> Product:
    """oneDNN's product, exact where the CPU has VNNI; elsewhere it saturates at 16 bits."""
    import torch

    prepared = torch.ops.onednn.qlinear_prepack(torch.from_numpy(weights), None)
    ones, zeros = torch.ones(len(weights)), torch.zeros(len(weights), dtype=torch.int32)

    def multiply(states: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            operands = torch.from_numpy(np.ascontiguousarray(states))
            return torch.ops.onednn.qlinear_pointwise(
                operands, 1.0, ZERO_POINT, prepared, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            ).numpy()

    return multiply


def _float_product(weights: NDArray[np.int8]) -> Product:
    import torch

    parts = [
        (slice(first, first + EXACT_INPUTS), torch.from_numpy(weights[:, first : first + EXACT_INPUTS].T).float())
        for first in range(0, weights.shape[1], EXACT_INPUTS)
    ]

    def multiply(states: NDArray[np.uint8]) -> NDArray[np.float32]:
        operands = torch.from_numpy(states.astype(np.float32) - ZERO_POINT)
        with torch.inference_mode():
            sums = [operands[:, part] @ columns for part, columns in parts]
            return (sums[0] if len(sums) == 1 else torch.stack(sums).double().sum(dim=0).float()).numpy()

    return multiply


def _next_states(gates: NDArray[np.float32], cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """The states that follow from gates, [rows, 4 * hidden], and cells, which are updated; both are overwritten."""
    hidden = cells.shape[1]
    closing, candidates = gates[:, : 3 * hidden], gates[:, 3 * hidden :]
    with np.errstate(over="ignore"):
        np.exp(closing, out=closing)
        closing += 1
        np.reciprocal(closing, out=closing)
    np.tanh(candidates, out=candidates)
    cells *= closing[:, hidden : 2 * hidden]
    candidates *= closing[:, :hidden]
    cells += candidates
    return np.tanh(cells) * closing[:, 2 * hidden :]


def _ordered(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of gates i, f, g, o in the order of `Int8Direction`."""
    i, f, g, o = np.split(rows, 4)
    return np.concatenate([-i, -f, -o, g])
