"""`iter_batches`: batches of like lengths from a dataset whose lengths are not known beforehand.

Rows are read into a bounded buffer and tokenized on the way; whenever it is full, the batches that it can fill with
rows of one length leave it.

Decisions:
- Worker processes divide the rows, ranks divide the batches: every rank reads all rows, makes the same plan, and takes
  its own batch of each step. So all ranks get the same number of batches without a message; what it costs is that each
  rank tokenizes everything. Tokenize the dataset beforehand where that is too much.
- A saved position is row numbers, not rows: continuing reads again what was in the buffer, and nothing else of a
  dataset with random access. A stream is read again from its beginning, but tokenized only from the buffer on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from lengthwise.batching.collate import collate
from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.epoch import EpochPlan, plan_epoch, plan_full_batches
from lengthwise.batching.rows import Reader, Row, Rows
from lengthwise.batching.sampler import TRAINING, batch_limits, check_replicas
from lengthwise.config import TokenizationSettings
from lengthwise.errors import BatchError
from lengthwise.tokens.tokenizer import TextTokenizer

BUFFER_ROWS = 20_000
_CHUNK = 1_000  # rows that are read and tokenized together
_LEAST = 0.25  # of the buffer that has to leave it when it is full


def iter_batches(
    dataset: Any,
    tokenizer: TextTokenizer | None = None,
    *,
    column: str | None = None,
    max_tokens: int | None = 4_096,
    batch_size: int | None = None,
    epochs: int | None = 1,
    shuffle: bool = True,
    seed: int = 0,
    buffer_rows: int = BUFFER_ROWS,
    num_replicas: int = 1,
    rank: int = 0,
    tokenization: TokenizationSettings | None = None,
    costs: BatchCosts = TRAINING,
    collate_fn: Callable[[Sequence[Any]], Any] = collate,
) -> BatchStream:
    """Batches of a dataset, for a loop of one's own or for `DataLoader(stream, batch_size=None, num_workers=n)`.

    Every row of at least one token is in one batch per epoch, of one rank and one worker.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset`, a list, or another iterable that can be read again; of rows
            (dicts of columns), texts, or sequences.
        tokenizer: makes ids of texts. None where the column has ids, or feature vectors float[time, features].
        column: the column of texts or sequences; "text" with a tokenizer and "input_ids" without. In a batch it is
            "input_ids" where a tokenizer is given. All other columns come along; see `datasets`' `select_columns`.
        max_tokens: the most cells (rows x longest row) of a batch.
        batch_size: the most rows of a batch.
        epochs: how often the dataset is read in one iteration; None for ever.
        shuffle: rows in random order. A stream is shuffled within the buffer; its own `shuffle` shuffles its shards,
            and its `set_epoch` is called.
        seed: of all that is random.
        buffer_rows: the most rows in memory, times `num_replicas`, per worker.
        num_replicas: processes that train together.
        rank: the process whose batches these are.
        tokenization: special tokens, `max_length` and truncation; those of `TokenizationSettings` by default.
        costs: as for `LengthBatchSampler`.
        collate_fn: makes a batch of samples.

    Raises:
        BatchError: settings that contradict each other; and, while iterating, a row without a length.
        TextError: while iterating, a row that cannot be tokenized. The message names the row.
    """
    column = column or ("input_ids" if tokenizer is None else "text")
    if epochs is not None and epochs < 1:
        raise BatchError(f"epochs is {epochs}; pass 1 or more, or None for ever")
    if buffer_rows < 1:
        raise BatchError(f"buffer_rows is {buffer_rows}; pass 1 or more")
    check_replicas(seed, num_replicas, rank)
    limits = batch_limits(costs, max_tokens, batch_size)
    settings = _Settings(limits, epochs, shuffle, seed, buffer_rows * num_replicas, num_replicas, rank)
    return BatchStream(Rows(dataset, column, tokenizer, tokenization or TokenizationSettings()), settings, collate_fn)


@dataclass(frozen=True)
class _Settings:
    costs: BatchCosts
    epochs: int | None
    shuffle: bool
    seed: int
    buffer_rows: int
    num_replicas: int
    rank: int


@dataclass(frozen=True)
class _Position:
    """Where an iteration is: in a cycle of filling the buffer and taking batches out of it.

    Attributes:
        epoch: the epoch's number.
        until: the epoch before which the iteration ends; None where it has not begun, or never ends.
        cycle: the cycle's number in the epoch.
        read: rows that this worker has read of the epoch.
        buffer: numbers of the rows that were in the buffer when the cycle began.
        lengths: of these rows.
        taken: batches that were taken since then.
    """

    epoch: int = 0
    until: int | None = None
    cycle: int = 0
    read: int = 0
    buffer: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    taken: int = 0


class BatchStream(IterableDataset[Any]):
    """The batches of `iter_batches`. An iteration begins where the last one was left or a state was loaded."""

    def __init__(self, rows: Rows, settings: _Settings, collate_fn: Callable[[Sequence[Any]], Any]) -> None:
        self._rows, self._settings, self._collate = rows, settings, collate_fn
        self._position = _Position()

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._position.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration begins with. A position loaded for this very epoch is kept.

        Worker processes work on copies of the stream: a loop that starts new ones in every epoch has to call this.
        """
        if epoch != self._position.epoch:
            self._position = _Position(epoch)

    def __iter__(self) -> Iterator[Any]:
        if self._position.until is None and self._settings.epochs is not None:
            self._position = replace(self._position, until=self._position.epoch + self._settings.epochs)
        until = self._position.until
        while until is None or self._position.epoch < until:
            yield from self._rest_of_epoch()
            self._position = _Position(self._position.epoch + 1, until)
        self._position = _Position(until)

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches that were taken, as plain data: row numbers, no texts."""
        position = {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self._position).items()
        }
        return {**position, "settings": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved.

        Raises:
            BatchError: it was saved by a stream of other settings, rows or worker processes. While iterating: a row has
                another length than it had.
        """
        if not isinstance(state, Mapping) or state.keys() != self.state_dict().keys():
            raise BatchError("this is not the state of a stream of batches; pass what its state_dict() returned")
        for name, value in self._identity().items():
            if value != state["settings"].get(name):
                raise BatchError(
                    f"the saved state does not fit this stream: {name}: {value} here,"
                    f" {state['settings'].get(name)} in the saved state; make the stream as it was made then"
                )
        saved = {name: state[name] for name in vars(self._position)}
        self._position = _Position(**{**saved, "buffer": tuple(saved["buffer"]), "lengths": tuple(saved["lengths"])})

    def _identity(self) -> dict[str, Any]:
        costs = self._settings.costs
        return {
            "max_tokens": costs.max_tokens,
            "batch_size": costs.max_rows,
            "costs": [costs.step, costs.mixed, costs.pads],
            "shuffle": self._settings.shuffle,
            "seed": self._settings.seed,
            "rows in the buffer": self._settings.buffer_rows,
            "num_replicas": self._settings.num_replicas,
            "rows in the dataset": self._rows.count,
            "worker processes": _worker()[1],
        }

    def _rest_of_epoch(self) -> Iterator[Any]:
        settings, start = self._settings, self._position
        worker, workers = _worker()
        order = (settings.seed, start.epoch) if settings.shuffle else None
        reader = self._rows.reader(start.epoch, order, worker, workers)
        buffer = self._restore(reader, start)
        cycle, taken = start.cycle, start.taken
        exhausted = False
        while not exhausted:
            exhausted = self._fill(buffer, reader)
            lengths = [row.length for row in buffer]
            numbers = tuple(row.number for row in buffer)
            position = _Position(start.epoch, start.until, cycle, reader.read, numbers, tuple(lengths))
            plan = self._plan(lengths, (settings.seed, start.epoch, worker, cycle), everything=exhausted)
            for step in range(taken, len(plan) // settings.num_replicas):
                self._position = replace(position, taken=step + 1)
                batch = plan.batch(step * settings.num_replicas + settings.rank)
                yield self._collate([buffer[index] for index in batch])
            left = np.ones(len(buffer), np.bool_)
            left[plan.rows] = False
            buffer = [buffer[index] for index in np.flatnonzero(left)]
            cycle, taken = cycle + 1, 0

    def _fill(self, buffer: list[Row], reader: Reader) -> bool:
        """Read until the buffer is full; whether the dataset is exhausted."""
        while len(buffer) < self._settings.buffer_rows:
            found = reader.take(min(_CHUNK, self._settings.buffer_rows - len(buffer)))
            if not found:
                return True
            buffer += self._rows.prepare(found)
        return False

    def _plan(self, lengths: Sequence[int], seed: tuple[int, ...], *, everything: bool) -> EpochPlan:
        """Batches of the rows that fill batches of their own length, if these are many, or of the whole buffer."""
        array, ranks = np.array(lengths, np.int64), self._settings.num_replicas
        if not everything:
            plan = plan_full_batches(array, self._settings.costs, self._rng(seed), ranks=ranks)
            if len(plan.rows) >= _LEAST * len(lengths):
                return plan
        return plan_epoch(array, self._settings.costs, self._rng(seed), ranks=ranks)

    def _rng(self, seed: tuple[int, ...]) -> np.random.Generator | None:
        return np.random.default_rng(seed) if self._settings.shuffle else None

    def _restore(self, reader: Reader, position: _Position) -> list[Row]:
        """The buffer of a saved position, read again."""
        buffer = self._rows.prepare(reader.read_again(position.read, position.buffer))
        found = {row.number: row.length for row in buffer}
        for number, length in zip(position.buffer, position.lengths, strict=True):
            if found.get(number) != length:
                raise BatchError(
                    f"row {number} has {found.get(number, 0)} tokens, and had {length} when the state was saved;"
                    " continue with the dataset and tokenizer of then, or begin the epoch anew"
                )
        return buffer


def _worker() -> tuple[int, int]:
    """The number of this DataLoader worker, and how many there are; 0 and 1 in the main process."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
