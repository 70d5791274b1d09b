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

from lengthwise.encoder.layers import WINDOW, Direction
from lengthwise.encoder.packed import PackedIds
from lengthwise.encoder.pooled import Output
from lengthwise.encoder_config import GATE_SLOPES, GateActivation
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
    """One direction of one layer, see `layers.Direction`. Of an LSTM, gates are ordered i, f, o, g; of a GRU r, z, n.

    States are stored as uint8, with the zero point 128; those of a GRU lie between -1 and 1 too. Its candidate needs
    the product with the states alone, so there are two products where a layer reads another.
    """

    def __init__(
        self,
        weights: dict[str, NDArray[np.float64]],
        suffix: str,
        outputs: frozenset[Output],
        gate_activation: GateActivation = "sigmoid",
    ) -> None:
        """Prepare the weights of an nn.LSTM or nn.GRU whose names end in `suffix`."""
        self._outputs, self._gate = outputs, gate_activation
        is_first = suffix.startswith("_l0")
        inputs, states = weights["weight_ih" + suffix], weights["weight_hh" + suffix]
        self._hidden = states.shape[1]
        self._is_gru = len(states) == 3 * self._hidden
        bias, self._state_bias = self._biases(weights["bias_ih" + suffix], weights["bias_hh" + suffix])
        if not self._is_gru:
            inputs, states, bias = (_ordered(rows) for rows in (inputs, states, bias))
        self.bias = bias[None].astype(np.float32)
        self._linear = Float64Linear(inputs, bias) if is_first else None
        self._from_inputs: Product | None = None
        if self._is_gru and not is_first:
            self._from_inputs = _scaled_product(inputs)
        elif not is_first:
            states = np.concatenate([inputs, states], axis=1)
        self._product = _scaled_product(states)

    def _biases(
        self, of_inputs: NDArray[np.float64], of_states: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """What is added to the input's part of the gates, and to the state's part: of a GRU's candidate only."""
        if not self._is_gru:
            return of_inputs + of_states, np.zeros(0, np.float32)
        both = np.arange(len(of_inputs)) < 2 * self._hidden
        return of_inputs + np.where(both, of_states, 0), np.where(both, 0, of_states).astype(np.float32)

    def room_for_states(self, tokens: int, directions: int) -> NDArray[Any] | None:
        """uint8 or float32[tokens, directions * hidden], see `layers.Direction`."""
        if self._outputs.isdisjoint(("states", "floats")):
            return None
        return np.empty((tokens, directions * self._hidden), np.uint8 if "states" in self._outputs else np.float32)

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
            gates = table[ids[token]].reshape(rows, -1)
            if below is not None:
                operands[:rows, :width] = below[positions[token]]
            if self._is_gru:
                if self._from_inputs is not None:
                    gates += self._from_inputs(operands[:rows, :width])
                of_states = self._product(operands[:rows, width:]) + self._state_bias
                states = _next_gru_states(gates, of_states, cells[:rows], self._gate)
            else:
                if step or below is not None:
                    gates += self._product(operands[:rows])
                states = _next_states(gates, cells[:rows], self._gate)
            with np.errstate(invalid="ignore"):  # NaN goes on through the cells
                operands[:rows, width:] = np.rint(states * np.float32(STATE_SCALE)) + ZERO_POINT
            if stored is not None:
                kept = operands[:rows, width:] if "states" in self._outputs else states
                stored[positions[token], number * hidden : (number + 1) * hidden] = kept
            pooled.add(step, states)
            start += rows
        return pooled.results()


class _Pooled:
    """Pools states step by step, see `pooled.StatePooler`."""

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


def _scaled_product(weights: NDArray[np.float64]) -> Product:
    """The product of states in 8 bits with weights, float[outputs, inputs], that are rounded to 8 bits."""
    rounded, scales = quantize_rows(weights)
    multiply, factors = integer_product(rounded.astype(np.int8)), (scales / STATE_SCALE).astype(np.float32)
    return lambda states: multiply(states) * factors


def _next_states(
    gates: NDArray[np.float32], cells: NDArray[np.float32], gate_activation: GateActivation
) -> NDArray[np.float32]:
    """The states that follow from gates, [rows, 4 * hidden], and cells, which are updated; both are overwritten."""
    hidden = cells.shape[1]
    opened, candidates = gates[:, : 3 * hidden], gates[:, 3 * hidden :]
    _open(opened, gate_activation)
    np.tanh(candidates, out=candidates)
    cells *= opened[:, hidden : 2 * hidden]
    candidates *= opened[:, :hidden]
    cells += candidates
    return np.tanh(cells) * opened[:, 2 * hidden :]


def _next_gru_states(
    gates: NDArray[np.float32],
    of_states: NDArray[np.float32],
    states: NDArray[np.float32],
    gate_activation: GateActivation,
) -> NDArray[np.float32]:
    """The states that follow from both parts of the gates, [rows, 3 * hidden], and states, which are updated."""
    hidden = states.shape[1]
    opened = gates[:, : 2 * hidden] + of_states[:, : 2 * hidden]
    _open(opened, gate_activation)
    candidates = np.tanh(gates[:, 2 * hidden :] + opened[:, :hidden] * of_states[:, 2 * hidden :])
    update = opened[:, hidden:]
    states *= update
    states += (1 - update) * candidates
    return states


def _open(gates: NDArray[np.float32], gate_activation: GateActivation) -> None:
    """From what is summed up to how far gates are open, in place."""
    slope = GATE_SLOPES[gate_activation]
    if slope is not None:
        gates *= np.float32(slope)
        gates += np.float32(0.5)
        np.clip(gates, 0, 1, out=gates)
        return
    np.negative(gates, out=gates)
    with np.errstate(over="ignore"):
        np.exp(gates, out=gates)
        gates += 1
        np.reciprocal(gates, out=gates)


def _ordered(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of an LSTM's gates i, f, g, o in the order of `Int8Direction`."""
    i, f, g, o = np.split(rows, 4)
    return np.concatenate([i, f, o, g])
