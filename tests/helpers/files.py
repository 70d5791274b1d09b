"""What is in a folder, and a disk that is full."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def raise_disk_full(*_: Any, **__: Any) -> None:
    """What any write says once the disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")
