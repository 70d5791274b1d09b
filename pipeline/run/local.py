"""Encodes a dataset on one machine: reading and planning, encoding and writing run side by side, one shard apart.

Each of the three has a thread of its own, so at most three shards are in memory: one that is written, one that is
encoded, and one that is planned and waits. A failure in any of them ends the run with its own error; committed shards
are kept.

One thread writes about a million tokens per second (vectors 1,024 wide), and a GPU is faster. So a machine of many
cores writes several shards at a time when they come that fast, and each of these is one more in memory; see `writers`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lengthwise.config import RunConfig
from lengthwise.data.dataset import Shard, Source
from lengthwise.encoder.engine import Engine
from lengthwise.errors import LengthwiseError, RunError
from lengthwise.run.changes import check_changes
from lengthwise.run.finalize import finalize, record_input
from lengthwise.run.identity import run_identity
from lengthwise.run.labels import check_columns
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.progress import ProgressBar, progress_bar
from lengthwise.run.reuse_folders import open_reuse
from lengthwise.run.shard import EncodedChunk, ShardEncoder
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.parts import Part
from lengthwise.store.records import ReuseSources
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import BackgroundExecutor, prefetch

log = logging.getLogger(__name__)


def encode_dataset(
    config: RunConfig,
    source: Source,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    part: Part | None = None,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """Encode a dataset into the folder `encode.output`, shard by shard.

    Shards of the same run that the folder already holds are verified and kept.

    Args:
        part: encode this part of the shards only, and leave the folder to `finalize_folder`.
        fresh: remove what the folder holds, of this run or another.
        choice: how the precision was chosen, if it was.

    Raises:
        StoreError: the folder holds another run, another process writes to it, or it cannot be written.
        TextError, DatasetError: a row cannot be encoded, or read.
        ConfigError: `encode.reuse` holds the output, or the run has a key that its folders cannot be compared by.
        RunError: any other failure, which is its cause.
    """
    check_columns(config, engine.classifier)
    check_changes(config, source)
    identity = run_identity(config, source, tokenizer, engine)
    started = time.perf_counter()
    with (
        open_reuse(config, identity, batch_invariant=engine.batch_invariant) as reuse,
        open_store(config, identity, part=part, fresh=fresh, choice=choice, sources=reuse.sources) as store,
        progress_bar(source, part, show_progress) as bar,
    ):
        encoder = ShardEncoder(config, source, tokenizer, engine, store.folder, store.identity_hash, reuse)
        stats = encode_pending(source, encoder, store, pending_filter(store, part, bar.update), bar)
        if part is None:
            finalize(store, config, record_input(source))
        notes = reuse.describe(stats.reused)
    seconds = time.perf_counter() - started
    return make_report(store, stats, seconds, is_complete=part is None, choice=choice, reuse=notes)


def open_store(
    config: RunConfig,
    identity: Mapping[str, Any],
    *,
    part: Part | None = None,
    fresh: bool = False,
    choice: PrecisionChoice | None = None,
    sources: ReuseSources = ReuseSources(),
    grows: bool = False,
) -> VectorStore:
    """The store at `encode.output`; the arguments are those of `VectorStore.open`."""
    settings = config.encode
    return VectorStore.open(
        settings.output,
        identity,
        config.to_yaml(),
        bad_rows=settings.bad_rows,
        part=part,
        fresh=fresh,
        precision_json=None if choice is None else choice.to_json(),
        sources=sources,
        grows=grows,
    )


def make_report(
    store: VectorStore,
    stats: ShardStats,
    seconds: float,
    *,
    is_complete: bool = True,
    choice: PrecisionChoice | None = None,
    reuse: Sequence[str] = (),
) -> EncodeReport:
    """The report of a run; rows that need attention are logged."""
    totals = store.totals()
    flagged = {
        "are empty": totals.empty,
        "are null or not Unicode": totals.null,
        "could not be encoded": totals.bad - totals.null,
        "are truncated": totals.truncated,
    }
    for flag, count in flagged.items():
        if count:
            log.warning("%d of %d texts %s", count, totals.rows, flag)
    chosen = "" if choice is None else choice.describe()
    return EncodeReport(totals, stats, is_complete, store.identity["engine"], seconds, chosen, tuple(reuse))


@contextmanager
def wrap_errors(output: str) -> Iterator[None]:
    """Turn an unforeseen exception into a RunError that says what is safe and how to resume."""
    try:
        yield
    except LengthwiseError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunError(
            f"{output}: the run failed ({reason}); the shards that were committed are safe, and the same"
            " command resumes from there"
        ) from error


def pending_filter(store: VectorStore, part: Part | None, on_skip: Callable[[int], object]) -> Callable[[int], bool]:
    """A function of a shard's number: whether the shard is still to be encoded.

    Args:
        on_skip: is called with the number of rows of each shard that is committed already.
    """

    def is_pending(index: int) -> bool:
        if part is not None and not part.owns(index):
            return False
        record = store.committed(index)
        if record is not None:
            on_skip(record.rows)
        return record is None

    return is_pending


def writers() -> int:
    """How many shards may be written at a time: one per four cores, at most four."""
    return min(4, max(1, cpu_count() // 4))


def encode_pending(
    source: Source, encoder: ShardEncoder, store: VectorStore, is_pending: Callable[[int], bool], bar: ProgressBar
) -> ShardStats:
    """Encode and commit the shards for whose numbers `is_pending` is true."""
    stats = ShardStats()
    lock = threading.Lock()

    def write(shard: Shard, chunks: list[EncodedChunk]) -> None:
        nonlocal stats
        record, took = encoder.write(shard, chunks)
        with lock:
            store.add(record)
            stats += took

    chunks: list[EncodedChunk] = []
    shards = source.shards(is_pending)
    with (
        wrap_errors(str(store.folder)),
        prefetch(encoder.plan_chunks(shards)) as planned,
        BackgroundExecutor(writers()) as background,
    ):
        for shard, chunk in planned:
            background.check()
            chunks.append(encoder.encode_chunk(shard, chunk, bar.advance))
            if chunk.is_last:
                background.submit(partial(write, shard, chunks))
                chunks = []
    return stats
