"""Data files: local or at a URL, compressed or not, or members of a zip archive.

- A compression is recognized by the file's first bytes, so that a wrong extension does no harm.
- A zip archive is read as the data files in it, in the order of their names. Archives of other kinds are not read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import IO, Any

from lengthwise.config import DatasetSettings
from lengthwise.errors import DatasetError
from lengthwise.util.model_paths import LFS_POINTER, LFS_REMEDY

_FORMATS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
FORMATS = tuple(sorted(set(_FORMATS.values())))
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_OTHER_ARCHIVES = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".7z", ".rar", ".cab", ".z")
_OFFICE = (".xlsx", ".xls", ".ods", ".docx")
_MAGIC_BYTES = 512
_TAR_MAGIC = 257, b"ustar"
_DOCUMENTS = {b"%PDF-": "a PDF document", b"{\\rtf": "a document in rich text format"}
_WEB_PAGE = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class DataFile:
    """A file of rows.

    Attributes:
        path: a local path or a URL.
        member: its name in the zip archive at `path`; None for a file that is none.
    """

    path: str
    member: str | None = None

    @property
    def name(self) -> str:
        """What its format follows from."""
        return self.member or self.path

    def __str__(self) -> str:
        base = PurePosixPath(self.path).name
        return base if self.member is None else f"{base}/{self.member}"


def file_extension(file: object) -> str:
    """A file's extension in lower case, without that of a compression."""
    path = PurePosixPath(str(file))
    while path.suffix.lower() in _COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def file_format(file: object) -> str | None:
    """The format that a file's extension names: parquet, json, csv, text or arrow; None for any other extension."""
    return _FORMATS.get(file_extension(file))


def open_file(path: str) -> IO[bytes]:
    """Open a local path or a URL."""
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    file: IO[bytes] = fsspec.open(path, "rb").open()
    return file


@contextmanager
def open_data_file(file: DataFile) -> Iterator[IO[bytes]]:
    """Open a data file, decompressed.

    Raises:
        DatasetError: it is an archive.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(open_file(file.path))
        if file.member is not None:
            raw = stack.enter_context(stack.enter_context(zipfile.ZipFile(raw)).open(file.member))
        if not raw.seekable():  # some servers give a file from its beginning only
            raw = io.BytesIO(raw.read())
        yield _decompress(raw, file)


def _decompress(raw: IO[bytes], file: DataFile) -> IO[bytes]:
    """The decompressed file, if its first bytes are those of a compression.

    Raises:
        DatasetError: it holds no rows, by its first bytes, or by those of what it decompresses to.
    """
    start = raw.read(_MAGIC_BYTES)
    raw.seek(0)
    if (decompress := _decompressor(start)) is not None:
        raw = opened = io.BufferedReader(decompress(raw))
        start = opened.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
        if _decompressor(start) is not None:
            raise DatasetError(f"{file.path}: {file} is compressed twice; decompress it once")
    if (found := _describe_start(start, file)) is not None:
        raise DatasetError(f"{file.path}: {file} is {found}")
    return raw


def _decompressor(start: bytes) -> Callable[[IO[bytes]], Any] | None:
    return next((decompress for magic, decompress in _DECOMPRESS.items() if start.startswith(magic)), None)


def _describe_start(start: bytes, file: DataFile) -> str | None:
    """What a file is that cannot be one of rows, by its first bytes, and the remedy."""
    if start.startswith(b"PK\x03\x04"):
        return (
            "a zip archive or an office document by its first bytes; give it the extension .zip if it holds data files,"
            " or save the document as CSV"
        )
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        return "an office document by its first bytes; save it as CSV"
    if start.startswith(LFS_POINTER):
        return LFS_REMEDY
    if start[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1]):
        return "a tar archive by its first bytes; unpack it, or pack the files as .zip"
    for magic, kind in _DOCUMENTS.items():
        if start.startswith(magic):
            return f"{kind} by its first bytes; save its text in a text file"
    if start.lstrip().lower().startswith(_WEB_PAGE) and file_format(file.name) not in (None, "text"):
        return "a web page by its first bytes, perhaps the message of a failed download; download the file again"
    return None


def _decompress_bz2(raw: IO[bytes]) -> IO[bytes]:
    return bz2.BZ2File(raw)


def _decompress_zstd(raw: IO[bytes]) -> IO[bytes]:
    import pyarrow as pa

    stream: IO[bytes] = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
    return stream


_DECOMPRESS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    **{b"BZh%d1AY&SY" % level: _decompress_bz2 for level in range(1, 10)},
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _decompress_zstd,
    **{bytes([first]) + b"\x2a\x4d\x18": _decompress_zstd for first in range(0x50, 0x60)},  # frames that are skipped
}


def expand_archives(paths: Sequence[str], settings: DatasetSettings) -> list[DataFile]:
    """The data files at the paths, in order; of a zip archive, its members in the order of their names.

    Raises:
        DatasetError: an archive is damaged or encrypted.
    """
    files: list[DataFile] = []
    for path in paths:
        files += _zip_members(path, settings) if file_extension(path) == ".zip" else [DataFile(path)]
    return files


def describe_archives(paths: Sequence[str]) -> str | None:
    """What is wrong with the archives among paths that give no data file; None if there are none."""
    for path in paths:
        name, extension = PurePosixPath(path).name, file_extension(path)
        if extension in _OFFICE:
            return f"{name} is an office document; save it as CSV"
        if extension in _OTHER_ARCHIVES:
            return (
                f"{name} is an archive of a kind that is not read ({extension}); unpack it, or pack the files as .zip"
            )
        if extension == ".zip":
            members = _list_zip(path)
            found = f"its members are {', '.join(map(repr, members[:5]))}" if members else "it is empty"
            if any(file_format(member) is not None and not is_visible(member) for member in members):
                found += "; those with a name that begins with . or _ are not read"
            return f"the zip archive {name} holds no file of a known format ({found})"
    return None


def _zip_members(path: str, settings: DatasetSettings) -> list[DataFile]:
    names = [name for name in _list_zip(path) if is_visible(name)]
    chosen = [name for name in names if file_format(name) is not None]
    if settings.format is not None:
        chosen = [name for name in chosen if file_format(name) == settings.format] or names
    return [DataFile(path, name) for name in chosen]


def _list_zip(path: str) -> list[str]:
    """The names of an archive's files, sorted.

    Raises:
        DatasetError: the archive is damaged or encrypted, or has a name that no archive should have.
    """
    try:
        with open_file(path) as raw, zipfile.ZipFile(raw) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{path}: the zip archive cannot be read ({error}); pack it again") from error
    if encrypted := [info.filename for info in infos if info.flag_bits & 1]:
        raise DatasetError(f"{path}: the member {encrypted[0]!r} is encrypted; unpack the archive with its password")
    names = sorted(info.filename for info in infos)
    if outside := next((name for name in names if ".." in PurePosixPath(name).parts), None):
        raise DatasetError(f"{path}: the member {outside!r} has a path out of the archive; pack the archive again")
    if twice := next((name for name, following in pairwise(names) if name == following and is_visible(name)), None):
        raise DatasetError(f"{path}: two members are named {twice!r}; pack the archive again, with one file per name")
    return names


def is_visible(file: str, folder: str | None = None) -> bool:
    """Whether no part of a path begins with "." or "_", as those of hidden and temporary files and of __MACOSX do.

    Args:
        folder: only the parts below it count; all of them where it is left out.
    """
    path = PurePosixPath(file)
    return not any(part.startswith((".", "_")) for part in (path if folder is None else path.relative_to(folder)).parts)
