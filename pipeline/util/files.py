"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from lengthwise.errors import StoreError
from lengthwise.util.threads import BackgroundExecutor

PART = ".part"  # the ending of what is not whole yet


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashedFile:
    """A file that is written from its beginning to its end, and hashed in another thread meanwhile."""

    def __init__(self, file: IO[bytes], behind: BackgroundExecutor) -> None:
        self._file, self._behind, self._digest = file, behind, hashlib.sha256()

    @property
    def sha256(self) -> str:
        """sha256 (hex) of what was written, once the block of `hashed_file` has ended."""
        return self._digest.hexdigest()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._file.closed

    def write(self, block: bytes) -> int:
        """Write what stands next."""
        written = self._file.write(block)
        self._behind.submit(partial(self._digest.update, block))
        return written

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()


@contextlib.contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """A new file whose sha256 is known when the block ends, without reading it again.

    One block is hashed while the next one is made; more than these two are never in memory.
    """
    with open(path, "wb") as file, BackgroundExecutor() as behind:
        yield HashedFile(file, behind)


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; the file takes its place, flushed, once the block ends without an error.

    Several processes may draft the same file at a time; the last one to end stays.

    Raises:
        OSError: it cannot be written; the file before is still there.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        flush(part)
        os.replace(part, path)
        flush_names(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, contents: bytes) -> None:
    """Write a small file whole or not at all, and the folders above it where they are missing."""
    try:
        with drafted(path) as part:
            part.write_bytes(contents)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error}); mend that, or choose another place") from error


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """A new, empty folder to write to, which takes the place of `folder` once the block ends without an error."""
    folder = Path(folder)
    if not folder.name:
        raise StoreError(f"{folder}: cannot be replaced as a whole; give a folder below it")
    part = folder.with_name(f".{folder.name}.part")
    old = folder.with_name(f".{folder.name}.old")
    try:
        if old.exists() and not folder.exists():  # a crash came between the two renames below
            os.replace(old, folder)
        for left_over in (part, old):
            shutil.rmtree(left_over, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        for path in part.rglob("*"):
            if path.is_file():
                flush(path)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error}); mend that, or choose another folder") from error


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_names(folder: Path) -> None:
    """Wait until a folder's list of files is on the disk, where its file system lets one wait; CIFS does not."""
    try:
        flush(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the file system gives none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
