"""The oracle: what PyTorch computes for each row of a batch alone.

Rows are encoded one at a time, at their own length and without padding, so no row can depend on another. In float64
they are computed too, to know what rounding does to them (`artifact.rounding`).

A sum over time adds up the errors of its states. What a value of it may differ by is estimated here, per row and value
(`accumulated_error`, and `mean_error` for a static residual beside it), since a projection can cancel large sums into a
small value, whose size then says nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.classify import STEEPEST, LabelClassifier
from lengthwise.encoder.model import PackedEncoder, encoder_classifier
from lengthwise.encoder.padding import read_ids
from lengthwise.export.artifact.difference import Allowance
from lengthwise.export.artifact.rounding import RowRounding

_FACTORS = (1, 1.0001, 1.0004, 1.001)
Allowed = tuple[Allowance | None, NDArray[np.float64] | None]  # of sums, and of rounding


@dataclass(frozen=True)
class Oracle:
    """The correct outputs for a batch.

    Attributes:
        vectors: float32[batch, dim], zeros for rows of length 0.
        states: float32[batch, sequence, state_dim], zero beyond a row's length; None where only vectors are known.
        allowance: what each value may differ by, of the shape of `vectors`; None unless states are summed. See
            `accumulated_error` and `mean_error`.
        labels: the logits of an encoder that has labels.
        rounding: how far these outputs are from those in float64; None where that was not computed.
        allowed: what outputs may differ by for their rounding; None where that is not known.
    """

    vectors: NDArray[np.float32]
    states: NDArray[np.float32] | None
    allowance: Allowance | None = None
    labels: Labels | None = None
    rounding: RowRounding | None = None
    allowed: RowRounding | None = None

    def allowances(self) -> list[Allowed]:
        """What vectors, states and, with labels, logits may differ by."""
        of = self.allowed
        found: list[Allowed] = [
            (self.allowance, None if of is None else of.vectors),
            (None, None if of is None else of.states),
        ]
        if self.labels is not None:
            found.append((self.labels.allowance, None if of is None else of.logits))
        return found

    def take(self, rows: NDArray[np.int64]) -> Oracle:
        """That of some rows."""
        return Oracle(
            self.vectors[rows],
            None if self.states is None else self.states[rows],
            None if self.allowance is None else self.allowance.take(rows),
            None if self.labels is None else self.labels.take(rows),
            None if self.rounding is None else self.rounding.take(rows),
            None if self.allowed is None else self.allowed.take(rows),
        )

    def below_float32(self) -> Oracle:
        """The same without what rounding in float32 may do."""
        return replace(self, allowed=None)


@dataclass(frozen=True)
class Labels:
    """The correct logits of a batch.

    Attributes:
        logits: float32[batch, labels]; of rows of length 0, those of a vector of zeros.
        allowance: what they may differ by, of the same shape: what the vectors may differ by, through the classifier.
        classifier: what decides by them.
    """

    logits: NDArray[np.float32]
    allowance: Allowance
    classifier: LabelClassifier

    def take(self, rows: NDArray[np.int64]) -> Labels:
        """Those of some rows."""
        return Labels(self.logits[rows], self.allowance.take(rows), self.classifier)


class OracleEncoder:
    """An encoder, and a copy of it in float64.

    Attributes:
        encoder: in evaluation mode.
    """

    def __init__(self, encoder: PackedEncoder) -> None:
        self.encoder = encoder
        self._exact = copy.deepcopy(encoder).double().eval()

    def compute(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Oracle:
        """Encode each row alone, and measure its rounding.

        Args:
            input_ids: int64[batch, sequence], right-padded with any ids.
            lengths: int64[batch], from 0 to sequence.
        """
        found = compute_oracle(self.encoder, input_ids, lengths)
        return replace(found, rounding=self._rounding(found, input_ids, lengths))

    def sample_rounding(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> RowRounding:
        """The rounding of rows that are encoded together, which is faster; none may be of length 0."""
        with torch.inference_mode():
            ran = _run(self.encoder, torch.from_numpy(input_ids), torch.from_numpy(lengths))
            logits = None if self.encoder.classifier is None else self.encoder.classifier(ran.vectors)
        labels = None
        if logits is not None and (classifier := encoder_classifier(self.encoder)) is not None:
            labels = Labels(logits.numpy(), Allowance(np.zeros(logits.shape), np.zeros(logits.shape)), classifier)
        return self._rounding(Oracle(ran.vectors.numpy(), ran.own.numpy(), labels=labels), input_ids, lengths)

    def _rounding(self, found: Oracle, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> RowRounding:
        """How far outputs are from those of the copy, which computes rows together: its own rounding is no matter."""
        distances = RowRounding(*(np.zeros(len(lengths)) for _ in range(3)))
        real = np.flatnonzero(lengths)
        if not len(real):
            return distances
        ids, own_lengths = torch.from_numpy(input_ids[real, : lengths.max()]), torch.from_numpy(lengths[real])
        with torch.inference_mode():
            exact = _run(self._exact, ids, own_lengths)
            distances.vectors[real] = _distance(found.vectors[real], exact.vectors)
            if found.states is not None:
                distances.states[real] = _distance(found.states[real, : exact.own.shape[1]], exact.own)
            if found.labels is not None and self._exact.classifier is not None:
                distances.logits[real] = _distance(found.labels.logits[real], self._exact.classifier(exact.vectors))
        return distances


def _distance(found: NDArray[np.float32], exact: torch.Tensor) -> NDArray[np.float64]:
    """The largest difference of a value per row."""
    largest: NDArray[np.float64] = np.abs(found - exact.numpy()).reshape(len(found), -1).max(axis=1)
    return largest


class _Ran(NamedTuple):
    """What an encoder computes of rows.

    Attributes:
        vectors: float[batch, dim].
        own: float[batch, sequence, state_dim], states at a row's own tokens, zero elsewhere.
        read: float[batch, read, state_dim], states at all ids that are read; of an encoder without padding, the same.
        ids: int64[batch, read], those ids.
    """

    vectors: torch.Tensor
    own: torch.Tensor
    read: torch.Tensor
    ids: torch.Tensor


def _run(encoder: PackedEncoder, ids: torch.Tensor, lengths: torch.Tensor) -> _Ran:
    """Rows together, int64[batch, sequence], each of at least one token."""
    read = None if encoder.config.padding is None else read_ids(ids, lengths, encoder.config)
    read_of, count = (ids, lengths) if read is None else (read.input_ids, read.lengths)
    tokens = encoder.token_states(read_of, count)
    vectors = encoder.head(tokens, count, torch.arange(read_of.shape[1]) < count[:, None])
    own = tokens.states if read is None else read.own_states(tokens.states, ids.shape[1])
    return _Ran(vectors, own, tokens.states, read_of)


def compute_oracle(encoder: PackedEncoder, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Oracle:
    """Encode each row alone; `OracleEncoder` measures its rounding too.

    Args:
        encoder: the packed encoder, in evaluation mode.
        input_ids: int64[batch, sequence], right-padded with any ids.
        lengths: int64[batch], from 0 to sequence.
    """
    config = encoder.config
    vectors = np.zeros((len(lengths), config.dim), np.float32)
    states = np.zeros((*input_ids.shape, config.state_dim), np.float32)
    is_sum = "sum" in config.pooling_parts and not config.normalize  # scaled to length 1, a sum is judged as a mean is
    allowance = Allowance(np.zeros(vectors.shape), np.zeros(vectors.shape)) if is_sum else None
    with torch.inference_mode():
        for row, length in enumerate(lengths):
            if length:
                ran = _run(encoder, torch.from_numpy(input_ids[row : row + 1, :length]), torch.tensor([length]))
                vectors[row], states[row, :length] = ran.vectors[0].numpy(), ran.own[0].numpy()
                if allowance is not None:
                    of_row = _sum_allowance(encoder, ran.read[0].numpy())
                    if encoder.static_projection is not None:
                        embedded = encoder.embedding(ran.ids)[0].numpy()
                        of_row += mean_error(embedded, _float64(encoder.static_projection))
                    allowance.scale[row], allowance.fixed[row] = of_row.scale, of_row.fixed
    return Oracle(vectors, states, allowance, _labels(encoder, vectors, allowance))


def _sum_allowance(encoder: PackedEncoder, states: NDArray[np.float32]) -> Allowance:
    """What the values of a vector may differ by that is made of sums of these states, [tokens, state_dim]."""
    config = encoder.config
    if config.pooling == "sum" and not config.dense:
        projection = encoder.projection
        return accumulated_error(states, np.eye(config.state_dim) if projection is None else _float64(projection))
    of_sum, ones = accumulated_error(states, np.eye(config.state_dim)), np.ones(config.state_dim)
    is_sum = [part == "sum" for part in config.pooling_parts]
    scale = np.concatenate([of_sum.scale if each else ones for each in is_sum])
    fixed = np.concatenate([of_sum.fixed if each else 0 * ones for each in is_sum])
    layers = [*encoder.dense, *([] if encoder.projection is None else [encoder.projection])]
    for layer in layers:
        weights, slope = _float64(layer), STEEPEST.get(getattr(layer, "activation", "identity"), 1.0)
        scale, fixed = slope * np.sqrt(weights**2 @ scale**2), slope * np.abs(weights) @ fixed
    return Allowance(scale, fixed)


def _labels(encoder: PackedEncoder, vectors: NDArray[np.float32], allowance: Allowance | None) -> Labels | None:
    """PyTorch's logits of each row alone."""
    classifier = encoder_classifier(encoder)
    if classifier is None or encoder.classifier is None:
        return None
    with torch.inference_mode():
        rows = [encoder.classifier(row).numpy() for row in torch.from_numpy(vectors).split(1)]
    logits = np.concatenate(rows)
    scale = np.broadcast_to(np.abs(vectors.astype(np.float64)).max(axis=1, keepdims=True, initial=1.0), vectors.shape)
    fixed = np.zeros(vectors.shape)
    if allowance is not None:
        scale, fixed = np.maximum(scale, allowance.scale), allowance.fixed
    through = classifier.error_scale
    return Labels(logits, Allowance(through(scale) + np.abs(logits), through(fixed)), classifier)


def accumulated_error(states: NDArray[np.float32], weights: NDArray[np.float64]) -> Allowance:
    """How many times the error of one state the values of a sum over time may have, and what its rounding adds.

    Errors are taken for independent. A sum S_j of T states, each off by e, which is itself rounded to e S_j, is off by
    e sqrt(T + S_j^2), and a value sum_j w_ij S_j of the vector by e sqrt(sum_j w_ij^2 (T + S_j^2)). Rounding errors are
    close to independent: they add up as the square root of their number, not, as in the worst case, as their number
    (N. J. Higham and T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41,
    2019).

    Where a text repeats a token, rounding errors are not: each step then rounds the sum the same way. So the error that
    these states have when they are summed from the first to the last in float32 is added, twice: a difference is of two
    sums. It depends on the last bits of the states, which differ between runtimes, so the largest error for some
    slightly larger states is taken. Every precision sums in float32, so this does not grow with the tolerance.

    Args:
        states: float32[tokens, state_dim].
        weights: float64[dim, state_dim], of the projection; the identity without one.

    Returns:
        The scale and the fixed part, float64[dim] each.
    """
    sums = states.sum(axis=0, dtype=np.float64)
    independent = np.sqrt(weights**2 @ (len(states) + sums**2))
    rounded = [np.abs(weights @ _rounding(states * np.float32(factor))) for factor in _FACTORS]
    return Allowance(independent, 2 * np.max(rounded, axis=0))


def mean_error(values: NDArray[np.float32], weights: NDArray[np.float64]) -> Allowance:
    """As `accumulated_error`, for a map of the mean of values that have no errors of their own.

    A mean m_j is rounded to e m_j, and its sum has the error of summing these values in float32.

    Args:
        values: float32[tokens, width], at least one token.
        weights: float64[dim, width].

    Returns:
        As `accumulated_error`.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    rounded = np.abs(weights @ _rounding(values)) / len(values)
    return Allowance(np.sqrt(weights**2 @ mean**2), 2 * rounded)


def _rounding(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The error of summing values, [tokens, width], from the first to the last in float32: float64[width]."""
    totals = np.cumsum(values, axis=0, dtype=np.float32)[-1:].sum(axis=0, dtype=np.float64)
    error: NDArray[np.float64] = totals - values.sum(axis=0, dtype=np.float64)
    return error


def _float64(layer: torch.nn.Linear) -> NDArray[np.float64]:
    """The weights of a Linear layer, [out, in]."""
    return layer.weight.detach().numpy().astype(np.float64)
