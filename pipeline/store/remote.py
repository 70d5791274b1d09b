"""A run's folder at an fsspec URL: object stores such as `s3://` and `gs://`, and `memory://`.

Notable decisions:
- Object stores have neither renaming nor appending, but an object appears whole or not at all. So a file is written to
  a local draft and then put, and an appended line is an object of its own, until the lines are written as one file.
- They have no locks either. A lock is an object that is created only where there is none (where the store can do
  that), says who holds it, and is written again every half a minute; one that was not for two minutes, or whose process
  is known to be dead, is taken over. Whoever wrote it looks again a second later: of two that wrote it at the same
  moment, as some stores let them and as taking over does, the last one holds it. Clocks of machines that share a folder
  may differ by a minute.
- Credentials come from the environment or fsspec's own configuration, never from a run's YAML, which is saved beside
  the vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from lengthwise.errors import StoreError
from lengthwise.store.protocol import LOG_ENDING, describe_holder, holder_record

BEAT_SECONDS = 30.0
LEASE_SECONDS = 120.0
SETTLE_SECONDS = 1.0
_LINES = ".lines/"  # below it, a log's appended lines
_READ_BYTES = 2**22
_READ_TIMES = 5  # while another process writes the lines of its log as one file


class RemoteFolder:
    """A folder at a URL.

    Raises:
        StoreError: the URL's protocol is unknown, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._url = url.rstrip("/")
        try:
            self._fs, self._root = url_to_fs(self._url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{url}: cannot be opened ({error}); install the package for that protocol, or choose another"
                " encode.output"
            ) from error
        self._root = self._root.rstrip("/")
        self._leases: list[_Lease] = []
        self._appended = 0

    def __str__(self) -> str:
        return self._url

    def at(self, name: str) -> str:  # noqa: D102
        return f"{self._url}/{name}"

    def names(self) -> list[str]:  # noqa: D102
        with _as_os_errors():
            self._fs.invalidate_cache()
            if self._fs.isfile(self._root):
                raise NotADirectoryError(f"{self._url} is a file")
            found = self._fs.find(self._root) if self._fs.exists(self._root) else []
        names = (path.removeprefix(self._root).lstrip("/") for path in found)
        return sorted({name.partition(_LINES)[0] for name in names if name})

    def read(self, name: str) -> bytes | None:  # noqa: D102
        for _ in range(_READ_TIMES):
            with _as_os_errors():
                lines = self._lines(name)  # before the file that they may just be written to
                contents = self._read(self._path(name))
                appended = self._fs.cat_ranges(lines, None, None) if lines else []  # many at a time
                failures = [line for line in appended if isinstance(line, Exception)]
                for failure in failures:
                    if not isinstance(failure, FileNotFoundError):
                        raise failure
            if not failures:
                return None if contents is None and not lines else b"".join([contents or b"", *appended])
        raise OSError(f"{self.at(name)}: its lines are gone whenever they are read")

    def open(self, name: str) -> IO[bytes]:  # noqa: D102
        with _as_os_errors():
            return cast(IO[bytes], self._fs.open(self._path(name), "rb"))

    def sha256(self, name: str) -> str | None:  # noqa: D102
        digest = hashlib.sha256()
        with _as_os_errors(), contextlib.suppress(FileNotFoundError):
            with self._fs.open(self._path(name), "rb", block_size=_READ_BYTES) as file:
                while block := file.read(_READ_BYTES):
                    digest.update(block)
            return digest.hexdigest()
        return None

    def write(self, name: str, contents: bytes) -> None:  # noqa: D102
        with _as_os_errors():
            lines = self._lines(name)
            self._fs.pipe_file(self._path(name), contents)
            if lines:
                self._fs.rm(lines)

    def append(self, name: str, line: bytes) -> None:  # noqa: D102
        self._appended += 1
        order = f"{time.time_ns():020d}-{self._appended:06d}-{uuid.uuid4().hex[:8]}"
        with _as_os_errors():
            self._fs.pipe_file(f"{self._path(name)}{_LINES}{order}", line)

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Path]:  # noqa: D102
        with tempfile.TemporaryDirectory(prefix="lengthwise-") as scratch:
            part = Path(scratch) / Path(name).name
            yield part
            with _as_os_errors():
                self._fs.put_file(str(part), self._path(name))

    def remove(self, name: str) -> None:  # noqa: D102
        with _as_os_errors():
            for path in [self._path(name), *self._lines(name)]:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:  # noqa: D102
        lease = _Lease(self._fs, self._path(name))
        self._leases.append(lease)
        try:
            with _as_os_errors():
                lease.take()
            yield
        finally:
            self._leases.remove(lease)
            lease.give_back()

    def holder(self, name: str) -> str | None:  # noqa: D102
        with _as_os_errors():
            contents = self._read(self._path(name))
        return describe_holder(contents) if contents is not None and _is_alive(contents) else None

    def check_lock(self) -> None:  # noqa: D102
        with _as_os_errors():
            lost = any(lease.lost for lease in self._leases)
        if lost:
            raise OSError("another process took the lock over, since this one had not renewed it for too long")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _lines(self, name: str) -> list[str]:
        """The objects of a log's appended lines, in order; other files have none, and are not asked for any."""
        if "/" in name or not name.endswith(LOG_ENDING):
            return []
        self._fs.invalidate_cache()
        folder = (self._path(name) + _LINES).rstrip("/")
        return sorted(self._fs.find(folder)) if self._fs.isdir(folder) else []

    def _read(self, path: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return cast(bytes, self._fs.cat_file(path))
        return None


class _Lease:
    """A lock object that a thread renews."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path, self._token = fs, path, uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._since = holder_record()
        self._renewed, self._was_lost = time.time(), False

    @property
    def lost(self) -> bool:
        """Whether another process may hold it by now; the store is asked where it was not renewed for too long."""
        if not self._was_lost and time.time() - self._renewed > LEASE_SECONDS:
            self._was_lost = not self._is_mine()
        return self._was_lost

    def take(self) -> None:
        """Become the holder, or raise a BlockingIOError that describes who is."""
        for _ in range(3):
            # First, since there are stores that "create" what is there already.
            contents = self._read()
            if contents is not None:
                if _is_alive(contents):
                    raise BlockingIOError(describe_holder(contents))
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._path)
            if self._is_created():
                break
        time.sleep(SETTLE_SECONDS)
        if not self._is_mine():
            raise BlockingIOError(describe_holder(self._read()))
        self._thread.start()

    def _is_created(self) -> bool:
        self._renewed = time.time()
        try:
            self._fs.pipe_file(self._path, self._contents(), mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):  # the store has no such mode
            self._fs.pipe_file(self._path, self._contents())
        return True

    def give_back(self) -> None:
        """Stop to renew, and remove the object if it is still this lease's."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(Exception):
            if self._is_mine():
                self._fs.rm_file(self._path)

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the store cannot be reached: tried again
                if not self._is_mine():
                    self._was_lost = True
                    return
                now = time.time()
                self._fs.pipe_file(self._path, self._contents())
                self._renewed = now

    def _contents(self) -> bytes:
        record = {**self._since, "processes": _processes(), "token": self._token, "renewed": time.time()}
        return json.dumps(record).encode()

    def _is_mine(self) -> bool:
        contents = self._read()
        return contents is not None and self._token.encode() in contents

    def _read(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return cast(bytes, self._fs.cat_file(self._path))
        return None


def _is_alive(contents: bytes) -> bool:
    """Whether the holder that a lock object names may still be at work."""
    try:
        record = json.loads(contents)
        same_processes = (record["host"], record.get("processes")) == (platform.node(), _processes())
        if same_processes and not _process_exists(int(record["pid"])):
            return False
        return bool(time.time() - record["renewed"] < LEASE_SECONDS)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _processes() -> str:
    """Whose numbers of processes these are: containers may have their host's name, and numbers of their own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Clients of object stores have exceptions of their own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
