"""What a folder of shards can do, wherever it is: the protocol that local and remote folders fulfil.

A file is there whole or not at all, an appended line survives a crash, and a lock has one holder at a time and none
once its holder is dead. `LocalFolder` and `RemoteFolder` say how they keep that.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

LOG_ENDING = ".jsonl"  # of the files, directly in the folder, that lines are appended to


class Folder(Protocol):
    """Files by their names relative to the folder, with `/` between parts. Whatever fails raises an OSError."""

    def at(self, name: str) -> str:
        """The place of a file, for messages."""

    def names(self) -> list[str]:
        """All files, sorted, drafts of a crash and locks included; empty where there is no folder yet."""

    def read(self, name: str) -> bytes | None:
        """A file's contents, None where it is not there; of one that lines are appended to, all lines."""

    def open(self, name: str) -> IO[bytes]:
        """A file to read in, at any position."""

    def sha256(self, name: str) -> str | None:
        """sha256 (hex) of a file's contents, None where it is not there."""

    def write(self, name: str, contents: bytes) -> None:
        """A small file, whole or not at all; it takes the place of the one before."""

    def append(self, name: str, line: bytes) -> None:
        """One more line of a log, on the disk when this returns. A crash can cut off the last line only."""

    def draft(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write a file to, which takes its place once the block ends without an error."""

    def remove(self, name: str) -> None:
        """No file of this name is there afterwards."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock of this name; BlockingIOError, with the holder's description, where another process does."""

    def holder(self, name: str) -> str | None:
        """Who holds the lock of this name; None where nobody does."""

    def check_lock(self) -> None:
        """Raise an OSError where a lock that this object holds was lost."""


def holder_record() -> dict[str, str | int]:
    """What a lock says of the process that holds it."""
    return {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def describe_holder(contents: bytes | None) -> str:
    """A holder's record in words."""
    try:
        record = json.loads(contents or b"")
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"
