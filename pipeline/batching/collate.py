"""Samples to tensors: `collate` makes a batch of a list of samples, packed or padded; `unpack` gives its rows back.

Decisions:
- Ids are packed before they are embedded, so that neither the embedding nor the LSTM ever sees padding. A packed batch
  of equal lengths is a dense rectangle to PyTorch, and takes its fast path.
- Which columns have one value per token is given by the caller and never guessed: in a batch of rows of length 5, five
  features of a row look the same.
- A batch is a dict, which every training loop takes, and moves all it holds at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lengthwise.errors import BatchError

IGNORED_LABEL = -100  # what `torch.nn.functional.cross_entropy` leaves out by default


class Batch(dict[str, Any]):
    """The columns of a batch by name: tensors, PackedSequences, or lists of what is no number.

    Attributes:
        rows: the dataset's row numbers, int64[batch], where the batch was made from a dataset (`iter_batches`).
    """

    rows: NDArray[np.int64] | None = None

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """The batch on a device. `non_blocking` copies from pinned memory while the CPU goes on."""
        return self._changed(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; `DataLoader(pin_memory=True)` calls this."""
        return self._changed(lambda value: value.pin_memory())

    def _changed(self, change: Any) -> Batch:
        moved = {
            name: change(value) if isinstance(value, Tensor | PackedSequence) else value for name, value in self.items()
        }
        batch = Batch(moved)
        batch.rows = self.rows
        return batch


def collate(
    samples: Sequence[Any],
    *,
    packed: bool = True,
    sequence: str = "input_ids",
    per_token: Collection[str] = (),
    pad_id: int = 0,
    label_pad_id: int = IGNORED_LABEL,
    vocab_size: int | None = None,
) -> Batch:
    """Make a batch of samples; for `DataLoader(collate_fn=...)`, with settings through `functools.partial`.

    Args:
        samples: each a dict of columns, or a pair of a sequence and its label (the columns are then `sequence` and
            "labels"), or a sequence alone. A sequence is a list, an array or a tensor: ids, int[tokens], or feature
            vectors, float[time, features].
        packed: pack the sequences; else pad them.
        sequence: the column of sequences.
        per_token: columns that have one value (or vector) per token; they are packed or padded alike.
        pad_id: fills padded ids. Feature vectors and other floats are padded with 0.
        label_pad_id: fills padded integer columns of `per_token`.
        vocab_size: ids have to be below it. Without it, only negative ids are errors.

    Returns:
        With `packed`, `sequence` and the columns of `per_token` are PackedSequences of the same order, so that an
        LSTM's `output.data` lies row by row beside their `.data`; ids are int64. Without, they are padded on the
        right, [batch, longest, ...], beside `attention_mask` (int64[batch, longest], 1 for tokens). Both have
        `lengths` (int64[batch]). Of the other columns, numbers become tensors (int64, float32 or bool) and the rest
        stay lists. Rows keep the order of the samples.

    Raises:
        BatchError: a sequence is empty (in a packed batch), an id is outside the vocabulary, or rows do not fit each
            other; the message names the row.
    """
    try:
        columns = _columns(samples, sequence)
        tokens, lengths = _token_columns(columns, sequence, per_token, vocab_size)
        if packed:
            batch = Batch(_packed(tokens, lengths))
        else:
            fills = {name: pad_id if name == sequence else label_pad_id for name in tokens}
            batch = Batch(_padded(tokens, lengths, fills))
        batch["lengths"] = torch.from_numpy(lengths)
        for name, column in columns.items():
            if name not in tokens:
                batch[name] = _row_column(column, name)
    except _RowError as error:
        number = getattr(samples[error.row], "number", None)
        name = f"row {error.row} of the batch" if number is None else f"row {number}"
        raise BatchError(f"{name}{error.reason}") from None
    if hasattr(samples[0], "number"):
        batch.rows = np.array([sample.number for sample in samples], np.int64)
    return batch


def unpack(sequences: PackedSequence | Tensor, lengths: Tensor | None = None) -> list[Tensor]:
    """The rows of a batch, in the order in which they were given to `collate`, without padding.

    Args:
        sequences: packed, as an LSTM returns them; or padded, [batch, longest, ...].
        lengths: int64[batch], of a padded batch.

    Returns:
        A tensor [length, ...] for each row. Gradients flow through it.
    """
    if not isinstance(sequences, PackedSequence):
        if lengths is None:
            raise BatchError("a padded batch does not know its lengths; pass unpack(padded, batch['lengths'])")
        return [row[:length] for row, length in zip(sequences, lengths.tolist(), strict=True)]
    sizes = sequences.batch_sizes
    row = torch.arange(int(sizes[0]))[:, None]
    exists = row < sizes
    places = ((sizes.cumsum(0) - sizes) + row)[exists]
    rows = sequences.data[places.to(sequences.data.device)].split(exists.sum(1).tolist())
    if sequences.unsorted_indices is None:
        return list(rows)
    return [rows[index] for index in sequences.unsorted_indices.tolist()]


class _RowError(Exception):
    """What is wrong with a row of the batch, which is named where the samples are at hand."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(row, reason)
        self.row, self.reason = row, reason


def _columns(samples: Sequence[Any], sequence: str) -> dict[str, list[Any]]:
    if not len(samples):
        raise BatchError("the batch has no samples")
    first = samples[0]
    if isinstance(first, Mapping):
        for row, sample in enumerate(samples):
            if sample.keys() != first.keys():
                raise _RowError(row, f" has the columns {', '.join(sample)}, but others have {', '.join(first)}")
        return {name: [sample[name] for sample in samples] for name in first}
    if isinstance(first, tuple):
        if any(len(sample) != 2 for sample in samples):
            raise BatchError(f"a sample is a tuple of {len(first)}; pass pairs (sequence, label), or dicts of columns")
        return {sequence: [sample[0] for sample in samples], "labels": [sample[1] for sample in samples]}
    return {sequence: list(samples)}


def _token_columns(
    columns: Mapping[str, list[Any]], sequence: str, per_token: Collection[str], vocab_size: int | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The values of the columns that have one per token, and the lengths of the rows."""
    tokens: dict[str, NDArray[Any]] = {}
    lengths = np.empty(0, np.int64)
    for name in (sequence, *per_token):
        if name not in columns:
            raise BatchError(f"the samples have no column {name!r}; they have {', '.join(columns)}")
        tokens[name], own = _ragged(columns[name], name)
        if name == sequence:
            lengths = own
        wrong = np.flatnonzero(own != lengths)
        if len(wrong):
            row = int(wrong[0])
            reason = f" has {lengths[row]} tokens, but {own[row]} values of {name!r}"
            raise _RowError(row, f"{reason}; a column of per_token has one per token")
    if tokens[sequence].ndim == 1:
        _check_ids(tokens[sequence], lengths, sequence, vocab_size)
    return tokens, lengths


def _ragged(rows: list[Any], name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All rows one after the other, [tokens] or [tokens, features], and their lengths."""
    if all(isinstance(row, list) for row in rows) and not any(row and isinstance(row[0], list) for row in rows):
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        try:
            values = np.array(list(chain.from_iterable(rows)))
        except (ValueError, TypeError) as error:
            raise BatchError(f"{name!r} holds what is no number ({error})") from error
        return _narrow(values if len(values) else np.empty(0, np.int64), name), lengths
    arrays = [np.asarray(row) for row in rows]
    shape = next((array.shape[1:] for array in arrays if len(np.atleast_1d(array))), ())
    for row, array in enumerate(arrays):
        if array.ndim == 0:
            raise _RowError(row, f": {name!r} is {rows[row]!r:.60}, not a sequence")
        if len(array) and array.shape[1:] != shape:
            raise _RowError(row, f": {name!r} has shape {list(array.shape)}, but other rows have {['length', *shape]}")
    lengths = np.array([len(array) for array in arrays], np.int64)
    filled = [array for array in arrays if len(array)]
    return _narrow(np.concatenate(filled) if filled else np.empty(0, np.int64), name), lengths


def _narrow(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Numbers as PyTorch is fed with them: int64, float32 or bool; float16 and float32 stay."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64, copy=False)
    if values.dtype == np.float64:
        return values.astype(np.float32)
    if values.dtype.kind in "fb":
        return values
    raise BatchError(f"{name!r} holds what is no number (its type is {values.dtype})")


def _check_ids(values: NDArray[Any], lengths: NDArray[np.int64], name: str, vocab_size: int | None) -> None:
    if values.dtype.kind != "i":
        raise BatchError(f"{name!r} holds {values.dtype} where ids are integers; feature vectors are [time, features]")
    wrong = np.flatnonzero((values < 0) | (values >= vocab_size) if vocab_size is not None else values < 0)
    if len(wrong):
        ends = np.cumsum(lengths)
        row = int(np.searchsorted(ends, wrong[0], side="right"))
        token = int(wrong[0] - (ends[row] - lengths[row]))
        limit = "" if vocab_size is None else f", but the vocabulary has {vocab_size}: ids are 0 to {vocab_size - 1}"
        raise _RowError(row, f", token {token}: the id is {values[wrong[0]]}{limit}")


def _packed(tokens: Mapping[str, NDArray[Any]], lengths: NDArray[np.int64]) -> dict[str, PackedSequence]:
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise _RowError(
            int(empty[0]),
            " has no tokens, and a PackedSequence holds no such row; leave it out, as LengthBatchSampler does,"
            " or pass packed=False",
        )
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    step = np.arange(lengths.max())[:, None]
    places = (starts + step)[step < lengths[order]]
    sizes = torch.from_numpy(np.bincount(lengths, minlength=len(step) + 1)[::-1].cumsum()[::-1][1:].copy())
    by_length = unsorted = None
    if (np.diff(order) < 0).any():
        by_length, unsorted = torch.from_numpy(order), torch.from_numpy(np.argsort(order))
    return {
        name: PackedSequence(torch.from_numpy(values[places]), sizes, by_length, unsorted)
        for name, values in tokens.items()
    }


def _padded(
    tokens: Mapping[str, NDArray[Any]], lengths: NDArray[np.int64], fills: Mapping[str, int]
) -> dict[str, Tensor]:
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]
    columns = {}
    for name, values in tokens.items():
        fill = fills[name] if values.dtype.kind == "i" else 0
        column = np.full((*real.shape, *values.shape[1:]), fill, values.dtype)
        column[real] = values
        columns[name] = torch.from_numpy(column)
    return {**columns, "attention_mask": torch.from_numpy(real.astype(np.int64))}


def _row_column(column: list[Any], name: str) -> Tensor | list[Any]:
    if any(value is None or isinstance(value, str | bytes | Mapping) for value in column):
        return column
    arrays = [np.asarray(value) for value in column]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise _RowError(
                row,
                f": {name!r} has shape {list(array.shape)}, but others have {list(arrays[0].shape)};"
                " if it has one value per token, name it in per_token",
            )
    stacked = np.stack(arrays)
    return torch.from_numpy(_narrow(stacked, name)) if stacked.dtype.kind in "iufb" else column
