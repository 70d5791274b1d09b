"""The loop over a dataset's shards: read, tokenize and plan, encode, write, each a shard apart.

The three go on side by side, each in its own thread and one step ahead, so what is in memory is three shards at the
most: one that is written, one that is encoded, and one that is read and then waits. A failure in any of them ends the
run with its own error; shards that were committed stay.

One thread writes about a million tokens a second (vectors 1,024 wide), which a GPU outruns. So a machine of many cores
writes several shards at a time where they come so fast, and each of these is one more in memory; see `writers`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise.batching.plan import PlanReport
from lengthwise.config import RunConfig
from lengthwise.data.dataset import Shard, Source
from lengthwise.encoder.engine import Engine
from lengthwise.errors import LengthwiseError, RunError
from lengthwise.run.finalize import finalize
from lengthwise.run.identity import run_identity
from lengthwise.run.shard import EncodedPiece, PlannedPiece, ShardEncoder, ShardStats, StageSeconds
from lengthwise.store.parts import Part
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import BackgroundExecutor, prefetch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeReport:
    """What a run did.

    Attributes:
        rows, tokens, empty, null, bad, truncated: of the whole folder; of a part, of the shards that it knows of.
        complete: whether the folder is, as it is unless the run was one part of several.
        engine: the name of what computed.
        encoded_shards: shards that this run encoded; the rest were there already.
        encoded_rows, encoded_tokens: their rows and tokens.
        repeated_rows: rows among them whose ids stood in the shard before, and were not computed again.
        seconds: what this run took, checking the shards that were there included.
        stages: where the time went.
        lengths: int64[longest + 1], how many of the encoded rows have each number of tokens.
        plan: what their batches cost.
        unplanned: what batches of 64 rows in the dataset's order would cost, their padding computed.
        max_deviation, min_cosine: from float32, where a precision below it was asked for.
    """

    rows: int
    tokens: int
    empty: int
    null: int
    bad: int
    truncated: int
    complete: bool
    engine: str
    encoded_shards: int
    encoded_rows: int
    encoded_tokens: int
    repeated_rows: int
    seconds: float
    stages: StageSeconds
    lengths: NDArray[np.int64]
    plan: PlanReport
    unplanned: PlanReport
    max_deviation: float | None
    min_cosine: float | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens this run encoded a second, reading and writing included; 0 where it encoded none."""
        return self.encoded_tokens / self.seconds if self.encoded_tokens else 0.0


def encode_dataset(
    run: RunConfig,
    source: Source,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    part: Part | None = None,
    fresh: bool = False,
    show_progress: bool = True,
) -> EncodeReport:
    """Encode a dataset into the folder `encode.output`, shard by shard.

    While one shard is encoded, the next one is read and tokenized and the one before is written. Shards that the
    folder already holds, of the same run, are verified and left as they are.

    Args:
        part: encode this part of the shards only, and leave the folder to be finished by `finalize`.
        fresh: remove what the folder holds, whatever run it is of.

    Raises:
        StoreError: the folder holds another run, is written to by another process, or cannot be written.
        TextError, DatasetError: a row cannot be encoded, or read.
        RunError: anything else went wrong; what, is its cause.
    """
    identity = run_identity(run, source, tokenizer, engine)
    started = time.perf_counter()
    with open_store(run, identity, part=part, fresh=fresh) as store, progress_bar(source, part, show_progress) as bar:
        shards = ShardEncoder(run, source, tokenizer, engine, store.folder, store.identity_hash)
        stats = _encode_pending(source, shards, store, part, bar)
        if part is None:
            finalize(store, run, source.count_rows())
    return make_report(store, stats, engine.name, time.perf_counter() - started, complete=part is None)


def open_store(
    run: RunConfig, identity: Mapping[str, Any], *, part: Part | None = None, fresh: bool = False
) -> VectorStore:
    """The store at `encode.output`."""
    return VectorStore.open(
        run.encode.output, identity, run.to_yaml(), bad_rows=run.encode.bad_rows, part=part, fresh=fresh
    )


def make_report(
    store: VectorStore, stats: ShardStats, engine: str, seconds: float, *, complete: bool = True
) -> EncodeReport:
    """The report of a run; what a person should know of the rows is logged."""
    counts = asdict(store.totals())
    told = {
        "are empty": counts["empty"],
        "are null or not Unicode": counts["null"],
        "could not be encoded": counts["bad"] - counts["null"],
        "are truncated": counts["truncated"],
    }
    for what, count in told.items():
        if count:
            log.warning("%d of %d texts %s", count, counts["rows"], what)
    return EncodeReport(
        **counts,
        complete=complete,
        engine=engine,
        encoded_shards=stats.shards,
        encoded_rows=stats.rows,
        encoded_tokens=stats.tokens,
        repeated_rows=stats.repeated,
        seconds=seconds,
        stages=stats.stages,
        lengths=stats.lengths,
        plan=stats.plan,
        unplanned=stats.unplanned,
        max_deviation=stats.max_deviation,
        min_cosine=stats.min_cosine,
    )


@contextmanager
def wrap_errors(output: str) -> Iterator[None]:
    """Whatever is raised inside and is no error of ours becomes one that says what is safe, and what to do."""
    try:
        yield
    except LengthwiseError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunError(
            f"{output}: the run broke off ({reason}); the shards that were committed are safe, and the same command"
            " goes on from there"
        ) from error


class ProgressBar(tqdm):
    """A bar of rows that shows tokens a second too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tokens, self._began = 0, time.perf_counter()

    def advance(self, rows: int, tokens: int) -> None:
        """So many more are done."""
        self._tokens += tokens
        self.set_postfix_str(f"{self._tokens / (time.perf_counter() - self._began):,.0f} tokens/s", refresh=False)
        self.update(rows)


def progress_bar(source: Source, part: Part | None, show_progress: bool) -> ProgressBar:
    """The bar of a run, or of its part."""
    total = source.num_rows
    if total is not None and part is not None:
        size = source.settings.shard_rows
        total = sum(min(size, total - start) for start in range(part.index * size, total, part.count * size))
    return ProgressBar(total=total, unit=" rows", desc="encode", disable=not show_progress, smoothing=0.05)


def pending_shards(store: VectorStore, part: Part | None, skipped: Callable[[int], object]) -> Callable[[int], bool]:
    """Whether a shard is still to be encoded, as a function of its number; `skipped` is told the rows of others."""

    def is_pending(index: int) -> bool:
        if part is not None and not part.owns(index):
            return False
        record = store.committed(index)
        if record is not None:
            skipped(record.rows)
        return record is None

    return is_pending


def writers() -> int:
    """How many shards may be written at a time: one for four cores, and four at the most."""
    return min(4, max(1, cpu_count() // 4))


def _encode_pending(
    source: Source, shards: ShardEncoder, store: VectorStore, part: Part | None, bar: ProgressBar
) -> ShardStats:
    """Encode and commit what is not committed yet."""
    stats = ShardStats()
    lock = threading.Lock()

    def finish(shard: Shard, pieces: list[EncodedPiece]) -> None:
        nonlocal stats
        record, took = shards.written(shard, [*pieces[:-1], shards.storable(pieces[-1])])
        with lock:
            store.add(record)
            stats += took

    pieces: list[EncodedPiece] = []
    wanted = pending_shards(store, part, bar.update)
    with (
        wrap_errors(str(store.folder)),
        prefetch(_planned(source, shards, wanted)) as planned,
        BackgroundExecutor(writers()) as background,
    ):
        for shard, piece, seconds in planned:
            background.check()
            pieces.append(shards.encoded(piece, seconds, bar.advance))
            if sum(len(piece.lengths) for piece in pieces) == shard.table.num_rows:
                background.submit(partial(finish, shard, pieces))
                pieces = []
            else:
                pieces[-1] = shards.storable(pieces[-1])  # here, where its shard is not there to be written yet
    return stats


def _planned(
    source: Source, shards: ShardEncoder, wanted: Callable[[int], bool]
) -> Iterator[tuple[Shard, PlannedPiece, float]]:
    """The pieces of each wanted shard, and the seconds that reading, tokenizing and planning took."""
    began = time.perf_counter()
    for shard in source.shards(wanted):
        for piece in shards.planned(shard):
            yield shard, piece, time.perf_counter() - began
            del piece  # it is whoever takes it who keeps it
            began = time.perf_counter()
