"""Opens the folder that a run's shards are committed to: on a local disk, or wherever fsspec writes to."""

from __future__ import annotations

import re
from pathlib import Path

from lengthwise.store.local import LocalFolder
from lengthwise.store.protocol import Folder
from lengthwise.store.remote import RemoteFolder


def open_folder(url: str | Path) -> Folder:
    """The folder at a local path, or at a URL such as `s3://bucket/vectors`.

    Raises:
        StoreError: no installed package supports the URL's protocol.
    """
    path = re.sub("^(file|local)://", "", str(url))  # fsspec's names for a local disk
    if "://" not in path:
        return LocalFolder(Path(path).expanduser())
    return RemoteFolder(str(url))
