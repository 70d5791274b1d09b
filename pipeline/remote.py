"""A run's folder at an fsspec URL: object stores such as `s3://` and `gs://`, and `memory://`.

Notable decisions:
- Object stores have neither renaming nor appending, but an object appears whole or not at all. So a file is written to
  a local draft and then put, and an appended line is an object of its own, until the lines are written as one file.
- They have no locks either. A lock is an object that is created only where there is none (where the store can do
  that), says who holds it, and is written again every half a minute; one that was not for two minutes, or whose process
  is known to be dead, is taken over. Clocks of machines that share a folder may differ by a minute.
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

from pipeline.errors import StoreError
from pipeline.folder import LOG_ENDING, describe_holder, holder_record

BEAT_SECONDS = 30.0
LEASE_SECONDS = 120.0
_LINES = ".lines/"  # below it, a log's appended lines
_READ_BYTES = 2**22


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
        with _as_os_errors():
            contents, lines = self._read(self._path(name)), self._lines(name)
            appended = self._fs.cat(lines) if lines else {}  # many at a time
        if contents is None and not appended:
            return None
        return b"".join([contents or b"", *(appended[path] for path in sorted(appended))])

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
        with _as_os_errors():
            lease.take()
        self._leases.append(lease)
        try:
            yield
        finally:
            self._leases.remove(lease)
            lease.give_back()

    def holder(self, name: str) -> str | None:  # noqa: D102
        with _as_os_errors():
            contents = self._read(self._path(name))
        return describe_holder(contents) if contents is not None and _is_alive(contents) else None

    def check_lock(self) -> None:  # noqa: D102
        if any(lease.lost for lease in self._leases):
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
        self.lost = False

    def take(self) -> None:
        """Become the holder, or raise a BlockingIOError that describes who is."""
        for _ in range(2):
            try:
                self._create()
                break
            except FileExistsError:
                contents = self._fs.cat_file(self._path)
                if _is_alive(contents):
                    raise BlockingIOError(describe_holder(contents)) from None
                self._fs.rm_file(self._path)
        else:
            raise BlockingIOError("another process")
        self._thread.start()

    def _create(self) -> None:
        try:
            self._fs.pipe_file(self._path, self._contents(), mode="create")
        except (NotImplementedError, TypeError, ValueError):  # a store that cannot; two at the same moment get through
            if self._fs.exists(self._path):
                raise FileExistsError(self._path) from None
            self._fs.pipe_file(self._path, self._contents())

    def give_back(self) -> None:
        """Stop to renew, and remove the object if it is still this lease's."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            if self._is_mine():
                self._fs.rm_file(self._path)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if not self._is_mine():
                    self.lost = True
                    return
                self._fs.pipe_file(self._path, self._contents())
                renewed = time.monotonic()
            except Exception:  # the store cannot be reached: tried again, for as long as the lock is ours
                if time.monotonic() - renewed > LEASE_SECONDS:
                    self.lost = True
                    return

    def _contents(self) -> bytes:
        return json.dumps({**self._since, "token": self._token, "renewed": time.time()}).encode()

    def _is_mine(self) -> bool:
        try:
            return bool(json.loads(self._fs.cat_file(self._path)).get("token") == self._token)
        except FileNotFoundError:
            return False


def _is_alive(contents: bytes) -> bool:
    """Whether the holder that a lock object names may still be at work."""
    try:
        record = json.loads(contents)
        if record["host"] == platform.node() and not _process_exists(int(record["pid"])):
            return False
        return bool(time.time() - record["renewed"] < LEASE_SECONDS)
    except (ValueError, KeyError, TypeError):
        return False


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
