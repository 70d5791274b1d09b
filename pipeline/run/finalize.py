"""The end of a run: check that its folder is complete, describe it, and mark it as complete.

A run on one machine or on a cluster does so by itself. The parts of a divided run do not know of each other; for them
`lengthwise finalize` does it.
"""

from __future__ import annotations

from typing import Any

from lengthwise.config import RunConfig
from lengthwise.data.dataset import Source
from lengthwise.data.readers import reading_record
from lengthwise.errors import StoreError
from lengthwise.run.card import dataset_card
from lengthwise.run.changes import write_changes
from lengthwise.run.identity import input_identity
from lengthwise.store.fingerprint import describe_changes, read_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.input_record import InputRecord, Segment
from lengthwise.store.vectors import VectorStore
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import parallel_map


def finalize(store: VectorStore, config: RunConfig, record: InputRecord) -> dict[str, Any]:
    """Check that the folder has every row of the input, and write its card and manifest, which is returned.

    A run with a key then writes its changes (`run.changes`).

    Args:
        record: of the input's rows.

    Raises:
        StoreError: shards are missing, or do not fit the input or each other.
        ConfigError: keys are null or not distinct.
    """
    card = dataset_card(config, store, is_appended=len(record.segments) > 1)
    manifest = store.finish(record.rows or 0, config.dataset.shard_rows, card, record)
    write_changes(config)
    return manifest


def record_input(source: Source) -> InputRecord:
    """The record of an input that is read in one go."""
    segment = Segment(source.fingerprint, 0, source.count_rows(), dict(source.versions))
    return InputRecord(reading_record(source.settings), (segment,))


def finalize_folder(config: RunConfig, source: Source, *, verify: bool = True) -> dict[str, Any]:
    """`finalize` for a folder whose shards other processes have written; no model is loaded.

    Args:
        verify: read all shards and compare their sha256.

    Raises:
        StoreError: the folder is another run's, another process writes to it, or it is incomplete or damaged.
        ConfigError: keys are null or not distinct.
    """
    with open_finished(config, source.fingerprint) as store:
        if verify:
            drop_damaged(store)
        return finalize(store, config, record_input(source))


def open_finished(config: RunConfig, fingerprint: str | None = None) -> VectorStore:
    """The store at `encode.output`, whose shards are there.

    Args:
        fingerprint: the input's; whichever the folder has if it is None.

    Raises:
        StoreError: the folder is another run's, or another process writes to it.
    """
    folder = open_folder(config.encode.output)
    identity = read_identity(folder)
    if identity is None:
        raise StoreError(f"{folder}: not a folder of vectors; encode first, or check encode.output")
    expected = {**identity, **input_identity(config, fingerprint or identity["input"])}
    if changes := describe_changes(identity, expected):
        has_other_rows = not describe_changes({**identity, "input": ""}, {**expected, "input": ""})
        hint = ", with encode.append if its input has grown" if has_other_rows else ""
        raise StoreError(
            f"{folder}: holds the vectors of another run ({changes}); give the run that encoded them{hint}"
        )
    output, bad_rows = config.encode.output, config.encode.bad_rows
    return VectorStore.open(output, identity, config.to_yaml(), bad_rows=bad_rows)


def drop_damaged(store: VectorStore) -> None:
    """Forget shards whose files are missing or changed."""
    indices = list(store.records)
    found = parallel_map(store.committed, indices, cpu_count())
    store.drop([index for index, record in zip(indices, found, strict=True) if record is None])
