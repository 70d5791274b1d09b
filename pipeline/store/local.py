"""A run's folder on a local disk.

Files are written beside their place, flushed and renamed; appended lines are flushed one by one. Locks are the
system's (`filelock`), which releases them when a process dies, however it dies: a stale lock file is no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from lengthwise.store.holder import describe_holder, holder_record
from lengthwise.util.files import file_sha256, fsync_folder, replace_file

log = logging.getLogger(__name__)


class LocalFolder:
    """A folder on a local disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def location(self, name: str) -> str:  # noqa: D102
        return str(self._path / name)

    def list_files(self) -> list[str]:  # noqa: D102
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
        with open(self._path / name, "ab", buffering=0) as file:  # a buffer would be written again on closing
            start, rest = file.tell(), memoryview(line)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # half a line would corrupt the next one
                raise
        if not start:
            fsync_folder(self._path)

    def draft(self, name: str) -> AbstractContextManager[Path]:  # noqa: D102
        return replace_file(self._path / name)

    def remove(self, name: str) -> None:  # noqa: D102
        (self._path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:  # noqa: D102
        path = self._path / name
        if not self._acquire(lock := _new_lock(path), name):
            yield
            return
        try:
            with contextlib.suppress(OSError):  # on a full disk the lock is held all the same
                path.write_text(json.dumps(holder_record()))
            yield
        finally:
            with contextlib.suppress(OSError):  # a file that remains is not locked
                self.remove(name)  # while the lock is held: afterwards it may be another holder's
            lock.release()

    def lock_holder(self, name: str) -> str | None:  # noqa: D102
        if not (self._path / name).exists():
            return None
        try:
            with self.lock(name):
                return None
        except BlockingIOError as error:
            return str(error)

    def check_lock(self) -> None:  # noqa: D102
        return

    def _acquire(self, lock: FileLock, name: str) -> bool:
        """Whether the lock is held now; False where the file system has no locks.

        Raises:
            BlockingIOError: another process holds it.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        (self._path / name).touch()  # so that a folder that cannot be written is not taken for one without locks
        try:
            lock.acquire()
        except Timeout:
            raise BlockingIOError(describe_holder(self.read(name))) from None
        except OSError as error:
            log.warning("%s: the file system has no locks (%s): do not let two runs write to it", self._path, error)
            return False
        return True


def _new_lock(path: Path) -> FileLock:
    # No fallback to a file whose existence is the lock: a process that is killed would leave it locked.
    return FileLock(path, blocking=False, fallback_to_soft=False, thread_local=False)
