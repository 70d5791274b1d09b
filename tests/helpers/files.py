"""The contents of a folder, and a full disk."""

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
    """Raise the error of any write to a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")
