"""The folder that a run's shards are committed to: on a disk, or anywhere fsspec writes to.

What a `Folder` promises is what the store stands on: a file is there whole or not at all, a line that was appended is
there after a crash, and a lock has one holder at a time and none once its holder is dead. How that is kept:

- on a disk by writing beside the place, flushing and renaming; by flushing each appended line; and by `flock`, which
  the system takes from a process that dies, however it dies, so that a stale lock is no lock;
- elsewhere by `lengthwise.store.remote`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from lengthwise.util.files import PARTIAL_SUFFIX, file_sha256, fsync_folder, replace_file

LOG_ENDING = ".jsonl"  # of the files, directly in the folder, that lines are appended to
_DRAFT = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)}")  # as `replace_file` names them
log = logging.getLogger(__name__)


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


def open_folder(url: str | Path) -> Folder:
    """A path is a folder on the disk; `s3://...` and the like are one of fsspec's.

    Raises:
        StoreError: no installed package knows the URL's protocol.
    """
    path = re.sub("^(file|local)://", "", str(url))  # fsspec's words for a disk
    if "://" not in path:
        return LocalFolder(Path(path).expanduser())
    from lengthwise.store.remote import RemoteFolder

    return RemoteFolder(str(url))


class LocalFolder:
    """A folder on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def at(self, name: str) -> str:  # noqa: D102
        return str(self._path / name)

    def names(self) -> list[str]:  # noqa: D102
        if self._path.exists() and not self._path.is_dir():
            raise NotADirectoryError(f"{self._path} is a file")
        return sorted(path.relative_to(self._path).as_posix() for path in self._path.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes | None:  # noqa: D102
        with contextlib.suppress(FileNotFoundError):
            return (self._path / name).read_bytes()
        return None

    def open(self, name: str) -> IO[bytes]:  # noqa: D102
        return open(self._path / name, "rb")

    def sha256(self, name: str) -> str | None:  # noqa: D102
        with contextlib.suppress(FileNotFoundError):
            return file_sha256(self._path / name)
        return None

    def write(self, name: str, contents: bytes) -> None:  # noqa: D102
        with replace_file(self._path / name) as part:
            part.write_bytes(contents)

    def append(self, name: str, line: bytes) -> None:  # noqa: D102
        self._path.mkdir(parents=True, exist_ok=True)
        with open(self._path / name, "ab", buffering=0) as file:  # a buffer would be written again as it is closed
            start, rest = file.tell(), memoryview(line)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # half a line would spoil the next one
                raise
        if not start:
            fsync_folder(self._path)

    def draft(self, name: str) -> AbstractContextManager[Path]:  # noqa: D102
        return replace_file(self._path / name)

    def remove(self, name: str) -> None:  # noqa: D102
        (self._path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:  # noqa: D102
        descriptor = _locked_file(self._path / name)
        try:
            if descriptor is not None:
                with contextlib.suppress(OSError):  # on a full disk the lock is held all the same
                    os.truncate(descriptor, 0)
                    os.write(descriptor, json.dumps(holder_record()).encode())
            yield
        finally:
            if descriptor is not None:
                with contextlib.suppress(OSError):  # a file that stays is locked by nobody
                    self.remove(name)  # while it is held, so that nobody else's is removed
                os.close(descriptor)

    def holder(self, name: str) -> str | None:  # noqa: D102
        try:
            import fcntl

            with open(self._path / name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return describe_holder(self.read(name))
        except (ImportError, OSError):
            return None
        return None

    def check_lock(self) -> None:  # noqa: D102
        return


def _locked_file(path: Path) -> int | None:
    """A descriptor that holds an exclusive lock on the file of this name; None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        log.warning("this system has no file locks: do not let two runs write to %s", path.parent)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            contents = None
            with contextlib.suppress(FileNotFoundError):
                contents = path.read_bytes()
            raise BlockingIOError(describe_holder(contents)) from None
        except OSError as error:
            os.close(descriptor)
            log.warning("%s: the file system gives no locks (%s): do not let two runs write to it", path.parent, error)
            return None
        os.close(descriptor)  # its last holder has just removed it


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


def is_draft(name: str) -> bool:
    """Whether a file is one that a crash left half-written."""
    return _DRAFT.fullmatch(name.rpartition("/")[2]) is not None
