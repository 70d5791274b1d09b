"""Brings a folder into a state that a run can write to: whose it is, who else writes, and what a crash left in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from lengthwise.errors import StoreError
from lengthwise.store.fingerprint import describe_changes, identity_hash, read_identity
from lengthwise.store.layout import (
    DATA,
    IDENTITY,
    LOCK,
    MANIFEST,
    RECORDS,
    is_draft,
    is_log,
    is_own,
    lock_file,
    log_file,
)
from lengthwise.store.parts import Part
from lengthwise.store.protocol import Folder
from lengthwise.store.records import ShardRecord, log_lines, parse_log
from lengthwise.util.threads import parallel_map

PARALLEL_FILES = 16  # an object store takes its time to answer


def check_is_vector_folder(folder: Folder) -> None:
    """Raise a StoreError where something exists that is not a folder of vectors."""
    try:
        names = folder.list_files()
    except NotADirectoryError:
        names = ["a file"]
    unfinished = [name for name in names if name.startswith((LOCK, f".{IDENTITY}."))]
    if IDENTITY not in names and len(names) > len(unfinished):
        raise StoreError(f"{folder}: not empty, and not a folder of vectors; choose another encode.output")


def check_same_run(folder: Folder, identity: Mapping[str, Any]) -> None:
    """Raise a StoreError where the folder holds the vectors of another run."""
    found = read_identity(folder)
    if found is not None and identity_hash(found) != identity_hash(identity):
        has_other_rows = identity_hash({**found, "input": identity.get("input")}) == identity_hash(identity)
        hint = "; if the input has only gained rows, set encode.append to true" if has_other_rows else ""
        raise StoreError(
            f"{folder}: holds the vectors of another run ({describe_changes(found, identity)}); choose another"
            f" encode.output, or start over with --fresh if those vectors are no longer needed{hint}"
        )


def is_abandoned(folder: Folder, identity: Mapping[str, Any]) -> bool:
    """Whether the folder is another run's that ended, by a mistake in its settings or rows, with nothing committed."""
    found = read_identity(folder)
    if found is None or identity_hash(found) == identity_hash(identity):
        return False
    is_empty = not any(name == MANIFEST or name.startswith(f"{DATA}/") for name in folder.list_files())
    return is_empty and not read_records(folder)


@contextmanager
def lock_folder(folder: Folder, part: Part | None) -> Iterator[None]:
    """Hold the run's or the part's lock.

    Raises:
        StoreError: another process writes that this one may not write beside.
    """
    own = lock_file(part)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.lock(own))
        except BlockingIOError as error:
            raise _locked(folder, str(error)) from None
        for name in folder.list_files():
            is_sibling = part is not None and name.endswith(f"-of-{part.count:05d}")
            if name.startswith(LOCK) and name != own and not is_sibling and (holder := folder.lock_holder(name)):
                raise _locked(folder, holder)
        yield


def start_over(folder: Folder, part: Part | None) -> None:
    """Remove a run's files.

    Raises:
        StoreError: a part asks for it.
    """
    if part is not None:
        raise StoreError(
            f"{folder}: part {part.index} cannot start the folder over, since other parts write to it too; remove it"
        )
    # The manifest first, since it would list shards that are gone. The identity remains until another replaces it:
    # without one, the folder would not be recognised after a crash.
    for name in sorted(folder.list_files(), key=lambda name: name != MANIFEST):
        if name != IDENTITY and is_own(name):
            folder.remove(name)


def recover_records(folder: Folder, part: Part | None) -> dict[int, ShardRecord]:
    """The records of all logs, by shard; what a crash left half-written is removed.

    A whole run joins the logs of parts into one; a part rewrites its own only.
    """
    records = read_records(folder)
    if part is None:
        _clean_up(folder, records)
    elif folder.read(log_file(part)) is not None:
        own = [record for record in records.values() if part.owns(record.index)]
        folder.write(log_file(part), log_lines(own))  # without a line that a crash cut off
    return records


def _locked(folder: Folder, holder: str) -> StoreError:
    return StoreError(
        f"{folder}: {holder}, is writing to this folder; wait until it has ended, stop it, or choose another"
        " encode.output"
    )


def _clean_up(folder: Folder, records: dict[int, ShardRecord]) -> None:
    """Join the logs, and remove drafts and stale locks; only while no other process writes."""
    names = folder.list_files()
    # Rewritten also because a line appended to one that a crash cut off would be lost too.
    folder.write(RECORDS, log_lines(records.values()))
    for name in names:
        if is_draft(name) or (is_log(name) and name != RECORDS):
            folder.remove(name)

    def remove_lock(name: str) -> None:
        with suppress(BlockingIOError), folder.lock(name):  # releasing it removes it
            pass

    stale_locks = [name for name in names if name != LOCK and name.startswith(LOCK)]
    list(parallel_map(remove_lock, stale_locks, PARALLEL_FILES))  # since a lock at a URL takes seconds


def read_records(folder: Folder) -> dict[int, ShardRecord]:
    """The records of all logs, by shard; nothing is changed."""
    found: dict[int, list[ShardRecord]] = {}
    for name in folder.list_files():
        if is_log(name):
            for index, record in parse_log(folder.read(name) or b"").items():
                found.setdefault(index, []).append(record)
    return {index: _current_record(folder, records) for index, records in found.items()}


def _current_record(folder: Folder, records: list[ShardRecord]) -> ShardRecord:
    """Of a shard's records in several logs, which do not say which is newest, the one that matches its files."""
    if len(set(records)) > 1:
        for record in records:
            if all(folder.sha256(name) == sha256 for name, sha256 in record.checksums.items()):
                return record
    return records[-1]
