"""A run's folder on a local disk.

Files are written beside their place, flushed and renamed; each appended line is flushed. Locks are `flock`, which the
system releases when a process dies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from lengthwise.store.protocol import describe_holder, holder_record
from lengthwise.util.files import PARTIAL_SUFFIX, file_sha256, fsync_folder, replace_file

_DRAFT = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)}")  # as `replace_file` names them
log = logging.getLogger(__name__)


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


def is_draft(name: str) -> bool:
    """Whether a file is one that a crash left half-written."""
    return _DRAFT.fullmatch(name.rpartition("/")[2]) is not None
