"""Rows of a dataset for batches: read in a random order or as they come, tokenized, and numbered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

from lengthwise.batching.permutation import Permutation
from lengthwise.config import TokenizationSettings
from lengthwise.errors import BatchError, TextError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

_CHUNK = 1_000  # rows of a stream that are read together

Numbered = tuple[int, Any]


class Row(dict[str, Any]):
    """The columns of a row.

    Attributes:
        number: its number in the dataset.
        length: of its sequence.
    """

    def __init__(self, columns: Mapping[str, Any], number: int, length: int) -> None:
        super().__init__(columns)
        self.number, self.length = number, length


class Reader(Protocol):
    """One worker's rows of one epoch.

    Attributes:
        read: rows that were read so far.
    """

    read: int

    def take(self, rows: int) -> list[Numbered]:
        """The next rows, with their numbers; fewer at the end, and then none."""
        ...

    def read_again(self, read: int, numbers: Sequence[int]) -> list[Numbered]:
        """Go to where `read` rows were read; of these, the rows of these numbers, in this order."""
        ...


class Rows:
    """A dataset's rows, with ids or feature vectors in `sequence`.

    Args:
        dataset: has `__len__` and `__getitem__`, or can be iterated over again and again.
        column: of texts or sequences.
        tokenizer: makes ids of texts, which go to the column "input_ids"; None where there are sequences already.
        tokenization: how.
    """

    def __init__(
        self, dataset: Any, column: str, tokenizer: TextTokenizer | None, tokenization: TokenizationSettings
    ) -> None:
        self._dataset, self._column = dataset, column
        self._tokenizer, self._tokenization = tokenizer, tokenization
        is_stream = not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))
        self.count: int | None = None if is_stream else len(dataset)
        if is_stream and iter(dataset) is dataset:
            raise BatchError("the dataset is an iterator, which can be read once only; pass what it is made from")

    def reader(self, epoch: int, order: tuple[int, ...] | None, worker: int, workers: int) -> Reader:
        """Reads the rows of one worker.

        Args:
            epoch: goes to the `set_epoch` of a stream, which may then give its rows in another order; their numbers
                are those of this order.
            order: the seed of a random order, of a dataset with random access; None for the dataset's own order.
            worker: its number.
            workers: how many divide the rows.
        """
        if self.count is not None:
            permutation = None if order is None else Permutation(self.count, order)
            return _RandomAccess(self._dataset, self.count, permutation, worker, workers)
        if order is not None and hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(epoch)
        return _Stream(self._dataset, worker, workers)

    def prepare(self, rows: Sequence[Numbered]) -> list[Row]:
        """The rows with their sequences, without those of no tokens.

        Raises:
            BatchError: a row lacks the column, or its sequence.
            TextError: a text cannot be tokenized.
        """
        columns = [self._columns(number, row) for number, row in rows]
        if self._tokenizer is None:
            prepared = [self._with_length(number, row) for (number, _), row in zip(rows, columns, strict=True)]
        else:
            prepared = self._tokenized([number for number, _ in rows], columns, self._tokenizer)
        return [row for row in prepared if row.length]

    def _columns(self, number: int, row: Any) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            return {self._column: row}
        if self._column not in row:
            raise BatchError(f"row {number} has no column {self._column!r}; it has {', '.join(row)}: pass column=")
        return row

    def _with_length(self, number: int, row: Mapping[str, Any]) -> Row:
        sequence = row[self._column]
        if sequence is None or isinstance(sequence, str) or not hasattr(sequence, "__len__"):
            hint = "; pass a tokenizer for texts" if isinstance(sequence, str) else ""
            raise BatchError(f"row {number}: {self._column!r} is {sequence!r:.60}, not a sequence{hint}")
        return Row(row, number, len(sequence))

    def _tokenized(
        self, numbers: Sequence[int], rows: Sequence[Mapping[str, Any]], tokenizer: TextTokenizer
    ) -> list[Row]:
        texts = [row[self._column] for row in rows]
        tokens = tokenize_texts(texts, tokenizer, self._tokenization, bad_rows="quarantine")
        for index, reason in tokens.bad.items():
            raise TextError(f"row {numbers[index]}: {reason}; correct the row or leave it out")
        prepared = []
        for index, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            others = {name: value for name, value in row.items() if name != self._column}
            ids = tokens.row(index).copy()  # a view would keep its whole chunk in memory
            prepared.append(Row({"input_ids": ids, **others}, number, len(ids)))
        return prepared


class _RandomAccess:
    """Every n-th row of a dataset with random access, in its order or a random one."""

    def __init__(self, dataset: Any, count: int, order: Permutation | None, worker: int, workers: int) -> None:
        self._dataset, self._order, self.read = dataset, order, 0
        self._places = range(worker, count, workers)

    def take(self, rows: int) -> list[Numbered]:
        places = self._places[self.read : self.read + rows]
        self.read += len(places)
        numbers = np.array(places, np.int64)
        return self._get(numbers.tolist() if self._order is None else self._order.at(numbers).tolist())

    def read_again(self, read: int, numbers: Sequence[int]) -> list[Numbered]:
        self.read = read
        return self._get(list(numbers))

    def _get(self, numbers: list[int]) -> list[Numbered]:
        if hasattr(self._dataset, "__getitems__"):  # of `datasets`: all rows in one call
            rows = self._dataset.__getitems__(numbers) if numbers else []
        else:
            rows = [self._dataset[number] for number in numbers]
        return list(zip(numbers, rows, strict=True))


class _Stream:
    """Every n-th row of what can only be iterated over."""

    def __init__(self, dataset: Iterable[Any], worker: int, workers: int) -> None:
        self._rows: Iterator[Numbered] = islice(enumerate(_iter_rows(dataset)), worker, None, workers)
        self.read = 0

    def take(self, rows: int) -> list[Numbered]:
        found = list(islice(self._rows, rows))
        self.read += len(found)
        return found

    def read_again(self, read: int, numbers: Sequence[int]) -> list[Numbered]:
        wanted = set(numbers)
        found = {number: row for number, row in islice(self._rows, read) if number in wanted}
        self.read = read
        return [(number, found[number]) for number in numbers if number in found]


def _iter_rows(dataset: Any) -> Iterator[Any]:
    """The rows of a dataset; of `datasets.IterableDataset` all of them, also in a worker process of a DataLoader.

    Iterating over one there gives that worker's shards only, and nothing to the workers beyond them.
    """
    if not hasattr(dataset, "iter"):
        yield from dataset
        return
    for chunk in dataset.iter(batch_size=_CHUNK):
        names = list(chunk)
        yield from (dict(zip(names, values, strict=True)) for values in zip(*chunk.values(), strict=True))
