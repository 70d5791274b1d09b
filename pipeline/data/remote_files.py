"""Files at fsspec's URLs, as an input: which there are, and what tells one version of them from another.

Notable decisions:
- They are fingerprinted by what the store says of their contents, or else of when they were written, so that they are
  not read twice; where it says no more than their size, they are read.
- Credentials come from the environment or fsspec's own configuration, never from a run's YAML, which is saved.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

_CONTENT_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "blob_id")  # of what fsspec tells of a file
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")
_READ_BYTES = 2**22


@dataclass(frozen=True)
class RemoteFiles:
    """The visible files at a URL.

    Attributes:
        fs: the file system.
        root: the URL's path there.
        is_folder: whether the URL is a folder, not a file or a glob.
        infos: what the file system knows of each file, by its path; sorted.
    """

    fs: Any
    root: str
    is_folder: bool
    infos: dict[str, dict[str, Any]]

    def url(self, path: str) -> str:
        """The URL of one of the files."""
        return str(self.fs.unstrip_protocol(path))

    def path(self, url: str) -> str:
        """The path of a file that is given by its URL."""
        return str(self.fs._strip_protocol(url))

    def version(self, path: str) -> str:
        """What tells a file's contents from others."""
        info = self.infos[path]
        known = [info[key] for key in _CONTENT_KEYS if info.get(key)]
        known = known or [info[key] for key in _TIME_KEYS if info.get(key)]
        return f"{info.get('size')} {known or self._sha256(path)}"

    def _sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self.fs.open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
        return digest.hexdigest()


def find_remote_files(fs: Any, root: str) -> RemoteFiles:
    """What there is at a path: a file, a folder's files at any depth, or those that a glob names.

    Raises:
        OSError, or whatever the store's client raises: it could not be asked, or does not let one in.
    """
    fs.invalidate_cache()
    try:
        kind = fs.info(root)["type"]
    except FileNotFoundError:
        kind = "glob"
    if kind == "file":
        return RemoteFiles(fs, root, False, {root: fs.info(root)})
    if kind == "directory":
        below = fs.find(root, detail=True).items()
        return RemoteFiles(fs, root, True, {name: info for name, info in sorted(below) if is_visible(name, root)})
    found = fs.glob(root, detail=True).items()
    return RemoteFiles(fs, root, False, {name: info for name, info in sorted(found) if info["type"] == "file"})


def is_visible(file: str, folder: str) -> bool:
    """Whether neither a file below a folder nor a folder between them is hidden or kept by a writer for itself."""
    return not any(part.startswith((".", "_")) for part in PurePosixPath(file).relative_to(folder).parts)
