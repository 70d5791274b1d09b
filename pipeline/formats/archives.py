"""Archives as sources: a zip, a wheel or a tar file is unpacked into a temporary folder.

What an archive says of its own files is not trusted: a path that leads out of the folder, a link, a device, and more
bytes than a model has are refused before anything is written.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from lengthwise.errors import CheckpointError

_ZIPS = (".zip", ".whl")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_BYTES, _MAX_FILES = 32 * 2**30, 20_000
_BLOCK = 2**20
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def is_archive(path: Path) -> bool:
    """Whether a file is an archive of several files, by its name; a .tar may also be weights (net.pth.tar)."""
    name = path.name.lower()
    return (
        path.is_file() and name.endswith((*_ZIPS, *_TARS)) and (not name.endswith(".tar") or tarfile.is_tarfile(path))
    )


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with an archive's files; it is removed at the end.

    Raises:
        CheckpointError: the archive is damaged, or holds what no model does.
    """
    with tempfile.TemporaryDirectory(prefix="lengthwise-import-") as name:
        folder = Path(name).resolve()
        try:
            if path.name.lower().endswith(_ZIPS):
                _unpack_zip(path, folder)
            else:
                _unpack_tar(path, folder)
        except _DAMAGE as error:
            raise CheckpointError(f"{path}: the archive cannot be unpacked ({error}); get it again") from error
        yield folder


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        _check_size(path, len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise CheckpointError(
                    f"{path}: holds the link {entry.filename!r}; unpack it yourself, and give the folder"
                )
        targets = [(entry, _target(path, folder, entry.filename)) for entry in entries]
        for entry, target in targets:
            if not entry.is_dir():
                with archive.open(entry) as file:
                    _write(path, file, target, entry.file_size)


def _unpack_tar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        entries: list[tarfile.TarInfo] = []
        size = 0
        for entry in archive:
            entries.append(entry)
            size += entry.size
            _check_size(path, len(entries), size)
            if not entry.isfile() and not entry.isdir():
                raise CheckpointError(
                    f"{path}: {entry.name!r} is a link or a device; unpack it yourself, and give the folder"
                )
        targets = [(entry, _target(path, folder, entry.name)) for entry in entries]
        for entry, target in targets:
            file = archive.extractfile(entry) if entry.isfile() else None
            if file is not None:
                with file:
                    _write(path, file, target, entry.size)


def _check_size(path: Path, files: int, size: int) -> None:
    if size > _MAX_BYTES or files > _MAX_FILES:
        raise CheckpointError(
            f"{path}: would become {files:,} files of {size / 2**30:.1f} GiB; unpack what is needed, and give the"
            " folder"
        )


def _target(path: Path, folder: Path, name: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    target = folder.joinpath(*parts)
    if not parts or ".." in parts or ":" in parts[0] or not target.is_relative_to(folder):
        raise CheckpointError(f"{path}: the path {name!r} leads out of the archive; do not trust it")
    return target


def _write(path: Path, source: IO[bytes], target: Path, size: int) -> None:
    """Copy a file, at most as many bytes as the archive says it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        shutil.copyfileobj(_Limited(source, size, path), file, _BLOCK)


class _Limited:
    """A file that refuses to be longer than the archive says."""

    def __init__(self, source: IO[bytes], size: int, path: Path) -> None:
        self._source, self._left, self._path = source, size, path

    def read(self, count: int = -1, /) -> bytes:
        block = self._source.read(count)
        self._left -= len(block)
        if self._left < 0:
            raise CheckpointError(f"{self._path}: a file in it is larger than the archive says; do not trust it")
        return block
