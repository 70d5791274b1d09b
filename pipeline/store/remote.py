"""A run's folder at an fsspec URL: object stores such as `s3://` and `gs://`, and `memory://`.

Notable decisions:
- Object stores can neither rename nor append, but an object appears in full or not at all. So a file is written to a
  local draft and then uploaded, and an appended line is an object of its own until the lines are written as one file.
- Locks are leases (`lengthwise.store.lease`).
- Credentials come from the environment or fsspec's own configuration, never from a run's YAML, which is saved beside
  the vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from lengthwise.errors import StoreError
from lengthwise.store.holder import describe_holder
from lengthwise.store.layout import LOG_SUFFIX
from lengthwise.store.lease import Lease, is_held

_LINES = ".lines/"  # below it, a log's appended lines
_READ_BYTES = 2**22
_READ_ATTEMPTS = 5  # another process may be rewriting the lines of its log as one file


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
        self._leases: list[Lease] = []
        self._appended = 0

    def __str__(self) -> str:
        return self._url

    def location(self, name: str) -> str:  # noqa: D102
        return f"{self._url}/{name}"

    def list_files(self) -> list[str]:  # noqa: D102
        with _convert_errors():
            self._fs.invalidate_cache()
            if self._fs.isfile(self._root):
                raise NotADirectoryError(f"{self._url} is a file")
            found = self._fs.find(self._root) if self._fs.exists(self._root) else []
        names = (path.removeprefix(self._root).lstrip("/") for path in found)
        return sorted({name.partition(_LINES)[0] for name in names if name})

    def read(self, name: str) -> bytes | None:  # noqa: D102
        for _ in range(_READ_ATTEMPTS):
            with _convert_errors():
                lines = self._list_lines(name)  # before the file that they may be moved to meanwhile
                contents = self._read(self._path(name))
                appended = self._fs.cat_ranges(lines, None, None) if lines else []  # many at a time
                failures = [line for line in appended if isinstance(line, Exception)]
                for failure in failures:
                    if not isinstance(failure, FileNotFoundError):
                        raise failure
            if not failures:
                return None if contents is None and not lines else b"".join([contents or b"", *appended])
        raise OSError(f"{self.location(name)}: its lines disappeared during each of {_READ_ATTEMPTS} attempts to read")

    def open(self, name: str) -> IO[bytes]:  # noqa: D102
        with _convert_errors():
            return cast(IO[bytes], self._fs.open(self._path(name), "rb"))

    def sha256(self, name: str) -> str | None:  # noqa: D102
        digest = hashlib.sha256()
        with _convert_errors(), contextlib.suppress(FileNotFoundError):
            with self._fs.open(self._path(name), "rb", block_size=_READ_BYTES) as file:
                while block := file.read(_READ_BYTES):
                    digest.update(block)
            return digest.hexdigest()
        return None

    def write(self, name: str, contents: bytes) -> None:  # noqa: D102
        with _convert_errors():
            lines = self._list_lines(name)
            self._fs.pipe_file(self._path(name), contents)
            if lines:
                self._fs.rm(lines)

    def append(self, name: str, line: bytes) -> None:  # noqa: D102
        self._appended += 1
        order = f"{time.time_ns():020d}-{self._appended:06d}-{uuid.uuid4().hex[:8]}"
        with _convert_errors():
            self._fs.pipe_file(f"{self._path(name)}{_LINES}{order}", line)

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Path]:  # noqa: D102
        with tempfile.TemporaryDirectory(prefix="lengthwise-") as scratch:
            part = Path(scratch) / Path(name).name
            yield part
            with _convert_errors():
                self._fs.put_file(str(part), self._path(name))

    def remove(self, name: str) -> None:  # noqa: D102
        with _convert_errors():
            for path in [self._path(name), *self._list_lines(name)]:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:  # noqa: D102
        lease = Lease(self._fs, self._path(name))
        self._leases.append(lease)
        try:
            with _convert_errors():
                lease.acquire()
            yield
        finally:
            self._leases.remove(lease)
            lease.release()

    def lock_holder(self, name: str) -> str | None:  # noqa: D102
        with _convert_errors():
            contents = self._read(self._path(name))
        return describe_holder(contents) if contents is not None and is_held(contents) else None

    def check_lock(self) -> None:  # noqa: D102
        with _convert_errors():
            is_lost = any(lease.is_lost for lease in self._leases)
        if is_lost:
            raise OSError("another process took over the lock, because this one had not renewed it for too long")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _list_lines(self, name: str) -> list[str]:
        """The objects of a log's appended lines, in order; no request is made for other files, which have none."""
        if "/" in name or not name.endswith(LOG_SUFFIX):
            return []
        self._fs.invalidate_cache()
        folder = (self._path(name) + _LINES).rstrip("/")
        return sorted(self._fs.find(folder)) if self._fs.isdir(folder) else []

    def _read(self, path: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return cast(bytes, self._fs.cat_file(path))
        return None


@contextlib.contextmanager
def _convert_errors() -> Iterator[None]:
    """Turn the exceptions of object store clients into OSErrors."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
