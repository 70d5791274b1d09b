"""Writes `changes/` beside a run's vectors: what a database that holds the older ones has to add, replace and delete.

Notable decisions:
- It is the comparison of `lengthwise diff` with the first folder of `encode.reuse`, once the run's own is complete.
- `summary.json`, which is written last, has the fingerprints of both folders. Where it is missing, or has others, the
  same command writes the changes again.
- What would be refused at the end is refused at the beginning, as far as no row has to be read for it.
"""

from __future__ import annotations

from lengthwise.config import RunConfig
from lengthwise.data.dataset import Source
from lengthwise.run.diff import FolderDiff, check_key, diff_folders
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import ADDED, CHANGED, CHANGES, REMOVED
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import wrap_os_errors


def check_changes(config: RunConfig, source: Source) -> None:
    """Raise what would keep a run with a key from writing its changes, before anything is encoded.

    Raises:
        StoreError: the first folder of `encode.reuse` is missing, incomplete or damaged.
        ConfigError: it has not kept the key, or the key is of another type there.
    """
    if (compared := _compared(config)) is not None:
        import datasets

        old, key = compared
        kept = datasets.Features({name: source.features[name] for name in config.dataset.keep_columns})
        check_key(old, key, kept.arrow_schema, config.dataset.path)


def write_changes(config: RunConfig) -> None:
    """Write the changes of a complete run with a key, unless they are there; without one, nothing happens.

    Raises:
        StoreError: a folder is missing, incomplete or damaged, or the changes cannot be written.
        ConfigError: keys are null or not distinct.
    """
    output = config.encode.output
    if (compared := _compared(config)) is not None and not _is_written(output, *compared):
        old, key = compared
        diff_folders(old, output, key, f"{output}/{CHANGES}")


def summarize_changes(config: RunConfig) -> str:
    """How much has changed, as a complete run with a key has written it; empty where it has none.

    Raises:
        StoreError: it cannot be read.
    """
    compared, output = _compared(config), config.encode.output
    found = None if compared is None else _read(output)
    if compared is None or found is None:
        return ""
    return (
        f"{output}/{CHANGES}: {found.added:,} rows added, {found.changed:,} changed, {found.removed:,} removed since"
        f" {compared[0]}"
    )


def _compared(config: RunConfig) -> tuple[str, str] | None:
    """The folder that the run's own is compared with, and the key; None where there are no changes to write."""
    if config.dataset.key is None or not config.encode.reuse:
        return None
    return config.encode.reuse[0], config.dataset.key


def _read(output: str) -> FolderDiff | None:
    changes = open_folder(f"{output}/{CHANGES}")
    with wrap_os_errors(f"{changes}: cannot be read", "fix that; the same command goes on from there"):
        return FolderDiff.read(changes) if {ADDED, CHANGED, REMOVED} <= set(changes.list_files()) else None


def _is_written(output: str, old: str, key: str) -> bool:
    """Whether `changes/` has what is to be written."""
    found, folders = _read(output), [PreviousFolder.open(old), PreviousFolder.open(output)]
    if found is None or found.key != key:
        return False
    return [found.old, found.new] == [folder and folder.fingerprint for folder in folders]
