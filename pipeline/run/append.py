"""`encode.append`: goes on where a folder ends when its input has gained rows.

- Rows that are new become new shards. Those that were there stay byte for byte, which readers and copies of the folder
  can rely on; the last one may therefore be smaller than the others.
- Rows of files that were not there before come after all others, whatever the files' names: rows have the order in
  which they were added.
- Rows that were begun, and of which no shard was committed, are planned anew by the next run.
- Only a process that is alone with the folder decides which rows are new. So parts of a run encode what `plan_append`
  has recorded, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lengthwise.config import RunConfig
from lengthwise.data.input import Input, base_folder
from lengthwise.data.source import Source
from lengthwise.encoder.engine import Engine
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.finalize import drop_damaged, finalize, open_finished
from lengthwise.run.growing import AppendRun, EncodeShards, Planned, check_no_more
from lengthwise.run.identity import input_identity, model_identity
from lengthwise.run.labels import check_columns
from lengthwise.run.lineage import find_lineages
from lengthwise.run.local import encode_pending, open_store
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.progress import progress_bar
from lengthwise.run.reuse import Reuse
from lengthwise.run.reuse_folders import open_reuse
from lengthwise.run.shard import ShardEncoder
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.input_record import InputRecord
from lengthwise.store.parts import Part
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer


def encode_append(
    config: RunConfig,
    found: Input,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    part: Part | None = None,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """Encode the rows of an input that the folder `encode.output` does not have, into shards of their own.

    Args and errors are those of `lengthwise.run.local.encode_dataset`. A part encodes rows that `plan_append` recorded.

    Raises:
        DatasetError: rows that were encoded are gone or have changed.
        StoreError: the input has rows that a part cannot encode, as they are not recorded.
    """
    started = time.perf_counter()
    with open_append(
        config, tokenizer, engine, part=part, fresh=fresh, show_progress=show_progress, choice=choice
    ) as run:
        if part is None:
            run.encode_all(found)
        else:
            run.encode_part(found, part)
        return run.report(time.perf_counter() - started, choice, is_complete=part is None)


def plan_append(
    config: RunConfig,
    found: Input,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    fresh: bool = False,
    choice: PrecisionChoice | None = None,
) -> Planned:
    """Record the rows of an input that the folder `encode.output` does not have, and encode none.

    The parts of a run then encode them, and a stream is read to its end for it. Args and errors are those of
    `encode_append`.
    """
    identity = model_identity(config, tokenizer, engine)
    check_columns(config, engine.classifier)
    with open_growing(config, identity, engine.batch_invariant, _encode_none, fresh=fresh, choice=choice) as run:
        return run.plan(found)


@contextmanager
def open_append(
    config: RunConfig,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    part: Part | None = None,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> Iterator[AppendRun]:
    """The folder `encode.output`, whose shards this process encodes; see `open_growing`."""
    check_columns(config, engine.classifier)

    def encode(source: Source, is_pending: Callable[[int], bool], store: VectorStore, reuse: Reuse) -> ShardStats:
        encoder = ShardEncoder(config, source, tokenizer, engine, store.folder, store.identity_hash, reuse)
        with progress_bar(source, part, show_progress) as bar:
            return encode_pending(source, encoder, store, is_pending, bar)

    identity = model_identity(config, tokenizer, engine)
    with open_growing(config, identity, engine.batch_invariant, encode, part=part, fresh=fresh, choice=choice) as run:
        yield run


@contextmanager
def open_growing(
    config: RunConfig,
    model: Mapping[str, Any],
    batch_invariant: bool,
    encode: EncodeShards,
    *,
    part: Part | None = None,
    fresh: bool = False,
    choice: PrecisionChoice | None = None,
) -> Iterator[AppendRun]:
    """The folder `encode.output`, locked for this run, or for its part, until the end of the block.

    Args:
        model: `model_identity`.
        batch_invariant: as that of the engine.

    Raises:
        StoreError: it is of another run, another process writes to it, or it cannot be written.
        ConfigError: the folder lies in that of the input, or the run has a key.
    """
    _check_is_elsewhere(config)
    if config.dataset.key is not None and config.encode.reuse:
        raise ConfigError(
            f"dataset.key is {config.dataset.key!r}, but a run with encode.append writes no changes/: its new shards"
            " are what has been added; leave it out"
        )
    identity = {**input_identity(config, ""), **model}
    with (
        open_reuse(config, identity, batch_invariant=batch_invariant) as reuse,
        open_store(config, identity, part=part, fresh=fresh, choice=choice, sources=reuse.sources, grows=True) as store,
    ):
        yield AppendRun(config, store, reuse, encode)


def finalize_appended(config: RunConfig, found: Input, *, verify: bool = True) -> dict[str, Any]:
    """`finalize_folder` for a run with `encode.append`.

    Raises:
        DatasetError: a file that the folder has rows of is gone, or its rows have changed.
        StoreError: as `finalize_folder`, or the input has rows that the folder has not.
    """
    with open_finished(config) as store:
        if verify:
            drop_damaged(store)
        record = store.input or InputRecord({})
        lineages = find_lineages(found, record, config) if record.rows else []
        check_no_more(lineages, store, record, config, "run the command that encodes again")
        if not lineages:
            raise StoreError(f"{store.folder}: its run has not ended; run the command that encodes again")
        return finalize(store, config, record)


def _encode_none(source: Source, is_pending: Callable[[int], bool], store: VectorStore, reuse: Reuse) -> ShardStats:
    return ShardStats()


def _check_is_elsewhere(config: RunConfig) -> None:
    """Refuse an output in the input's folder, whose shards would be new files of the input."""
    source, output = config.dataset.path, config.encode.output
    if "**" in source:  # which matches folders at any depth
        source = base_folder(source, is_folder=False, is_glob=True)
    if "://" in source or "://" in output:
        is_inside = output.rstrip("/").startswith(f"{source.rstrip('/')}/")
    else:
        folder = Path(source).expanduser()
        is_inside = folder.is_dir() and Path(output).expanduser().resolve().is_relative_to(folder.resolve())
    if is_inside:
        raise ConfigError(
            f"encode.output is {output!r}, in the folder {source!r} that is read, where its shards would be new files;"
            " choose another encode.output"
        )
