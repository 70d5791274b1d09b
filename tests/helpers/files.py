"""The contents of a folder, its permissions, and a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UMASKS = (0o022, 0o027, 0o077)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the process's umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def other_modes(folder: Path, mask: int) -> dict[str, str]:
    """Permissions, by path, of a folder and all below it that are not those of a new file or folder under a umask."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o777 if path.is_dir() else 0o666) & ~mask:
            found[path.relative_to(folder).as_posix()] = oct(mode)
    return found


def raise_disk_full(*_: Any, **__: Any) -> None:
    """Raise the error of any write to a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")
