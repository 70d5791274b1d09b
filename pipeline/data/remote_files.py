"""Input files at fsspec URLs: which files there are, and the version of each.

- The version is the store's content hash, or else the modification time, so that a file is not downloaded to be
  fingerprinted; where the store reports neither, the file is read and hashed.
- Credentials come from the environment or fsspec's own configuration, never from a run's YAML, which is saved.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from lengthwise.data.files import is_visible

_CONTENT_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "blob_id")  # keys of fsspec's file info
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")
_READ_BYTES = 2**22


@dataclass(frozen=True)
class RemoteFiles:
    """The visible files at a URL.

    Attributes:
        fs: the fsspec file system.
        root: the URL's path in it.
        is_folder: whether the URL is a folder, rather than a file or a glob.
        infos: fsspec's info of each file, by its path; sorted.
    """

    fs: Any
    root: str
    is_folder: bool
    infos: dict[str, dict[str, Any]]

    def url(self, path: str) -> str:
        """The URL of a path."""
        return str(self.fs.unstrip_protocol(path))

    def version(self, path: str) -> str:
        """A string that changes with a file's contents."""
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
    """The files at a path: a file, a folder's files at any depth, or a glob's matches.

    Raises:
        Exception: of the store's client, e.g. OSError, if the store cannot be reached or denies access.
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
