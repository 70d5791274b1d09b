"""Atomic files and folders: after a crash or on a full disk, the new version exists in full or the old one is kept."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from lengthwise.errors import StoreError
from lengthwise.util.threads import BackgroundExecutor

PARTIAL_SUFFIX = ".part"  # of a file that is still being written


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashedFile:
    """A file that is written sequentially and hashed in a background thread at the same time."""

    def __init__(self, file: IO[bytes], background: BackgroundExecutor) -> None:
        self._file, self._background, self._digest = file, background, hashlib.sha256()

    @property
    def sha256(self) -> str:
        """sha256 (hex) of what was written; final once the block of `hashed_file` has ended."""
        return self._digest.hexdigest()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def write(self, block: bytes) -> int:
        """Append a block; returns its size in bytes."""
        written = self._file.write(block)
        self._background.submit(partial(self._digest.update, block))
        return written

    def flush(self) -> None:
        """Pass buffered data on to the operating system."""
        self._file.flush()


@contextlib.contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """Open a new file for writing; its sha256 is known at the end of the block, without reading it again.

    One block is hashed while the next one is made; no more than these two are in memory.
    """
    with open(path, "wb") as file, BackgroundExecutor() as background:
        yield HashedFile(file, background)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block ends without an error, the file is synced and renamed.

    Several processes may replace the same file concurrently; the last one to finish wins.

    Raises:
        OSError: it cannot be written; the previous file is unchanged.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        fsync_file(part)
        os.replace(part, path)
        fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, contents: bytes) -> None:
    """Write a small file atomically; missing parent folders are made.

    Raises:
        StoreError: it cannot be written; the previous file is unchanged.
    """
    try:
        with replace_file(path) as part:
            part.write_bytes(contents)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error}); fix that, or choose another path") from error


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a new, empty folder to write to; if the block ends without an error, it replaces `folder`.

    Raises:
        StoreError: it cannot be written; the previous folder is unchanged.
    """
    folder = Path(folder)
    if not folder.name:
        raise StoreError(f"{folder}: cannot be replaced as a whole; give a folder below it")
    part = folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")
    old = folder.with_name(f".{folder.name}.old")
    try:
        if old.exists() and not folder.exists():  # a crash came between the two renames of `_swap`
            os.replace(old, folder)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _swap(part, folder, old)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error}); fix that, or choose another folder") from error


def _swap(part: Path, folder: Path, old: Path) -> None:
    """Rename `part` to `folder`, by way of `old`, since a folder that has files cannot be renamed over."""
    _apply_umask(part)
    for path in part.rglob("*"):
        if path.is_file():
            fsync_file(path)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _apply_umask(folder: Path) -> None:
    """Give every file below a folder the permissions of a new file.

    Some libraries, such as safetensors, write a temporary file that only its owner can read, and rename it. A hard link
    becomes a copy first, since the permissions would change at its other places too.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
            if path.stat().st_nlink > 1:
                shutil.copyfile(path, probe)
                os.replace(probe, path)
            path.chmod(mode)


def fsync_file(path: Path) -> None:
    """Wait until a file's contents are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk, if its file system supports that; CIFS does not."""
    try:
        fsync_file(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
