"""Opens the folder that a run's shards are committed to: on a local disk, or anywhere fsspec writes to."""

from __future__ import annotations

import re
from pathlib import Path

from lengthwise.store.local import LocalFolder
from lengthwise.store.protocol import Folder
from lengthwise.store.remote import RemoteFolder


def open_folder(url: str | Path) -> Folder:
    """A path is a folder on the disk; `s3://...` and the like are one of fsspec's.

    Raises:
        StoreError: no installed package knows the URL's protocol.
    """
    path = re.sub("^(file|local)://", "", str(url))  # fsspec's words for a disk
    if "://" not in path:
        return LocalFolder(Path(path).expanduser())
    return RemoteFolder(str(url))
