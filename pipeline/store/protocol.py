"""The protocol of a folder that shards are committed to, on a local disk or at a URL.

A file exists in full or not at all, an appended line survives a crash, and a lock has one holder at a time and none
once its holder has died. `LocalFolder` and `RemoteFolder` describe how they ensure it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol, TypeVar

from lengthwise.errors import StoreError

_T = TypeVar("_T")


class Folder(Protocol):
    """Files by their names relative to the folder, with `/` between parts. Every failure is an OSError."""

    def location(self, name: str) -> str:
        """The path or URL of a file, for messages."""

    def list_files(self) -> list[str]:
        """All files, sorted, with drafts that a crash left and locks; empty where the folder does not exist."""

    def read(self, name: str) -> bytes | None:
        """A file's contents, of a log all its lines; None where it does not exist."""

    def open(self, name: str) -> IO[bytes]:
        """A file to read, seekable."""

    def sha256(self, name: str) -> str | None:
        """sha256 (hex) of a file's contents; None where it does not exist."""

    def write(self, name: str, contents: bytes) -> None:
        """Write or replace a small file, in full or not at all."""

    def append(self, name: str, line: bytes) -> None:
        """Append a line to a log, durably. A crash can cut off the last line only."""

    def draft(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to, which becomes the file when the block ends without an error."""

    def remove(self, name: str) -> None:
        """Remove a file, where it exists."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock of this name; BlockingIOError, with the holder's description, where another process does."""

    def lock_holder(self, name: str) -> str | None:
        """A description of the process that holds the lock of this name; None where it is free."""

    def check_lock(self) -> None:
        """Raise an OSError where a lock that this object holds was lost."""


@contextmanager
def wrap_os_errors(problem: str, remedy: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the problem, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{problem} ({error}); {remedy}") from error


def read_record(folder: Folder, name: str, parse: Callable[[bytes], _T], remedy: str) -> _T | None:
    """What a small file of a run's folder says; None where there is none.

    Args:
        parse: reads its contents, and raises a ValueError, KeyError, TypeError, AttributeError or RecursionError where
            they are damaged.
        remedy: for that error.

    Raises:
        StoreError: it is damaged, or cannot be read.
    """
    location = folder.location(name)
    with wrap_os_errors(f"{location}: cannot be read", "fix that, or choose another encode.output"):
        contents = folder.read(name)
    if contents is None:
        return None
    try:
        return parse(contents)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{location}: cannot be read ({type(error).__name__}: {error}); {remedy}") from error
